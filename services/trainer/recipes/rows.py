"""A run's rows as recipes learn from them: labelled ones alone, with what is to be learned and from what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.columns import choose
from services.trainer.recipes.context import Context
from services.trainer.recipes.labels_as_text import text_of
from services.trainer.recipes.preprocessing import Preprocessing
from services.trainer.recipes.row_parameters import RowParameters
from services.trainer.recipes.scores import scores
from services.trainer.recipes.targets import Labels, Target, labels_of, present
from services.trainer.task import Part

MAX_TRIED_ROWS: Final = 1_000
"""What a version answers is compared on so many rows before its run ends."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model says of rows: of classes their places and, where it has them, probabilities; or else numbers."""

    places: NDArray[np.int64] | None = None
    probabilities: NDArray[np.float32] | None = None
    numbers: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of each part.

    Attributes:
        target: what is to be learned.
        preprocessing: what makes a matrix of the columns.
        tables: rows by part, of which each has a label.
        labels: of these rows.
        notes: sentences on what was left out.
    """

    target: Target
    preprocessing: Preprocessing
    tables: Mapping[Part, pa.Table]
    labels: Mapping[Part, Labels]
    notes: tuple[str, ...]

    @classmethod
    def prepare(cls, context: Context, parameters: RowParameters) -> Self:
        """Read the rows, and learn from the training part what is to be learned and how.

        Raises:
            TrainingFailed: INVALID_DATA: no label, nothing to learn from, one class only, …; INVALID_PARAMETERS: a
                column that is asked for is not there.
        """
        tables, labels, notes = _labelled(context, parameters.label_column)
        scaled = parameters.scaling == "standard"
        target = Target.detect(labels[Part.TRAIN], parameters.task, scaled=scaled)
        chosen = choose(tables[Part.TRAIN], parameters)
        preprocessing = Preprocessing.fit(
            tables[Part.TRAIN], chosen.names, scaled=scaled, max_categories=parameters.max_categories
        )
        return cls(target, preprocessing, tables, labels, (*notes, *chosen.notes))

    @classmethod
    def prepare_for(
        cls, context: Context, parameters: RowParameters, preprocessing: Preprocessing, target: Target
    ) -> Self:
        """Read the rows for what has learned before: its columns, their preprocessing and its classes stay.

        Raises:
            TrainingFailed: INVALID_DATA: the rows lack a column, or have a class that it does not know.
        """
        tables, labels, notes = _labelled(context, parameters.label_column)
        preprocessing.check(tables[Part.TRAIN])
        learned = labels[Part.TRAIN]
        if target.is_regression:
            if learned.dtype.hasobject or not np.isfinite(learned.astype(np.float64)).all():
                raise TrainingFailed("the parent predicts numbers, and not all labels are", reason="INVALID_DATA")
        elif (strange := learned[target.indices(learned) < 0]).size:
            raise TrainingFailed(
                f"the parent knows the classes {', '.join(target.classes[:20])}, and {text_of(strange[0])!r} is none "
                "of them: a RETRAIN learns it",
                reason="INVALID_DATA",
            )
        return cls(target, preprocessing, tables, labels, notes)

    def count(self, part: Part) -> int:
        """How many rows a part has."""
        return int(self.tables[part].num_rows)

    def matrix(self, part: Part) -> NDArray[np.float32]:
        """What a model takes: FP32 [rows, width]."""
        return self.preprocessing.matrix(self.tables[part])

    def wanted(self, part: Part) -> NDArray[np.int64] | NDArray[np.float64]:
        """What a model is to say: a class's place, -1 where training never saw it; or a number."""
        labels = self.labels[part]
        return labels.astype(np.float64) if self.target.is_regression else self.target.indices(labels)

    def tried(self) -> pa.Table:
        """Rows to try a version with: of the test, or of a part before it where that has none."""
        part = next((part for part in (Part.TEST, Part.VALIDATION) if self.count(part)), Part.TRAIN)
        return self.tables[part].slice(0, MAX_TRIED_ROWS)

    def scores(self, part: Part, answers: Answers) -> dict[str, float]:
        """Measure what a model says of a part."""
        target = self.target
        if answers.places is None:
            return scores(target.task_type, self.labels[part], answers.numbers if answers.numbers is not None else [])
        said: NDArray[Any] = np.array(target.classes, dtype=object)[answers.places]
        return scores(target.task_type, self.labels[part], said, answers.probabilities, target.classes)


def _labelled(context: Context, column: str) -> tuple[dict[Part, pa.Table], dict[Part, Labels], tuple[str, ...]]:
    tables, labels, without = {}, {}, 0
    for part in Part:
        table = context.rows(part)
        found = labels_of(table, column)
        has_label = present(found)
        without += int((~has_label).sum())
        tables[part] = table.filter(pa.array(has_label))
        labels[part] = found[has_label]
    if not tables[Part.TRAIN].num_rows:
        said = f"none of the training rows has a label in the column {column!r}" if without else "there are no rows"
        raise TrainingFailed(f"{said}; nothing can be learned", reason="INVALID_DATA")
    notes = (f"{without} rows without a label were left out",) if without else ()
    return tables, labels, notes
