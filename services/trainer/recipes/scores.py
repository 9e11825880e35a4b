"""How good predictions are, by name: of recipes while they train, and of versions as they are served.

Every name and formula is scikit-learn's, which the tests hold these to; who only measures need not import it. What is
not defined (an area under the curve of one class, r2 of equal labels) or not finite is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.trainer.recipes.labels_as_text import texts_of

BINARY: Final = "binary-classification"
CLASSIFICATION: Final = "classification"
REGRESSION: Final = "regression"
TASK_TYPES: Final = (BINARY, CLASSIFICATION, REGRESSION)

MAX_CLASSES_SHOWN: Final = 20
"""Precision, recall and F1 by class are given for so many classes."""
MAX_CLASS_CHARS: Final = 100
_SMALLEST: Final = float(np.finfo(np.float32).eps)

Values = Sequence[Any] | NDArray[Any]


def scores(
    task_type: str,
    labels: Values,
    predictions: Values,
    probabilities: NDArray[Any] | None = None,
    classes: Sequence[str] = (),
) -> dict[str, float]:
    """Measure predictions by what really was; finite numbers, and none of no rows.

    Of regression: `rmse`, `mae`, `r2`. Of classes, compared as texts: `accuracy`, `balanced_accuracy`; `precision`,
    `recall`, `f1`, of two classes the second's and of more their mean; `precision_macro` … their mean always;
    `precision[CLASS]` …, of 20 classes at most. Where nothing is predicted or nothing was, they are 0.
    Of probabilities besides: `log_loss` (natural, no probability below 1.2e-7), `brier` (of two classes 0 to 1, of
    more 0 to 2) and of two classes `roc_auc`.

    Args:
        task_type: one of TASK_TYPES.
        labels: what was, [rows].
        predictions: what was said, [rows].
        probabilities: [rows, classes], in the order of `classes`.
        classes: all that there are, as texts; those of labels and predictions by default, in ascending order.
    """
    if len(labels) == 0:
        return {}
    measured = (
        _of_numbers(np.asarray(labels, np.float64).reshape(-1), np.asarray(predictions, np.float64).reshape(-1))
        if task_type == REGRESSION
        else _of_classes(texts_of(labels), texts_of(predictions), probabilities, classes, binary=task_type == BINARY)
    )
    return {name: value for name, value in measured.items() if math.isfinite(value)}


def _of_numbers(labels: NDArray[np.float64], predictions: NDArray[np.float64]) -> dict[str, float]:
    errors = predictions - labels
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        measured = {"rmse": float(np.sqrt(np.mean(errors**2))), "mae": float(np.mean(np.abs(errors)))}
        spread = float(np.sum((labels - labels.mean()) ** 2))
        if spread > 0:
            measured["r2"] = float(1 - np.sum(errors**2) / spread)
    return measured


def _of_classes(
    labels: NDArray[np.object_],
    predictions: NDArray[np.object_],
    probabilities: NDArray[Any] | None,
    classes: Sequence[str],
    *,
    binary: bool,
) -> dict[str, float]:
    # Labels that no class has, and predictions likewise, are classes of their own: wrong, and counted.
    seen = sorted({*labels, *predictions} - set(classes))
    every = [*classes, *seen]
    index = {name: number for number, name in enumerate(every)}
    was = np.fromiter((index[label] for label in labels), np.int64, len(labels))
    said = np.fromiter((index[label] for label in predictions), np.int64, len(predictions))
    counts = np.bincount(was * len(every) + said, minlength=len(every) ** 2).reshape(len(every), len(every))
    right, of_labels, of_predictions = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    precision, recall = _divided(right, of_predictions), _divided(right, of_labels)
    f1 = _divided(2 * right, of_labels + of_predictions)
    occurs = (of_labels + of_predictions) > 0
    measured = {"accuracy": right.sum() / len(was), "balanced_accuracy": recall[of_labels > 0].mean()}
    for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        mean = values[occurs].mean()
        measured[name] = values[1] if binary and len(every) > 1 else mean
        measured[f"{name}_macro"] = mean
        measured |= {
            f"{name}[{each}]": value
            for each, value in zip(every[:MAX_CLASSES_SHOWN], values, strict=False)
            if len(each) <= MAX_CLASS_CHARS
        }
    if probabilities is not None and len(classes) > 1:
        measured |= _of_probabilities(was, np.asarray(probabilities, np.float64), binary=binary)
    return {name: float(value) for name, value in measured.items()}


def _divided(count: NDArray[np.int64], by: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(count, by, out=np.zeros(len(count)), where=by > 0)


def _of_probabilities(was: NDArray[np.int64], probabilities: NDArray[np.float64], *, binary: bool) -> dict[str, float]:
    rows, columns = probabilities.shape
    known = was < columns
    # A class that training never saw has no probability.
    given = np.where(known, probabilities[np.arange(rows), np.where(known, was, 0)], 0.0)
    measured = {"log_loss": float(-np.log(np.clip(given, _SMALLEST, 1.0)).mean())}
    squares = (probabilities**2).sum(axis=1) - np.where(known, given**2 - (1 - given) ** 2, -1.0)
    measured["brier"] = float(squares.mean()) / (2 if columns == 2 else 1)
    if binary and columns == 2 and known.all():
        area = _area(was == 1, probabilities[:, 1])
        if area is not None:
            measured["roc_auc"] = area
    return measured


def _area(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> float | None:
    """The area under the ROC curve, as Mann and Whitney's U: equal scores share their ranks."""
    positives, rows = int(positive.sum()), len(positive)
    if positives in (0, rows):
        return None
    _, where, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[where]
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * (rows - positives)))
