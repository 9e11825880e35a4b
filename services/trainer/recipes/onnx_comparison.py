"""How far a graph's answers are from its parent's, and how good both are on rows that neither learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from services.trainer.recipes.labels_as_text import texts_of
from services.trainer.recipes.scores import BINARY, CLASSIFICATION, REGRESSION, scores

Array = NDArray[Any]
_RANK: Final = 2


@dataclass(frozen=True, slots=True)
class Reading:
    """What a version's outputs say of each row: a label, or a number; beside it probabilities, where it has them."""

    predictions: Array
    probabilities: NDArray[np.float64] | None
    regression: bool

    @classmethod
    def of(cls, outputs: Mapping[str, Array], task_type: str, classes: Sequence[str]) -> Self | None:
        """Read outputs, in order, as validation and monitoring do; None where they say no such thing.

        A label is the first output of texts or whole numbers with one value a row; else the largest of the first of
        floats with several columns. A number is the first of floats with one value a row, where there is no label.
        """
        single = [each for each in outputs.values() if each.ndim == 1 or (each.ndim == _RANK and each.shape[1] == 1)]
        several = [each for each in outputs.values() if each.ndim == _RANK and each.shape[1] > 1]
        probabilities = next((each.astype(np.float64) for each in several if each.dtype.kind == "f"), None)
        if task_type != REGRESSION:
            label = next((each for each in single if each.dtype.kind in "iubOSU"), None)
            if label is not None:
                return cls(texts_of(label.reshape(-1)), probabilities, regression=False)
            if probabilities is not None:
                places = probabilities.argmax(axis=1)
                names = classes if len(classes) == probabilities.shape[1] else range(probabilities.shape[1])
                return cls(texts_of(np.array([*names], dtype=object)[places]), probabilities, regression=False)
        number = next((each for each in single if each.dtype.kind == "f"), None)
        if number is None or task_type in (BINARY, CLASSIFICATION):
            return None
        return cls(number.reshape(-1).astype(np.float64), None, regression=True)

    def agreement(self, other: Self) -> float:
        """Give the share of rows of which both say the same."""
        return float(np.mean(self.predictions == other.predictions)) if len(self.predictions) else 1.0

    def difference(self, other: Self) -> float:
        """Give how far apart their numbers are on average, in standard deviations of these."""
        spread = float(np.std(self.predictions)) or 1.0
        apart = float(np.mean(np.abs(self.predictions - other.predictions))) / spread
        return apart if np.isfinite(apart) else float("inf")

    def scores(self, labels: Sequence[Any] | Array, task_type: str, classes: Sequence[str]) -> dict[str, float]:
        """Measure it by what really was."""
        if self.regression:
            return scores(REGRESSION, labels, self.predictions)
        found = task_type or (BINARY if len(set(texts_of(labels).tolist())) == _RANK else CLASSIFICATION)
        known = self.probabilities is not None and len(classes) == self.probabilities.shape[1]
        return scores(found, labels, self.predictions, self.probabilities if known else None, classes)


def furthest(one: Mapping[str, Array], other: Mapping[str, Array]) -> float:
    """Say how far apart two answers are: of numbers the largest difference, as a share of the largest number.

    Infinite where they have another shape, and where texts or whole numbers differ.
    """
    distance = 0.0
    for name, answers in one.items():
        others = other.get(name)
        if others is None or others.shape != answers.shape:
            return float("inf")
        if answers.dtype.kind != "f":
            if not np.array_equal(answers, others):
                return float("inf")
            continue
        finite = np.abs(answers[np.isfinite(answers)])
        scale = float(finite.max(initial=0.0)) or 1.0
        with np.errstate(invalid="ignore"):
            apart = np.abs(answers.astype(np.float64) - others.astype(np.float64))
        apart[(answers == others) | (np.isnan(answers) & np.isnan(others))] = 0.0
        largest = float(apart.max(initial=0.0)) / scale
        distance = max(distance, largest if np.isfinite(largest) else float("inf"))
    return distance
