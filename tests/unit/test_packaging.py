"""What is published, and what it asks of whoever installs it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUBS = ROOT / "sdk/python/src/penstock/api"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def floors() -> dict[str, str]:
    """Read the least version of each dependency of the SDK."""
    found = (re.fullmatch(r"([a-z]+)>=([\d.]+)(?:,<\d+)?", each) for each in PROJECT["dependencies"])
    return {match[1]: match[2] for match in found if match}


def test_the_sdk_asks_for_grpcio_protobuf_and_numpy_alone() -> None:
    assert set(floors()) == {"grpcio", "protobuf", "numpy"}
    assert len(PROJECT["dependencies"]) == 3


def test_the_stubs_work_with_the_least_versions_that_the_sdk_promises() -> None:
    stubs = [path.read_text() for path in STUBS.rglob("*_pb2*.py")]
    grpcio = {match for text in stubs for match in re.findall(r"GRPC_GENERATED_VERSION = '([\d.]+)'", text)}
    runtime = re.compile(r"ValidateProtobufRuntimeVersion\(\s*_runtime_version\.Domain\.PUBLIC,\s*(\d+),\s*(\d+),")
    protobuf = {".".join(match) for text in stubs for match in runtime.findall(text)}
    assert grpcio == {floors()["grpcio"]}
    assert protobuf == {floors()["protobuf"]}


def test_the_wheel_holds_the_sdk_and_nothing_else(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=240)
    (wheel,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    assert {name.partition("/")[0] for name in names} == {
        "penstock",
        f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info",
    }
    assert "penstock/py.typed" in names


@pytest.mark.parametrize("lock", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_a_lock_pins_by_hash_and_names_no_host(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert "--index-url" not in text
    pins = re.findall(r"^([a-z0-9][\w.-]*)(?:\[[\w,]+\])?==.*(?:\n +--hash=sha256:[0-9a-f]{64}.*)+", text, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE)) > 0


def test_without_its_packages_the_command_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['typer'] = None; import runpy; runpy.run_module('penstock.cli', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "pip install 'penstock[cli]'" in done.stderr
