"""The rules of the house, read off the code: who may import what, and how files are named."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ROOT / "services"
NAMES = ("registry", "inference", "monitoring", "fetcher", "trainer")
GRPC_FILES = {"servicer.py", "__main__.py"}
GRPC_COMMON = {"status.py", "interceptors.py", "server.py", "streams.py", "probe.py"}
PSYCOPG_COMMON = {"postgres.py", "migrate.py"}
SHAPELESS = ("util", "utils", "helper", "helpers", "manager", "misc", "base")
LONGEST_LINES = 400


def ours(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "_pb2" not in path.name)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def in_store(path: Path) -> bool:
    return path.name == "store.py" or path.parent.name == "store"


@pytest.mark.parametrize("path", ours(SERVICES), ids=named)
def test_services_never_import_each_other(path: Path) -> None:
    home = path.relative_to(SERVICES).parts[0]
    foreign = {f"services.{name}" for name in NAMES if name != home}
    found = [module for module in imports(path) if ".".join(module.split(".")[:2]) in foreign]
    assert not found, f"{named(path)} imports {found}: speak gRPC through the SDK instead"


@pytest.mark.parametrize("path", ours(SERVICES), ids=named)
def test_grpc_stays_at_the_edge(path: Path) -> None:
    allowed = path.name in (GRPC_COMMON if path.parent.name == "common" else GRPC_FILES)
    found = [module for module in imports(path) if module.split(".")[0] in ("grpc", "grpc_health", "grpc_reflection")]
    assert allowed or not found, f"{named(path)} imports {found}"


@pytest.mark.parametrize("path", ours(SERVICES), ids=named)
def test_sql_stays_in_the_stores(path: Path) -> None:
    allowed = path.name in PSYCOPG_COMMON if path.parent.name == "common" else in_store(path)
    found = [module for module in imports(path) if module.split(".")[0] in ("psycopg", "psycopg_pool")]
    assert allowed or not found, f"{named(path)} imports {found}"


@pytest.mark.parametrize("path", ours(SERVICES), ids=named)
def test_stores_know_no_use_case_and_use_cases_no_servicer(path: Path) -> None:
    modules = list(imports(path))
    if path.name not in ("servicer.py", "assembly.py", "__main__.py") and path.parent.name != "oip":
        assert not [module for module in modules if module.endswith(".servicer")], named(path)
    if in_store(path):
        assert not [module for module in modules if module.endswith((".convert", ".servicer"))], named(path)


def test_the_registry_and_its_validator_import_no_runtime() -> None:
    """A hostile file may crash a runtime; only the validator's child process opens one."""
    runtimes = {"onnxruntime", "onnx", "tensorflow", "keras", "h5py", "tokenizers", "transformers"}
    parents = {"__init__.py", "__main__.py", "report.py", "settings.py", "validator.py", "workspace.py"}
    for path in ours(SERVICES / "registry"):
        if path.parent.name == "validation" and path.name not in parents:
            continue
        assert not runtimes & {module.split(".")[0] for module in imports(path)}, named(path)


@pytest.mark.parametrize("path", [*ours(SERVICES), *ours(ROOT / "sdk")], ids=named)
def test_files_are_short_and_named_for_what_they_hold(path: Path) -> None:
    assert path.stem not in SHAPELESS, f"{named(path)}: name what it holds"
    lines = len(path.read_text().splitlines())
    assert lines <= LONGEST_LINES, f"{named(path)} has {lines} lines"


def test_every_folder_of_tests_is_run() -> None:
    run = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["testpaths"]
    assert {named(path.parent) for path in (ROOT / "tests").rglob("test_*.py")} == set(run)


def test_the_sdk_imports_no_service() -> None:
    for path in ours(ROOT / "sdk"):
        assert not [module for module in imports(path) if module.split(".")[0] == "services"], named(path)
