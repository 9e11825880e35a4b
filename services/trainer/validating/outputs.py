"""What a version answered, as labels and probabilities, or as numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock.api.registry.v1.registry_pb2 import ModelVersion
from services.trainer.recipes.labels_as_text import texts_of
from services.trainer.recipes.scores import BINARY, CLASSIFICATION, REGRESSION, TASK_TYPES
from services.trainer.validating.models import Untried, VersionFails

MATRIX_RANK: Final = 2
THRESHOLD: Final = 0.5
"""Of a single probability: from there on it is the second class."""
Finite = Callable[[], NDArray[np.bool_]]
"""Says of each row whether what the version was given is finite."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a version answered to the rows, in their order.

    Attributes:
        task_type: what it was read as.
        predictions: texts of classes, or numbers.
        probabilities: [rows, classes]; None where it gives none.
        classes: in the order of the probabilities, as texts; empty where nobody said.
    """

    task_type: str
    predictions: NDArray[Any]
    probabilities: NDArray[np.float64] | None = None
    classes: Sequence[str] = ()


def task_type_of(version: ModelVersion, said: str, labels: NDArray[Any]) -> str:
    """Say what a version does: as it was said, as its metadata have it, or as its outputs and the labels tell."""
    for task_type in (said, version.metadata.task_type):
        if task_type in TASK_TYPES:
            return task_type
    if labels.dtype.kind == "f" and not np.all(np.mod(labels, 1) == 0):
        return REGRESSION
    return BINARY if len(set(texts_of(labels).tolist())) <= 2 else CLASSIFICATION


def classes_of(version: ModelVersion) -> tuple[str, ...]:
    """Give the classes of a version, in the order of its probabilities, as its metadata have them."""
    fields = version.metadata.fields.fields
    if "classes" not in fields:
        return ()
    return tuple(value.string_value for value in fields["classes"].list_value.values)


def answers_of(version: ModelVersion, outputs: Mapping[str, NDArray[Any]], task_type: str, finite: Finite) -> Answers:
    """Read what a version answered to rows, as monitoring does.

    Of classes: the first output of texts, whole numbers or booleans with one value a row is the label; else the first
    of floats with several columns is probabilities, the largest of which is the label, by its class or by its place.
    A single probability a row is that of the second of two classes. Of regression: the first output of numbers with
    one value a row.

    Raises:
        Untried: there is no such output, or what it holds of rows with missing or infinite values is not finite.
        VersionFails: what it holds of others is not finite.
    """
    in_order = [outputs[spec.name] for spec in version.signature.outputs if spec.name in outputs]
    single = [array for array in in_order if array.ndim == 1 or (array.ndim == MATRIX_RANK and array.shape[1] == 1)]
    if task_type == REGRESSION:
        numbers = next((array for array in single if array.dtype.kind in "fiu"), None)
        if numbers is None:
            raise Untried(f"{version.version} gives no number a row, as a regression does")
        return Answers(task_type, _finite(version, numbers.reshape(-1).astype(np.float64), finite))
    classes = classes_of(version)
    scores = next(
        (array for array in in_order if array.ndim == MATRIX_RANK and array.shape[1] > 1 and array.dtype.kind == "f"),
        None,
    )
    probabilities = None if scores is None else _finite(version, scores.astype(np.float64), finite)
    if probabilities is not None and len(classes) != probabilities.shape[1]:
        classes = ()
    labels = next((array for array in single if array.dtype.kind in "iubO"), None)
    if labels is not None:
        predictions = texts_of(labels.reshape(-1))
    elif probabilities is not None:
        predictions = _named(probabilities.argmax(axis=1), classes)
    elif single and task_type == BINARY:
        second = _finite(version, single[0].reshape(-1).astype(np.float64), finite)
        probabilities = np.column_stack([1 - second, second])
        predictions = _named((second >= THRESHOLD).astype(np.int64), classes)
    else:
        raise Untried(f"{version.version} gives neither a label nor probabilities a row, as a classifier does")
    return Answers(task_type, predictions, _as_probabilities(probabilities), classes)


def worth_keeping(outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Give of one answer's outputs, in the order of the signature, those that `answers_of` may look at: of each kind
    the first. Others, which may be large, need not be held until all rows are answered.
    """
    kept: dict[tuple[bool, str], str] = {}
    for name, array in outputs.items():
        if 1 <= array.ndim <= MATRIX_RANK:
            kept.setdefault((array.ndim == 1 or array.shape[1] == 1, array.dtype.kind), name)
    return {name: outputs[name] for name in kept.values()}


def _named(places: NDArray[np.int64], classes: Sequence[str]) -> NDArray[np.object_]:
    return np.array(classes, dtype=object)[places] if classes else texts_of(places)


def _as_probabilities(scores: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    """Let scores pass that are probabilities; of others nothing but their order says something."""
    if scores is None or not len(scores):
        return None
    close = np.allclose(scores.sum(axis=1), 1, atol=1e-3)
    return scores if close and scores.min() >= 0 else None


def _finite(version: ModelVersion, values: NDArray[np.float64], finite: Finite) -> NDArray[np.float64]:
    odd = (~np.isfinite(values)).reshape(len(values), -1).any(axis=1)
    if not odd.any():
        return values
    at_fault = odd & finite()
    fails = bool(at_fault.any())
    count = int((at_fault if fails else odd).sum())
    sentence = f"{version.version} answered {count} of {len(values)} rows with what is no finite number"
    if fails:
        raise VersionFails(sentence)
    raise Untried(f"{sentence}, for their own values are missing or infinite; fill them in, or leave those rows out")
