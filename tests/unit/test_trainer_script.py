"""Scripts: how they are found, what they are told, and what is made of what they give back."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.context import Context
from services.trainer.recipes.script import Script, ScriptParameters
from services.trainer.recipes.script_package import ScriptPackage, sent_in
from services.trainer.task import Column, Outcome, Part, RunFolder, Task

LEAVES = "    (context.artifact / 'model.onnx').write_bytes(b'a model')\n"


@pytest.fixture(autouse=True)
def modules_as_before() -> Iterator[None]:
    paths, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = paths
    for name in set(sys.modules) - modules:
        if name.split(".")[0] in ("train", "steps", "fit", "notes"):
            del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.make()
    return folder


def trained(folder: RunFolder, code: str = "", **parameters: Any) -> Outcome:
    told = parameters | ({"code": code} if code else {})
    return Script().train(Context(Task("a-run", "iris", "script", told), folder, lambda event: None))


def refusal(folder: RunFolder, code: str = "", **parameters: Any) -> TrainingFailed:
    with pytest.raises(TrainingFailed) as failed:
        trained(folder, code, **parameters)
    return failed.value


def test_what_a_script_says_becomes_the_outcome(folder: RunFolder) -> None:
    code = f"""
def train(context):
{LEAVES}
    return {{
        "label": "species",
        "features": {{"petal": "FP32", "colour": "BYTES"}},
        "metrics": {{"test": {{"accuracy": context.parameters["accuracy"]}}}},
        "classes": ["setosa", "virginica"],
        "task_type": "binary-classification",
    }}
"""
    outcome = trained(folder, code, accuracy=0.5)
    assert outcome.framework == "ONNX"
    assert outcome.features == (Column("petal", "FP32"), Column("colour", "BYTES"))
    assert outcome.metrics == {Part.TEST: {"accuracy": 0.5}}
    assert outcome.environment["python"]
    assert len(outcome.code_sha256) == 64


def test_another_script_and_other_parameters_have_another_digest(folder: RunFolder) -> None:
    code = f"def train(context):\n{LEAVES}"
    digests = {trained(folder, code).code_sha256, trained(folder, code + "\n").code_sha256}
    digests.add(trained(folder, code, rate=1).code_sha256)
    assert len(digests) == 3


def test_a_script_sees_its_own_parameters_alone(folder: RunFolder) -> None:
    code = f"def train(context):\n{LEAVES}    return {{'metadata': dict(context.parameters)}}"
    assert trained(folder, code, rate=0.1, depth=3).metadata == {"rate": 0.1, "depth": 3}


def test_an_outcome_passes_as_it_is(folder: RunFolder) -> None:
    code = f"""
from services.trainer.recipes.script_package import ScriptPackage, sent_in
from services.trainer.task import Column, Outcome
def train(context):
{LEAVES}
    return Outcome("TENSORFLOW", features=(Column("petal", "FP32"),), code_sha256="0" * 64)
"""
    outcome = trained(folder, code)
    assert (outcome.framework, outcome.code_sha256) == ("TENSORFLOW", "0" * 64)
    assert outcome.features == (Column("petal", "FP32"),)


def test_several_files_import_each_other(folder: RunFolder) -> None:
    files = {
        "train/__init__.py": "from steps.leaving import note\ndef train(context):\n"
        f"{LEAVES}    return {{'notes': [note()]}}",
        "steps/__init__.py": "",
        "steps/leaving.py": "def note(): return 'from another file'",
    }
    assert trained(folder, files=files).notes == ("from another file",)


def brought(folder: RunFolder, files: dict[str, str], entry: str, *, packed: bool = True) -> str:
    """Have a run's folder hold a script from the blob store, as the trainer brings it; gives its name."""
    if packed:
        with zipfile.ZipFile(sent_in(folder), "w") as archive:
            for path, source in files.items():
                archive.writestr(path, source)
    else:
        sent_in(folder).write_text(files[entry])
    ScriptPackage("leaves/3", entry, packed, "ab" * 32).write(folder)
    return "leaves/3"


NOTE = "note = {'notes': ['of its own']}"
TRAINS = f"import note\ndef train(context):\n{LEAVES}    return note"
IN_A_PACKAGE = {"steps/fit.py": f"from .notes {TRAINS}", "steps/notes.py": NOTE}


@pytest.mark.parametrize(
    ("files", "entry"),
    [
        ({"train.py": f"from notes {TRAINS}", "notes.py": NOTE}, "train.py"),
        (IN_A_PACKAGE, "steps/fit.py"),
        ({**IN_A_PACKAGE, "steps/__init__.py": "from .fit import train"}, "steps/__init__.py"),
    ],
)
def test_a_package_is_imported_by_its_entry_and_finds_its_own_modules(
    folder: RunFolder, files: dict[str, str], entry: str
) -> None:
    name = brought(folder, files, entry)
    trained(folder, script=name, depth=1)
    outcome = trained(folder, script=name, depth=2)
    assert outcome.notes == ("of its own",)
    assert (outcome.metadata["script"], outcome.metadata["script_sha256"]) == ("leaves/3", "ab" * 32)


def test_one_file_is_called_as_its_entry_and_told_what_is_its_own(folder: RunFolder) -> None:
    code = f"def train(context):\n{LEAVES}    return {{'notes': [__name__, *context.parameters]}}"
    name = brought(folder, {"fit.py": code}, "fit.py", packed=False)
    assert trained(folder, script=name, depth=2).notes == ("fit", "depth")


def test_a_script_that_is_not_the_runs_or_is_called_as_a_library_is_not_run(folder: RunFolder) -> None:
    assert "without the script leaves/3" in refusal(folder, script="leaves/3").message
    brought(folder, {"json.py": f"def train(context):\n{LEAVES}"}, "json.py")
    assert "without the script leaves/2" in refusal(folder, script="leaves/2").message
    assert "another module is called json" in refusal(folder, script="leaves/3").message
    assert "not both" in refusal(folder, "def train(context): pass", script="leaves/3").message


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ({"train/__init__.py": f"def train(context):\n{LEAVES}"}, "train.py is not what is imported as train"),
        ({"statistics.py": ""}, "another module is called statistics"),
        ({"pydantic/__init__.py": ""}, "another module is called pydantic"),
    ],
)
def test_nothing_is_run_in_place_of_what_was_shown(folder: RunFolder, others: dict[str, str], sentence: str) -> None:
    code = f"def train(context):\n{LEAVES}"
    assert sentence in refusal(folder, files={"train.py": code, **others}).message
    name = brought(folder, {"train.py": code, **others}, "train.py")
    assert sentence in refusal(folder, script=name).message


@pytest.mark.parametrize(
    ("path", "framework"),
    [("saved_model.pb", "TENSORFLOW"), ("model.keras", "TENSORFLOW"), ("onnx/model.onnx", "ONNX")],
)
def test_the_framework_is_seen_from_the_files(folder: RunFolder, path: str, framework: str) -> None:
    target = folder.artifact / path
    target.parent.mkdir(exist_ok=True)
    target.touch()
    assert trained(folder, "def train(context): pass").framework == framework


@pytest.mark.parametrize(
    ("code", "reason", "sentence"),
    [
        ("", "INVALID_PARAMETERS", "no train.py"),
        ("x = 1", "INVALID_PARAMETERS", "no function train"),
        ("def train(context): pass", "INVALID_OUTCOME", "left nothing"),
        (f"def train(context):\n{LEAVES}    return 7", "INVALID_OUTCOME", "gave back a int"),
        (f"def train(context):\n{LEAVES}    return {{'stage': 'PRODUCTION'}}", "INVALID_OUTCOME", "stage"),
        (f"def train(context):\n{LEAVES}    return {{'metrics': {{'exam': {{}}}}}}", "INVALID_OUTCOME", "exam"),
        (f"def train(context):\n{LEAVES}    return {{'features': [1]}}", "INVALID_OUTCOME", "no outcome"),
    ],
)
def test_what_is_no_script_or_leaves_no_version_is_refused(
    folder: RunFolder, code: str, reason: str, sentence: str
) -> None:
    failed = refusal(folder, code)
    assert failed.reason == reason
    assert sentence in failed.message


@pytest.mark.parametrize("path", ["../train.py", "/train.py", "a//b.py", "a\\b.py", ".", "", "a/../b.py", "a\nb.py"])
def test_files_stay_in_the_scripts_folder(path: str) -> None:
    with pytest.raises(ValidationError):
        ScriptParameters.model_validate({"files": {path: ""}})


def test_an_import_that_is_missing_is_told_by_its_name(folder: RunFolder) -> None:
    with pytest.raises(ModuleNotFoundError, match="a_library_like_no_other"):
        trained(folder, "import a_library_like_no_other\ndef train(context): pass")
