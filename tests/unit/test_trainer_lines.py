"""What a run's process tells is read back as it was told, and what is no such thing is refused with a sentence."""

from __future__ import annotations

import json

import pytest

from services.trainer.recipes.lines import Done, Failed, Said, line_of, said_by
from services.trainer.task import CheckpointWritten, Epoch


@pytest.mark.parametrize(
    "said",
    [
        Epoch(1, {"loss": 0.5, "accuracy of class 'ä'": 1.0}, 50),
        Epoch(10**9, {}),
        CheckpointWritten(7),
        Done(),
        Failed("INVALID_DATA", "the column label is missing"),
    ],
)
def test_what_is_told_arrives(said: Said) -> None:
    line = line_of(said)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert said_by(line) == said


def test_a_reason_that_nobody_knows_is_a_failure_like_others() -> None:
    assert said_by(line_of(Failed("DATABASE_UNAVAILABLE", "try again"))) == Failed("TRAINING_FAILED", "try again")


def test_a_sentence_has_its_length() -> None:
    said = said_by(json.dumps({"failed": "INVALID_DATA", "message": "x" * 100_000}).encode())
    assert isinstance(said, Failed)
    assert len(said.message) == 2_000


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nonsense",
        b"\xff\xfe",
        b"[]",
        b'{"epoch": 1}',
        b'{"epoch": 1.5, "metrics": {}, "total": 0}',
        b'{"epoch": "one", "metrics": {}, "total": 0}',
        b'{"epoch": -1, "metrics": {}, "total": 0}',
        b'{"epoch": 1000000001, "metrics": {}, "total": 0}',
        b'{"epoch": 1, "metrics": [], "total": 0}',
        b'{"epoch": 1, "metrics": {"loss": NaN}, "total": 0}',
        b'{"epoch": 1, "metrics": {"loss": Infinity}, "total": 0}',
        b'{"epoch": 1, "metrics": {"loss": 1e999}, "total": 0}',
        b'{"epoch": 1, "metrics": {"loss": "low"}, "total": 0}',
        b'{"epoch": 1, "metrics": {"": 1}, "total": 0}',
        b'{"epoch": 1' + b"0" * 5_000 + b', "metrics": {}, "total": 0}',
        b'{"checkpoint": null}',
        b'{"done": false}',
        b'{"failed": 1, "message": ""}',
        json.dumps({"epoch": 1, "metrics": {str(each): 1.0 for each in range(257)}, "total": 0}).encode(),
        b"[" * 200_000,
    ],
    ids=lambda line: line[:50].decode(errors="replace") or "empty",
)
def test_what_is_no_such_line_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        said_by(line)
