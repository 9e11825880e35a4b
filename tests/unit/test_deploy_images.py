"""What is in the images, and what must never be: read off the Dockerfile and the locks, no engine needed."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.deployment import CODE, ROOT, SERVICES, TARGETS, WITH_TENSORFLOW, ancestry, locked, stages

RUNTIMES = {"tensorflow", "tensorflow-cpu", "onnx", "onnxruntime", "keras", "tokenizers", "transformers", "h5py"}
TOOLS = {"pytest", "mypy", "ruff", "hypothesis", "moto", "grpcio-tools", "pip", "hatchling", "torch"}
ENTRYPOINTS = {
    "registry": ["services.registry", "services.registry.bucket"],
    "registry-bigquery": ["services.registry", "services.registry.features.imports.bigquery_reading"],
    "validator": ["services.registry.validation", "services.registry"],
    "inference": ["services.inference"],
    "jobs": ["services.inference.jobs", "services.inference.jobs.readers"],
    "monitoring": ["services.monitoring"],
    "fetcher": ["services.fetcher"],
    "trainer": ["services.trainer", "services.trainer.recipes.child"],
    "trainer-tensorflow": ["services.trainer", "services.trainer.recipes.child"],
    "inference-tensorflow": ["services.inference"],
    "jobs-tensorflow": ["services.inference.jobs", "services.inference.jobs.readers"],
    "cli": ["penstock.cli"],
}
IMPORTED_WHEN_USED = {"fetcher": ["huggingface_hub.hf_api", "huggingface_hub.utils", "httpx2", "tzdata"]}
# Makes every package that is not in the lock impossible to import, then imports what the image runs.
IMPORT = """
import importlib, importlib.abc, json, sys
foreign, modules = json.loads(sys.argv[1])

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in foreign:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)

sys.meta_path.insert(0, Absent())
for module in modules:
    importlib.import_module(module)
"""


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_nobody_in_particular_and_hears_signals_itself(target: str) -> None:
    steps = ancestry(target)
    said = {word: rest for word, rest in steps if word in ("USER", "ENTRYPOINT", "STOPSIGNAL", "HEALTHCHECK")}
    assert said["USER"] == "10001:10001"
    assert json.loads(said["ENTRYPOINT"])[0] == "python", "the exec form: a shell would swallow SIGTERM"
    assert said["STOPSIGNAL"] == "SIGTERM"
    after = [word for word, _ in steps[[word for word, _ in steps].index("USER") :]]
    assert "RUN" not in after, "what runs here would have to write as that user"


@pytest.mark.parametrize("target", [*SERVICES, *WITH_TENSORFLOW])
def test_a_service_knows_its_health_without_a_tool_of_its_own(target: str) -> None:
    health = dict(ancestry(target))["HEALTHCHECK"]
    assert json.loads(health.partition("CMD ")[2]) == ["python", "-m", "services.common.probe"]


@pytest.mark.parametrize("target", TARGETS)
def test_the_last_stage_has_no_installer_and_takes_only_finished_trees(target: str) -> None:
    for word, rest in ancestry(target):
        if word == "COPY":
            assert re.fullmatch(r"--from=([\w-]+-packages|\w+-code|locale) (\S+) \2", rest), rest
        elif word == "RUN":
            assert not re.search(r"\b(apt|apt-get|pip install|gcc|make)\b", rest), rest
    assert any("site-packages/*" in rest for word, rest in ancestry(target) if word == "RUN"), "the base's pip goes"


@pytest.mark.parametrize("target", TARGETS)
def test_packages_are_wheels_checked_against_their_hashes(target: str) -> None:
    steps = ancestry(f"{target}-packages")
    installs = [rest for word, rest in steps if word == "RUN" and " install " in rest]
    assert len(installs) == 1
    assert {"--require-hashes", "--no-deps"} <= set(installs[0].split())
    assert "--only-binary :all:" in installs[0]
    assert [rest for word, rest in steps if word == "COPY"] == [f"requirements/{target}.txt requirements.txt"], (
        "code beside the lock would have every change of it install the packages anew"
    )
    assert ("COPY", f"--from={target}-packages /opt/penstock /opt/penstock") in ancestry(target)


@pytest.mark.parametrize("target", [*SERVICES, *WITH_TENSORFLOW])
def test_an_image_holds_no_other_services_code(target: str) -> None:
    own = CODE.get(target, target)
    assert ("COPY", f"--from={own}-code /app /app") in ancestry(target)
    copied = {rest.split()[0] for word, rest in ancestry(f"{own}-code") if word == "COPY"}
    services = {path for path in copied if path.startswith("services/")}
    assert services == {"services/__init__.py", "services/common", f"services/{own}"}


@pytest.mark.parametrize("target", TARGETS)
def test_the_code_can_be_read_by_its_user_whatever_umask_the_checkout_was_made_under(target: str) -> None:
    own = CODE.get(target, target)
    last = [rest for word, rest in ancestry(f"{own}-code") if word in ("COPY", "RUN")][-1]
    assert last.startswith("chmod -R a+rX /app && "), "after everything is there, and before it is compiled"


@pytest.mark.parametrize("target", ["registry", "monitoring", "cli"])
def test_no_runtime_is_in_an_image_that_opens_no_model(target: str) -> None:
    assert not locked(target).keys() & RUNTIMES


@pytest.mark.parametrize("target", TARGETS)
def test_no_tool_of_developers_is_in_an_image(target: str) -> None:
    assert not locked(target).keys() & TOOLS
    assert ("scikit-learn" in locked(target)) == target.startswith("trainer"), "it trains, and serves nothing"


def test_the_validator_opens_every_framework() -> None:
    assert {"onnx", "onnxruntime", "tokenizers", "tensorflow-cpu"} <= locked("validator").keys()


@pytest.mark.parametrize("target", ["inference-tensorflow", "jobs-tensorflow"])
def test_there_is_an_image_that_predicts_with_every_runtime(target: str) -> None:
    assert {"onnxruntime", "tokenizers", "tensorflow-cpu"} <= locked(target).keys()


@pytest.mark.parametrize("target", TARGETS)
def test_the_locks_of_images_name_no_host_and_agree_with_what_is_tested(target: str) -> None:
    text = (ROOT / "requirements" / f"{target}.txt").read_text()
    assert "://" not in text
    tested = {**locked("tensorflow"), **locked("dev")}
    assert {name: version for name, version in locked(target).items() if tested.get(name) != version} == {}


@pytest.mark.parametrize("target", TARGETS)
def test_a_lock_holds_what_its_extra_asks_for(target: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    with_tensorflow = target == "validator" or target in WITH_TENSORFLOW
    service, _, more = target.partition("-")
    wanted = [*extras[service], *(extras["tensorflow"] if with_tensorflow else extras.get(more, []))]
    names = {match[0] for each in wanted if (match := re.match(r"(?!penstock)[\w-]+", each))}
    assert names <= locked(target).keys()


@cache
def owners() -> Mapping[str, frozenset[str]]:
    """Say which distributions each top-level package here is of; it takes a second to read."""
    found = importlib.metadata.packages_distributions()
    return {top: frozenset(re.sub(r"[-_.]+", "-", name).lower() for name in names) for top, names in found.items()}


def foreign_to(allowed: Iterable[str]) -> list[str]:
    """Name the packages that are of none of these distributions, nor ours."""
    own = {*allowed, "penstock"}
    return [top for top, names in owners().items() if not names & own]


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_what_an_image_runs_can_be_imported_with_its_packages_alone(target: str) -> None:
    modules = [f"{name}.__main__" if name.count(".") < 2 or name.endswith(("validation", ".jobs")) else name
               for name in ENTRYPOINTS[target]]  # fmt: skip
    if target != "cli":
        modules.append("services.common.probe")
    modules += IMPORTED_WHEN_USED.get(target, [])
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, json.dumps([foreign_to(locked(target).keys()), modules])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_jobs_image_reads_parquet_and_that_of_inference_carries_none_of_it() -> None:
    assert "pyarrow" in locked("jobs")
    assert "pyarrow" not in locked("inference")


def test_nothing_but_code_and_locks_reaches_the_engine() -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert patterns[0] == "*"
    taken = {line.removeprefix("!") for line in patterns if line.startswith("!")}
    sources = {
        rest.split()[0]
        for steps in stages().values()
        for word, rest in steps
        if word == "COPY" and not rest.startswith("--from")
    }
    for source in sources:
        assert any(Path(source).match(each) or source.startswith(f"{each}/") or source == each for each in taken), (
            source
        )
