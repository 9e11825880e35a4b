"""Whether a version, as it is exported, answers what the library that trained it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.onnx_version import LABEL, PREDICTION, PROBABILITIES
from services.trainer.recipes.rows import Answers
from services.trainer.recipes.targets import Target

ABSOLUTE: Final = 1e-4
"""Of a probability; of a regression's number in the standard deviations of its labels."""
RELATIVE: Final = 1e-3
_TIE: Final = 1e-3
"""Two classes that are so close may be said in either order."""
_ROWS_OF_ONE_MISS: Final = 1_000
"""A tree has its row fall to the other side by the last digit; more often than once in so many rows it is a mistake."""


def check(what: str, answers: Mapping[str, NDArray[Any]], own: Answers, target: Target) -> None:
    """Compare what a version answers with the library's own answers to the same rows.

    Raises:
        TrainingFailed: INVALID_OUTCOME, saying in how many rows they differ, and how far.
    """
    far, furthest = _far_numbers(answers, own, target) if own.places is None else _far_classes(answers, own, target)
    rows = len(next(iter(answers.values())))
    if far > rows // _ROWS_OF_ONE_MISS:
        sentence = f"{what} answers otherwise than the model that was trained, in {far} of {rows} rows"
        raise TrainingFailed(f"{sentence}, by up to {furthest:.3g}", reason="INVALID_OUTCOME")


def _far_numbers(answers: Mapping[str, NDArray[Any]], own: Answers, target: Target) -> tuple[int, float]:
    assert own.numbers is not None  # noqa: S101 - one of the two is there
    return _far(answers[PREDICTION].reshape(-1), own.numbers.reshape(-1), ABSOLUTE * target.scale)


def _far_classes(answers: Mapping[str, NDArray[Any]], own: Answers, target: Target) -> tuple[int, float]:
    said = target.indices(answers[LABEL])
    other = said != own.places
    furthest = 0.0
    if own.probabilities is not None:
        highest = np.sort(own.probabilities, axis=1)
        other &= highest[:, -1] - highest[:, -2] > _TIE
        apart = _apart(answers[PROBABILITIES], own.probabilities, ABSOLUTE)
        other |= apart.any(axis=1)
        furthest = float(np.abs(answers[PROBABILITIES] - own.probabilities).max(initial=0))
    return int(other.sum()), furthest


def _far(answers: NDArray[Any], own: NDArray[Any], absolute: float) -> tuple[int, float]:
    return int(_apart(answers, own, absolute).sum()), float(np.abs(answers - own).max(initial=0))


def _apart(answers: NDArray[Any], own: NDArray[Any], absolute: float) -> NDArray[np.bool_]:
    # Not numbers at all are as far apart as can be.
    close: NDArray[np.bool_] = np.isclose(answers.astype(np.float64), own.astype(np.float64), RELATIVE, absolute)
    return ~close
