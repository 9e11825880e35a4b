"""The rows that a version is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from services.trainer.recipes.labels_as_text import texts_of
from services.trainer.recipes.scores import REGRESSION
from services.trainer.validating.models import Trial, Untried

MAX_ROWS: Final = 20_000
"""Of more, so many are drawn by a seed: an accuracy is then known to 0.7 %, and its intervals are there in seconds."""
SEED: Final = 7


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Rows with what was true of them.

    Attributes:
        table: the rows.
        labels: numbers where the column has numbers, else objects; none is missing.
        notes: sentences on what was left out.
    """

    table: pa.Table
    labels: NDArray[Any]
    notes: Sequence[str] = ()

    def as_labels(self, task_type: str) -> NDArray[Any]:
        """Give the labels as answers are: texts of classes, or numbers.

        Raises:
            Untried: they are to be numbers, and are none.
        """
        if task_type != REGRESSION:
            return texts_of(self.labels)
        try:
            return self.labels.astype(np.float64)
        except ValueError as error:
            raise Untried(f"the labels are no numbers, as a regression's are: {error}") from error


def held_out(trial: Trial) -> HeldOut | None:
    """Give the rows of a trial that have a label; None where there are none.

    Raises:
        Untried: the rows have no such label.
    """
    rows = trial.rows
    if rows is None or not rows.num_rows:
        return None
    if trial.label not in rows.column_names:
        raise Untried(f"the rows have no column {trial.label!r}, by which the version would be judged")
    notes: list[str] = []
    labelled = rows.filter(_known(rows.column(trial.label)))
    if labelled.num_rows < rows.num_rows:
        notes.append(
            f"{rows.num_rows - labelled.num_rows:,} of {rows.num_rows:,} rows have no label, and were left out"
        )
    if not labelled.num_rows:
        raise Untried(f"none of {rows.num_rows:,} rows has a label")
    if labelled.num_rows > MAX_ROWS:
        notes.append(f"of {labelled.num_rows:,} rows {MAX_ROWS:,} were drawn by a seed")
        drawn = np.random.default_rng(SEED).choice(labelled.num_rows, MAX_ROWS, replace=False)
        labelled = labelled.take(pa.array(np.sort(drawn)))
    return HeldOut(labelled, _values(labelled.column(trial.label)), tuple(notes))


def _known(label: pa.ChunkedArray) -> pa.ChunkedArray:
    known = pc.is_valid(label)
    if pa.types.is_floating(label.type):
        known = pc.and_(known, pc.fill_null(pc.is_finite(label), False))
    return known


def _values(label: pa.ChunkedArray) -> NDArray[Any]:
    if pa.types.is_floating(label.type) or pa.types.is_integer(label.type) or pa.types.is_boolean(label.type):
        return np.asarray(label.to_numpy(zero_copy_only=False))
    values = np.empty(len(label), dtype=object)
    values[:] = label.to_pylist()
    return values
