"""How a metric differs between two versions on the same rows, with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.trainer.recipes.scores import BINARY, REGRESSION
from services.trainer.validating.areas import paired_areas
from services.trainer.validating.grouped import MIN_GROUPS, Groups, grouped_interval, quantile
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


def intervals(
    labels: NDArray[Any],
    new: Answers,
    live: Answers,
    check: Callable[[], None] = lambda: None,
    groups: Groups | None = None,
) -> dict[str, Interval]:
    """Give the 95 % interval of (new - live) of each metric that both have. `check` is called several times a second.

    Of accuracy it is Tango's (see `paired`), of the area under the ROC curve DeLong's (see `areas`), of all others a
    bootstrap's. That draws rows with both versions' answers to them (paired), 2,000 times from a fixed seed, and takes
    percentiles that are widened as Student's t is wider than the normal distribution (the expanded percentile interval:
    T. Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69 (2015), 371 to 386),
    since plain percentiles are too narrow where there are few rows. It is to cover the truth in about 95 %;
    tests/unit/test_validation_intervals.py holds it to at least 88 % over simulated experiments of 60 rows. Of fewer
    rows, and of a class that few rows have, it covers less.

    Of rows that belong together in `groups` the bootstrap draws groups, and widens its percentiles as so many groups
    ask for (C. A. Field, A. H. Welsh, "Bootstrapping clustered data", Journal of the Royal Statistical Society B 69
    (2007), 369 to 390: the random cluster bootstrap); see `grouped` for the others. Of 30 groups of 10 rows each it
    covered the truth in 89 to 97 % of 150 experiments, where that of independent rows did so in 40 to 85 %. Of groups
    that weigh less than MIN_GROUPS there is no interval.
    """
    rows = len(labels)
    units = rows if groups is None else groups.weight
    if units < (2 if groups is None else MIN_GROUPS):
        return {}
    from scipy import special  # not scipy.stats, whose import takes a second

    draws = _drawn(labels, new, live, check, groups)
    share = float(special.ndtr(-math.sqrt(units / (units - 1)) * quantile(units)))
    found = {
        name: Interval(*(float(end) for end in np.quantile(defined, [share, 1 - share])))
        for name, drawn in draws.items()
        if len(defined := drawn[np.isfinite(drawn)]) >= RESAMPLES / 2
    }
    if new.task_type == REGRESSION:
        return found
    right = [answers.predictions == labels for answers in (new, live)]
    if groups is not None:
        found["accuracy"] = Interval(*grouped_interval(right[0].astype(np.int64) - right[1], groups))
    else:
        only_new, only_live = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
        found["accuracy"] = Interval(*paired_interval(rows, only_new, only_live))
    areas = _areas(labels, new, live, groups)
    return found | ({"roc_auc": areas} if areas is not None else {})


def _drawn(
    labels: NDArray[Any], new: Answers, live: Answers, check: Callable[[], None], groups: Groups | None
) -> dict[str, NDArray[np.float64]]:
    """Draw rows, or groups of them, again and again, and give how each metric differs in each draw.

    What classes alone decide needs no rows, only how often each combination of label and answers comes: they are few.
    """
    rows = len(labels)
    cells, codes, counts = _cells(labels, new, live)
    of_rows = [row_statistics(labels, answers) for answers in (new, live)]
    of_cells = [class_statistics(labels[cells], _at(answers, cells)) for answers in (new, live)]
    draws: dict[str, list[NDArray[np.float64]]] = {}
    drawn_rows = _of_rows(rows) if groups is None else _of_groups(groups)
    drawn_cells = _of_cells(rows, counts) if groups is None else _added_up(_of_groups(groups), codes)
    for both, drawn in ((of_rows, drawn_rows), (of_cells, drawn_cells)):
        names = [name for name in both[0] if name in both[1]]
        for weights in drawn if names else ():
            check()
            for name in names:
                with np.errstate(divide="ignore", invalid="ignore"):
                    draws.setdefault(name, []).append(both[0][name](weights) - both[1][name](weights))
    return {name: np.concatenate(parts) for name, parts in draws.items()}


def _of_rows(rows: int) -> Iterator[Weights]:
    """Draw rows, and count how often each comes in each resample, of some resamples at once."""
    generator = np.random.default_rng(SEED)
    for resamples in _at_once(rows):
        places = generator.integers(0, rows, (resamples, rows)) + rows * np.arange(resamples)[:, None]
        yield np.bincount(places.reshape(-1), minlength=resamples * rows).reshape(resamples, rows).astype(np.float64)


def _of_cells(rows: int, counts: NDArray[np.int64]) -> Iterator[Weights]:
    """Likewise of combinations, each of which some rows have."""
    generator = np.random.default_rng(SEED)
    for resamples in _at_once(len(counts)):
        yield generator.multinomial(rows, counts / rows, resamples).astype(np.float64)


def _of_groups(groups: Groups) -> Iterator[Weights]:
    """Draw groups, and count how often each row comes with its own in each resample, of some resamples at once."""
    generator = np.random.default_rng(SEED)
    for resamples in _at_once(len(groups.codes)):
        places = generator.integers(0, groups.count, (resamples, groups.count))
        places += groups.count * np.arange(resamples)[:, None]
        counts = np.bincount(places.reshape(-1), minlength=resamples * groups.count)
        yield counts.reshape(resamples, groups.count).astype(np.float64)[:, groups.codes]


def _added_up(drawn: Iterator[Weights], codes: NDArray[np.int64]) -> Iterator[Weights]:
    """Count how often each combination comes, by how often rows do."""
    order = np.argsort(codes, kind="stable")
    _, begins = np.unique(codes[order], return_index=True)
    for weights in drawn:
        yield np.add.reduceat(weights[:, order], begins, axis=1)


def _at_once(size: int) -> Iterator[int]:
    left = RESAMPLES
    while left:
        resamples = min(left, max(1, _CELLS_AT_ONCE // max(1, size)))
        left -= resamples
        yield resamples


def _cells(
    labels: NDArray[Any], new: Answers, live: Answers
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Give a row of each combination of label and answers, which of them each row has, and how many rows have each."""
    if new.task_type == REGRESSION:
        none = np.empty(0, np.int64)
        return none, none, none
    codes = np.zeros(len(labels), np.int64)
    for values in (labels, new.predictions, live.predictions):
        _, code = np.unique(values.astype(str), return_inverse=True)
        _, codes = np.unique(codes * (len(labels) + 1) + code, return_inverse=True)
    _, first, codes, counts = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    return first, codes, counts


def _at(answers: Answers, rows: NDArray[np.int64]) -> Answers:
    return Answers(answers.task_type, answers.predictions[rows], None, answers.classes)


def _areas(labels: NDArray[Any], new: Answers, live: Answers, groups: Groups | None) -> Interval | None:
    """Compare areas under the ROC curve, where both versions say how likely the same second of two classes is."""
    probabilities = (new.probabilities, live.probabilities)
    if new.task_type != BINARY or tuple(new.classes) != tuple(live.classes) or len(new.classes) != 2:
        return None
    if probabilities[0] is None or probabilities[1] is None or not np.isin(labels, new.classes).all():
        return None
    ends = paired_areas(labels == new.classes[1], probabilities[0][:, 1], probabilities[1][:, 1], groups)
    return Interval(*ends) if ends is not None else None


def row_statistics(labels: NDArray[Any], answers: Answers) -> dict[str, Statistic]:
    """Give those metrics of `recipes.scores`, of weighted rows, that each row's own answer decides; without areas."""
    if answers.task_type == REGRESSION:
        return _of_numbers(labels.astype(np.float64), answers.predictions.astype(np.float64))
    if answers.probabilities is None or len(answers.classes) < 2:
        return {}
    index = {name: number for number, name in enumerate(answers.classes)}
    was = np.fromiter((index.get(label, len(index)) for label in labels), np.int64, len(labels))
    return _of_probabilities(was, answers.probabilities)


def class_statistics(labels: NDArray[Any], answers: Answers) -> dict[str, Statistic]:
    """Likewise those that classes alone decide, without those of single classes."""
    return {} if answers.task_type == REGRESSION or not len(labels) else _of_classes(labels, answers)


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


def _of_probabilities(was: NDArray[np.int64], probabilities: NDArray[np.float64]) -> dict[str, Statistic]:
    rows, columns = probabilities.shape
    known = was < columns
    given = np.where(known, probabilities[np.arange(rows), np.where(known, was, 0)], 0.0)
    squares = (probabilities**2).sum(axis=1) - np.where(known, given**2 - (1 - given) ** 2, -1.0)
    return {
        "log_loss": _mean_of(-np.log(np.clip(given, _SMALLEST, 1.0))),
        "brier": _mean_of(squares / (2 if columns == 2 else 1)),
    }


def _mean_of(values: NDArray[np.float64]) -> Statistic:
    return lambda weights: np.asarray(weights @ values / weights.sum(axis=1))
