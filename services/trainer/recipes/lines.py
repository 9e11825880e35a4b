"""What a run's process says, a line of JSON each: written by it, and read by whoever believes none of it unseen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from services.trainer.faults import RECIPE_REASONS
from services.trainer.task import CheckpointWritten, Epoch, checked_metrics

MAX_LINE_BYTES: Final = 512 * 1024
"""A line is no longer: 256 metrics with the longest names, escaped, take half of it."""
MAX_COUNT: Final = 10**9
MAX_SENTENCE_CHARS: Final = 2_000
_DIGITS = 100
"""Longer numbers are no counts, and take time to read."""


@dataclass(frozen=True, slots=True)
class Done:
    """The recipe has left its outcome."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The recipe did not do it: a reason of `faults`, and the sentence."""

    reason: str
    message: str


Said = Epoch | CheckpointWritten | Done | Failed


def line_of(said: Said) -> bytes:
    """Write it down."""
    match said:
        case Epoch():
            content: dict[str, Any] = {"epoch": said.number, "metrics": dict(said.metrics), "total": said.total}
        case CheckpointWritten():
            content = {"checkpoint": said.epoch}
        case Done():
            content = {"done": True}
        case Failed():
            content = {"failed": said.reason, "message": said.message[:MAX_SENTENCE_CHARS]}
    return json.dumps(content).encode() + b"\n"


def said_by(line: bytes) -> Said:
    """Read what `line_of` wrote, or what somebody else did; raises ValueError, with a sentence, for anything else."""
    try:
        content = json.loads(line, parse_int=_count, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    match content:
        case {"epoch": int(number), "metrics": dict(metrics), "total": int(total)}:
            return Epoch(_counted(number), _metrics(metrics), _counted(total))
        case {"checkpoint": int(epoch)}:
            return CheckpointWritten(_counted(epoch))
        case {"done": True}:
            return Done()
        case {"failed": str(reason), "message": str(message)}:
            # A reason that nobody knows would be a contract that nobody made.
            return Failed(reason if reason in RECIPE_REASONS else "TRAINING_FAILED", message[:MAX_SENTENCE_CHARS])
    raise ValueError("it is neither an epoch nor a checkpoint nor an end")


def _metrics(metrics: dict[str, Any]) -> dict[str, float]:
    if not all(isinstance(value, int | float) for value in metrics.values()):
        raise ValueError("a metric is no number")
    return checked_metrics(metrics)


def _counted(number: int) -> int:
    if not 0 <= number <= MAX_COUNT:
        raise ValueError(f"{number} is no count; 0 to {MAX_COUNT} are")
    return number


def _count(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no finite number")
