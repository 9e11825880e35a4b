"""The rules of the house, read off the code: who may import what, and how files are named."""

from __future__ import annotations

import ast
import functools
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

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


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return tuple(found)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def in_store(path: Path) -> bool:
    return path.name == "store.py" or path.parent.name == "store"


def breaches(paths: Iterable[Path], forbidden: Callable[[Path, str], bool]) -> list[str]:
    """Each import that breaks a rule. One test a rule: one for each file as well took longer than reading them all."""
    return [f"{named(path)} imports {module}" for path in paths for module in imports(path) if forbidden(path, module)]


def test_services_never_import_each_other() -> None:
    def foreign(path: Path, module: str) -> bool:
        package, _, rest = module.partition(".")
        home = path.relative_to(SERVICES).parts[0]
        return package == "services" and rest.split(".")[0] in {name for name in NAMES if name != home}

    assert breaches(ours(SERVICES), foreign) == [], "speak gRPC through the SDK instead"


def test_grpc_stays_at_the_edge() -> None:
    def astray(path: Path, module: str) -> bool:
        allowed = path.name in (GRPC_COMMON if path.parent.name == "common" else GRPC_FILES)
        return not allowed and module.split(".")[0] in ("grpc", "grpc_health", "grpc_reflection")

    assert breaches(ours(SERVICES), astray) == []


def test_sql_stays_in_the_stores() -> None:
    def astray(path: Path, module: str) -> bool:
        allowed = path.name in PSYCOPG_COMMON if path.parent.name == "common" else in_store(path)
        return not allowed and module.split(".")[0] in ("psycopg", "psycopg_pool")

    assert breaches(ours(SERVICES), astray) == []


def test_stores_know_no_use_case_and_use_cases_no_servicer() -> None:
    def astray(path: Path, module: str) -> bool:
        edge = path.name in ("servicer.py", "assembly.py", "__main__.py") or path.parent.name == "oip"
        if in_store(path):
            return module.endswith((".convert", ".servicer"))
        return not edge and module.endswith(".servicer")

    assert breaches(ours(SERVICES), astray) == []


def test_the_registry_and_its_validator_import_no_runtime() -> None:
    """A hostile file may crash a runtime; only the validator's child process opens one."""
    runtimes = {"onnxruntime", "onnx", "tensorflow", "keras", "h5py", "tokenizers", "transformers"}
    parents = {"__init__.py", "__main__.py", "report.py", "settings.py", "validator.py", "workspace.py"}

    def opens_models(path: Path, module: str) -> bool:
        child = path.parent.name == "validation" and path.name not in parents
        return not child and module.split(".")[0] in runtimes

    assert breaches(ours(SERVICES / "registry"), opens_models) == []


def test_files_are_short_and_named_for_what_they_hold() -> None:
    for path in [*ours(SERVICES), *ours(ROOT / "sdk")]:
        assert path.stem not in SHAPELESS, f"{named(path)}: name what it holds"
        lines = len(path.read_text().splitlines())
        assert lines <= LONGEST_LINES, f"{named(path)} has {lines} lines"


def test_every_folder_of_tests_is_run() -> None:
    run = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["testpaths"]
    assert {named(path.parent) for path in (ROOT / "tests").rglob("test_*.py")} == set(run)


def test_the_sdk_imports_no_service() -> None:
    assert breaches(ours(ROOT / "sdk"), lambda path, module: module.split(".")[0] == "services") == []
