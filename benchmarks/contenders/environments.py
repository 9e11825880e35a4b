"""Environments of their own for servers that are not ours: made once, below .tools/benchmarks."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".tools" / "benchmarks"
PACKAGES: Mapping[str, Sequence[str]] = {
    "mlserver": ("mlserver==1.7.1",),
    "fastapi": ("fastapi==0.165.0", "uvicorn[standard]==0.54.0", "orjson==3.13.0"),
}
SHARED = ("onnxruntime", "numpy")
"""Of these every environment has our own version."""


def environment(name: str) -> Path:
    """Give the `bin` folder of a server's environment, which is made if it is not there."""
    home = FOLDER / name
    wanted = [*PACKAGES[name], *(f"{package}=={importlib.metadata.version(package)}" for package in SHARED)]
    noted = home / "packages.txt"
    if not noted.exists() or noted.read_text().split() != wanted:
        shutil.rmtree(home, ignore_errors=True)
        _make(home, wanted)
        noted.write_text("\n".join(wanted))
    return home / "bin"


def versions(name: str) -> str:
    """Say what is in it, for the table."""
    return ", ".join(package.partition("[")[0] + " " + package.partition("==")[2] for package in PACKAGES[name])


def _make(home: Path, packages: Sequence[str]) -> None:
    if shutil.which("uv"):
        _run("uv", "venv", "--quiet", "--python", sys.executable, str(home))
        _run("uv", "pip", "install", "--quiet", "--python", str(home / "bin/python"), *packages)
    else:
        _run(sys.executable, "-m", "venv", str(home))
        _run(str(home / "bin/python"), "-m", "pip", "install", "--quiet", *packages)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
