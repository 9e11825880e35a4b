"""What is to be learned: classes in their order, or numbers and their scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.labels_as_text import text_of, texts_of
from services.trainer.recipes.scores import BINARY, CLASSIFICATION, REGRESSION

MAX_DETECTED_CLASSES: Final = 20
"""More different whole numbers are a regression's, unless `task` says otherwise."""
MAX_CLASSES: Final = 1_000
MAX_CLASS_CHARS: Final = 256
_EXACT: Final = float(2**53)
Labels = NDArray[np.float64] | NDArray[np.object_]
"""Numbers, NaN where there is none; or texts, '' where there is none."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a version answers.

    Attributes:
        task_type: as an Outcome has it.
        classes: of a classifier, in the order of its probabilities: by number, or by text.
        whole: the classes are whole numbers, and served as such.
        center: of a regression: the mean of the training rows' labels where they are scaled, else 0.
        scale: likewise their standard deviation, else 1.
    """

    task_type: str
    classes: tuple[str, ...] = ()
    whole: bool = False
    center: float = 0.0
    scale: float = 1.0

    @property
    def is_regression(self) -> bool:
        """Whether numbers are predicted."""
        return self.task_type == REGRESSION

    @classmethod
    def detect(cls, labels: Labels, task: str, *, scaled: bool) -> Self:
        """See from the training rows' labels, of which none is missing, what is to be learned.

        Raises:
            TrainingFailed: INVALID_DATA: one class only, more than 1,000, classes of long texts, numbers that are no
                classes, texts that are no numbers, numbers that are not finite.
        """
        texts = labels.dtype.hasobject
        if not texts and not np.isfinite(labels.astype(np.float64)).all():
            raise _invalid("some labels are infinite; a model learns finite numbers")
        kinds: Labels = np.unique(labels)  # type: ignore[assignment] # of the same dtype
        if task == REGRESSION or (task == "auto" and not texts and not _are_classes(kinds, len(labels))):
            if texts:
                raise _invalid("the labels are texts, and a regression predicts numbers; leave `task` out")
            return cls._of_numbers(labels.astype(np.float64), scaled=scaled)
        if not texts and not _are_whole(kinds):
            raise _invalid("the labels have fractions or go beyond 2^53, and are no classes; leave `task` out")
        if len(kinds) < 2:
            raise _invalid(f"all {len(labels)} labels are {text_of(kinds[0])!r}; a classifier learns from two or more")
        if len(kinds) > MAX_CLASSES:
            raise _invalid(f"the labels have {len(kinds)} different values; at most {MAX_CLASSES} are classes")
        if texts and (longest := max(map(len, kinds))) > MAX_CLASS_CHARS:
            raise _invalid(f"a label has {longest} characters; the text of a class has {MAX_CLASS_CHARS} at most")
        if task == BINARY and len(kinds) > 2:
            raise _invalid(f"the labels have {len(kinds)} different values, and a binary task has two")
        found = BINARY if len(kinds) == 2 and task != CLASSIFICATION else CLASSIFICATION
        return cls(found, tuple(text_of(kind) for kind in kinds.tolist()), whole=not texts)

    @classmethod
    def _of_numbers(cls, labels: NDArray[np.float64], *, scaled: bool) -> Self:
        if np.abs(labels).max() > np.finfo(np.float32).max:
            raise _invalid("some labels are beyond what single precision holds (3.4e38); give them in another unit")
        center, scale = (float(labels.mean()), float(labels.std())) if scaled else (0.0, 1.0)
        return cls(REGRESSION, center=center, scale=scale if scale > 0 else 1.0)

    def indices(self, labels: Labels) -> NDArray[np.int64]:
        """Give each label's place among the classes; -1 where it is none of them."""
        places = {name: place for place, name in enumerate(self.classes)}
        return np.fromiter((places.get(text, -1) for text in texts_of(labels)), np.int64, len(labels))

    def served(self) -> NDArray[Any]:
        """The classes as they are served: whole numbers, or texts."""
        return np.array([int(name) for name in self.classes]) if self.whole else np.array(self.classes, dtype=object)

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON has it."""
        return asdict(self)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(**{**content, "classes": tuple(content["classes"])})


def labels_of(table: pa.Table, column: str) -> Labels:
    """Read a label's column; raises TrainingFailed(INVALID_DATA) where there is none, or of a type that is no label."""
    if column not in table.column_names:
        there = ", ".join(table.column_names[:20])
        raise _invalid(f"the rows have no column {column!r} to learn; they have {there}: say label_column")
    found = table.column(column)
    kind = found.type
    if pa.types.is_dictionary(kind):
        found, kind = found.cast(kind.value_type), kind.value_type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        numbers = found.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return np.asarray(numbers, np.float64)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts: NDArray[np.object_] = pc.fill_null(found, "").to_numpy(zero_copy_only=False)
        return texts
    if pa.types.is_null(kind):
        return np.full(table.num_rows, np.nan)
    raise _invalid(f"the label {column!r} is of type {kind}; a label is a number, a text or a boolean")


def present(labels: Labels) -> NDArray[np.bool_]:
    """Say which rows have a label."""
    return labels != "" if labels.dtype.hasobject else ~np.isnan(labels.astype(np.float64))


def _are_whole(kinds: Labels) -> bool:
    numbers = kinds.astype(np.float64)
    return bool((np.floor(numbers) == numbers).all() and (np.abs(numbers) < _EXACT).all())


def _are_classes(kinds: Labels, rows: int) -> bool:
    # Two are always classes; and one alone is better refused as one class than learned as a regression.
    return _are_whole(kinds) and len(kinds) <= MAX_DETECTED_CLASSES and (2 * len(kinds) <= rows or len(kinds) <= 2)


def _invalid(sentence: str) -> TrainingFailed:
    return TrainingFailed(sentence, reason="INVALID_DATA")
