"""What a recipe leaves is read within limits, follows no link, and is refused with a sentence where it is none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.trainer.executing.outcomes import read_outcome
from services.trainer.faults import TrainingFailed
from services.trainer.task import Column, Outcome, Part, RunFolder, checked_metrics

SAID: dict[str, Any] = {"framework": "ONNX"}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.make()
    (folder.artifact / "model.onnx").write_bytes(b"a model")
    folder.outcome.write_text(json.dumps(SAID))
    return folder


def refusal(folder: RunFolder, max_bytes: int = 1_000) -> TrainingFailed:
    with pytest.raises(TrainingFailed) as failed:
        read_outcome(folder, max_bytes)
    return failed.value


def test_what_was_written_is_read(folder: RunFolder) -> None:
    outcome = Outcome(
        "TENSORFLOW",
        label="species",
        features=(Column("petal", "FP32"),),
        metrics={Part.TEST: {"accuracy": 0.97}},
        task_type="classification",
        classes=("setosa", "virginica"),
        environment={"python": "3.13"},
        code_sha256="0" * 64,
        metadata={"tags": ["small"]},
        notes=("it stopped early",),
    )
    outcome.write(folder.outcome)
    assert read_outcome(folder, 1_000) == outcome


@pytest.mark.parametrize(
    "said",
    [
        [],
        None,
        {},
        {"framework": "PICKLE"},
        {"framework": ["ONNX"]},
        SAID | {"task_type": "mind-reading"},
        SAID | {"code_sha256": "0" * 63},
        SAID | {"metrics": {"exam": {"accuracy": 1}}},
        SAID | {"metrics": {"test": {"accuracy": "high"}}},
        SAID | {"metrics": {"test": {str(each): 1 for each in range(257)}}},
        SAID | {"metrics": []},
        SAID | {"features": [{"name": "petal"}]},
        SAID | {"features": ["petal"]},
        SAID | {"features": [{"name": "petal", "datatype": "FP32"}] * 2},
        SAID | {"features": [{"name": "", "datatype": "FP32"}]},
        SAID | {"features": [{"name": str(each), "datatype": "FP32"} for each in range(10_001)]},
        SAID | {"label": 7},
        SAID | {"label": "x" * 1_001},
        SAID | {"notes": ["x"] * 101},
        SAID | {"metadata": {"all": "x" * 70_000}},
        SAID | {"metadata": "all"},
        SAID | {"environment": ["python"]},
        SAID | {"stage": "PRODUCTION"},
        SAID | {"label": "a\0b"},
        SAID | {"label": "a\ud800"},
        SAID | {"notes": ["a\ud800"]},
        SAID | {"environment": {"py\ud800": "3"}},
        SAID | {"metrics": {"test": {"lo\0ss": 1}}},
        SAID | {"metrics": {"test": {"lo\ud800ss": 1}}},
        SAID | {"metadata": {"k": ["a\0b"]}},
        SAID | {"metadata": {"k\ud800": 1}},
        SAID | {"metadata": {"k": {"deep": "\udfff"}}},
    ],
    ids=lambda said: json.dumps(said)[:60],
)
def test_an_outcome_that_is_none_is_refused(folder: RunFolder, said: Any) -> None:
    folder.outcome.write_text(json.dumps(said))
    refused = refusal(folder)
    assert refused.reason == "INVALID_OUTCOME"
    assert refused.message.encode(), "it can be told"


def test_a_metric_that_nothing_could_keep_is_refused_as_it_is_told() -> None:
    for name in ("lo\0ss", "lo\ud800ss", ""):
        with pytest.raises(ValueError, match=r"is 1\.0; finite numbers") as refused:
            checked_metrics({name: 1})
        assert str(refused.value).encode()
    assert checked_metrics({"Größe 😀": 1}) == {"Größe 😀": 1.0}


@pytest.mark.parametrize(
    "text", ["", "nonsense", '{"framework": "ONNX", "metrics": {"test": {"loss": NaN}}}', "[" * 200_000, "9" * 5_000]
)
def test_what_is_no_json_is_refused(folder: RunFolder, text: str) -> None:
    folder.outcome.write_text(text)
    assert refusal(folder).reason == "INVALID_OUTCOME"


def _link(folder: RunFolder, victim: Path) -> None:
    (folder.artifact / "secret").symlink_to(victim)


def _hard_link(folder: RunFolder, victim: Path) -> None:
    (folder.artifact / "secret").hardlink_to(victim)


def _linked_folder(folder: RunFolder, victim: Path) -> None:
    (folder.artifact / "more").symlink_to(victim.parent, target_is_directory=True)


def _linked_outcome(folder: RunFolder, victim: Path) -> None:
    victim.write_text(json.dumps(SAID))
    folder.outcome.unlink()
    folder.outcome.symlink_to(victim)


def _linked_artifact(folder: RunFolder, victim: Path) -> None:
    (folder.artifact / "model.onnx").unlink()
    folder.artifact.rmdir()
    folder.artifact.symlink_to(victim.parent, target_is_directory=True)


def _pipe(folder: RunFolder, victim: Path) -> None:
    os.mkfifo(folder.artifact / "pipe")


def _pipe_for_an_outcome(folder: RunFolder, victim: Path) -> None:
    folder.outcome.unlink()
    os.mkfifo(folder.outcome)


def _no_outcome(folder: RunFolder, victim: Path) -> None:
    folder.outcome.unlink()


def _large_outcome(folder: RunFolder, victim: Path) -> None:
    folder.outcome.write_text(json.dumps(SAID) + " " * 3 * 1024**2)


def _no_files(folder: RunFolder, victim: Path) -> None:
    (folder.artifact / "model.onnx").unlink()


def _one_file_by_two_names(folder: RunFolder, victim: Path) -> None:
    (folder.artifact / "MODEL.onnx").write_bytes(b"another")


def _pipe_of_a_name_that_is_no_text(folder: RunFolder, victim: Path) -> None:
    os.mkfifo(os.fsencode(folder.artifact) + b"/pipe\xff")


def _name_that_nobody_can_type(folder: RunFolder, victim: Path) -> None:
    (folder.artifact / "a\nb").write_bytes(b"")


@pytest.mark.parametrize(
    "spoil",
    [
        _link,
        _hard_link,
        _linked_folder,
        _linked_outcome,
        _linked_artifact,
        _pipe,
        _pipe_for_an_outcome,
        _pipe_of_a_name_that_is_no_text,
        _no_outcome,
        _large_outcome,
        _no_files,
        _one_file_by_two_names,
        _name_that_nobody_can_type,
    ],
)
def test_files_that_are_no_version_are_refused(
    folder: RunFolder, tmp_path: Path, spoil: Callable[[RunFolder, Path], None]
) -> None:
    victim = tmp_path / "elsewhere" / "secret"
    victim.parent.mkdir()
    victim.write_text("a secret")
    spoil(folder, victim)
    failed = refusal(folder)
    assert failed.reason == "INVALID_OUTCOME"
    assert "a secret" not in failed.message
    assert failed.message.encode(), "it can be told"


def test_files_beyond_the_limit_are_too_much(folder: RunFolder) -> None:
    assert refusal(folder, max_bytes=6).reason == "TOO_MUCH_OUTPUT"
    assert read_outcome(folder, 7).framework == "ONNX"
