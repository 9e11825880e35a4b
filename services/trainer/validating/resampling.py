"""How a metric differs between two versions on the same rows, with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import t as student

from services.trainer.recipes.scores import BINARY, REGRESSION
from services.trainer.validating.outputs import Answers
from services.trainer.validating.paired import paired_interval

RESAMPLES: Final = 2_000
SEED: Final = 20_260_101
"""The same rows give the same interval, whoever asks."""
_CELLS_AT_ONCE: Final = 4_000_000
_SMALLEST: Final = float(np.finfo(np.float32).eps)
Weights = NDArray[np.float64]
"""How often each row comes in each resample: [resamples, rows]."""
Statistic = Callable[[Weights], NDArray[np.float64]]
"""A metric of each resample; NaN where it is not defined."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The ends of a 95 % interval."""

    low: float
    high: float


def intervals(labels: NDArray[Any], new: Answers, live: Answers) -> dict[str, Interval]:
    """Give the 95 % interval of (new - live) of each metric that both have; of accuracy Tango's, else a bootstrap's.

    The bootstrap draws rows with both versions' answers to them (paired), 2,000 times from a fixed seed, and takes
    percentiles that are widened as Student's t is wider than the normal distribution (the expanded percentile interval:
    T. Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69 (2015), 371 to 386,
    section 3.4.3): plain percentiles are too narrow by a factor of about √((n - 1)/n) and more. It covers the truth in
    about 93 to 96 % from 50 rows on, as tests/unit/test_validation_intervals.py simulates; of fewer rows, and of
    metrics of a class that has few, less.
    """
    rows = len(labels)
    if rows < 2:
        return {}
    both = [statistics_of(labels, answers) for answers in (new, live)]
    names = [name for name in both[0] if name in both[1]]
    draws = {name: np.concatenate(parts) for name, parts in _drawn(rows, names, both).items()}
    share = float(ndtr(-math.sqrt(rows / (rows - 1)) * student.ppf(0.975, rows - 1)))
    found = {
        name: Interval(*(float(end) for end in np.quantile(defined, [share, 1 - share])))
        for name, drawn in draws.items()
        if len(defined := drawn[np.isfinite(drawn)]) >= RESAMPLES / 2
    }
    if new.task_type != REGRESSION:
        right = [answers.predictions == labels for answers in (new, live)]
        only_new, only_live = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
        found["accuracy"] = Interval(*paired_interval(rows, only_new, only_live))
    return found


def _drawn(
    rows: int, names: Sequence[str], both: Sequence[Mapping[str, Statistic]]
) -> dict[str, list[NDArray[np.float64]]]:
    draws: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    for weights in _weights(rows):
        for name in names:
            with np.errstate(divide="ignore", invalid="ignore"):
                draws[name].append(both[0][name](weights) - both[1][name](weights))
    return draws


def _weights(rows: int) -> Iterator[Weights]:
    generator = np.random.default_rng(SEED)
    at_once = max(1, min(RESAMPLES, _CELLS_AT_ONCE // rows))
    for begin in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - begin)
        chosen = generator.integers(0, rows, (count, rows)) + rows * np.arange(count)[:, None]
        yield np.bincount(chosen.reshape(-1), minlength=count * rows).reshape(count, rows).astype(np.float64)


def statistics_of(labels: NDArray[Any], answers: Answers) -> dict[str, Statistic]:
    """Give the metrics that `recipes.scores` has, of weighted rows; those of single classes are left out."""
    if answers.task_type == REGRESSION:
        return _of_numbers(labels.astype(np.float64), answers.predictions.astype(np.float64))
    return _of_classes(labels, answers)


def _of_numbers(labels: NDArray[np.float64], predictions: NDArray[np.float64]) -> dict[str, Statistic]:
    squares, distances = (predictions - labels) ** 2, np.abs(predictions - labels)
    centred = labels - labels.mean()

    def r2(weights: Weights) -> NDArray[np.float64]:
        spread = weights @ centred**2 - (weights @ centred) ** 2 / weights.sum(axis=1)
        return np.asarray(np.where(spread > 0, 1 - (weights @ squares) / spread, np.nan))

    return {
        "rmse": lambda weights: np.sqrt(weights @ squares / weights.sum(axis=1)),
        "mae": _mean_of(distances),
        "r2": r2,
    }


def _of_classes(labels: NDArray[Any], answers: Answers) -> dict[str, Statistic]:
    known = [*answers.classes]
    every = [*known, *sorted({*labels.tolist(), *answers.predictions.tolist()} - set(known))]
    index = {name: number for number, name in enumerate(every)}
    was = np.fromiter((index[label] for label in labels), np.int64, len(labels))
    said = np.fromiter((index[label] for label in answers.predictions), np.int64, len(labels))
    counted = _Counted(was, said, len(every), second=answers.task_type == BINARY and len(every) > 1)
    found: dict[str, Statistic] = {
        "accuracy": _mean_of((was == said).astype(np.float64)),
        "balanced_accuracy": counted.balanced_accuracy,
    }
    for name in ("precision", "recall", "f1"):
        found[name] = lambda weights, name=name: counted.of_second(name, weights)  # type: ignore[misc] # bound now
        found[f"{name}_macro"] = lambda weights, name=name: counted.mean(name, weights)  # type: ignore[misc] # likewise
    if answers.probabilities is not None and len(known) > 1:
        found |= _of_probabilities(was, answers.probabilities, binary=answers.task_type == BINARY)
    return found


class _Counted:
    """Counts by class of weighted rows."""

    def __init__(self, was: NDArray[np.int64], said: NDArray[np.int64], classes: int, *, second: bool) -> None:
        self._was, self._said, self._classes, self._second = was, said, classes, second
        self._right = (was == said).astype(np.float64)
        self._counted: tuple[Weights, dict[str, NDArray[np.float64]]] | None = None

    def balanced_accuracy(self, weights: Weights) -> NDArray[np.float64]:
        counts = self._counts(weights)
        there = counts["labels"] > 0
        recall = np.where(there, counts["right"] / np.where(there, counts["labels"], 1), 0)
        return np.asarray(recall.sum(axis=1) / there.sum(axis=1))

    def of_second(self, name: str, weights: Weights) -> NDArray[np.float64]:
        """Of two classes the second's, else the mean."""
        return self._by_class(name, weights)[:, 1] if self._second else self.mean(name, weights)

    def mean(self, name: str, weights: Weights) -> NDArray[np.float64]:
        """The mean over the classes that occur."""
        counts = self._counts(weights)
        occurs = counts["labels"] + counts["predictions"] > 0
        return np.asarray((self._by_class(name, weights) * occurs).sum(axis=1) / occurs.sum(axis=1))

    def _by_class(self, name: str, weights: Weights) -> NDArray[np.float64]:
        counts = self._counts(weights)
        over = {
            "precision": counts["predictions"],
            "recall": counts["labels"],
            "f1": (counts["labels"] + counts["predictions"]) / 2,
        }[name]
        return np.asarray(np.where(over > 0, counts["right"] / np.where(over > 0, over, 1), 0.0))

    def _counts(self, weights: Weights) -> dict[str, NDArray[np.float64]]:
        if self._counted is None or self._counted[0] is not weights:
            counts = {
                "labels": self._grouped(weights, self._was),
                "predictions": self._grouped(weights, self._said),
                "right": self._grouped(weights * self._right, self._was),
            }
            self._counted = (weights, counts)
        return self._counted[1]

    def _grouped(self, weights: Weights, group: NDArray[np.int64]) -> NDArray[np.float64]:
        grouped = np.zeros((len(weights), self._classes))
        order = np.argsort(group, kind="stable")
        present, begins = np.unique(group[order], return_index=True)
        grouped[:, present] = np.add.reduceat(weights[:, order], begins, axis=1)
        return grouped


def _of_probabilities(
    was: NDArray[np.int64], probabilities: NDArray[np.float64], *, binary: bool
) -> dict[str, Statistic]:
    rows, columns = probabilities.shape
    known = was < columns
    given = np.where(known, probabilities[np.arange(rows), np.where(known, was, 0)], 0.0)
    squares = (probabilities**2).sum(axis=1) - np.where(known, given**2 - (1 - given) ** 2, -1.0)
    found: dict[str, Statistic] = {
        "log_loss": _mean_of(-np.log(np.clip(given, _SMALLEST, 1.0))),
        "brier": _mean_of(squares / (2 if columns == 2 else 1)),
    }
    if binary and columns == 2 and known.all():
        found["roc_auc"] = _area_of(was == 1, probabilities[:, 1])
    return found


def _mean_of(values: NDArray[np.float64]) -> Statistic:
    return lambda weights: np.asarray(weights @ values / weights.sum(axis=1))


def _area_of(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> Statistic:
    """The area under the ROC curve, as Mann and Whitney's U."""
    order = np.argsort(score, kind="stable")
    _, begins = np.unique(score[order], return_index=True)
    is_positive = positive[order].astype(np.float64)

    def area(weights: Weights) -> NDArray[np.float64]:
        sorted_weights = weights[:, order]
        positives = np.add.reduceat(sorted_weights * is_positive, begins, axis=1)
        negatives = np.add.reduceat(sorted_weights * (1 - is_positive), begins, axis=1)
        below = np.cumsum(negatives, axis=1) - negatives / 2
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        return np.asarray(np.where(pairs > 0, (positives * below).sum(axis=1) / pairs, np.nan))

    return area
