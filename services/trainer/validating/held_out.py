"""The rows that a version is judged by, read from their files a few at a time.

What a label, a slice and a place in the files take is kept of up to MAX_ROWS rows; all else of a row is read when it is
asked, and let go once it is answered, so that memory does not grow with the width of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from services.trainer.datasets.rows.writing import read_batches
from services.trainer.recipes.labels_as_text import text_of, texts_of
from services.trainer.recipes.scores import REGRESSION
from services.trainer.validating.grouped import Groups
from services.trainer.validating.measuring import MAX_SLICE_COLUMNS, MAX_VALUE_CHARS
from services.trainer.validating.models import Trial, Untried

MAX_ROWS: Final = 20_000
"""Of more, so many are drawn by a seed: an accuracy is then known to 0.7 %, and its intervals are there in seconds."""
SEED: Final = 7
BATCH_ROWS: Final = 1_024
"""Rows that are read at once, and fewer where a row group ends: of wide rows that is what takes memory."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Rows with what was true of them.

    Attributes:
        files: that they are in, in their order.
        columns: that they have.
        chosen: of each row of the files whether it is one of them.
        labels: numbers where the column has numbers, else objects; none is missing.
        slices: texts of the columns whose values are judged one by one, as far as the rows have them.
        groups: of rows that belong together; None: they are independent.
        notes: sentences on what was left out.
    """

    files: Sequence[Path]
    columns: Sequence[str]
    chosen: NDArray[np.bool_]
    labels: NDArray[Any]
    slices: pa.Table
    groups: Groups | None = None
    notes: Sequence[str] = ()

    @property
    def row_count(self) -> int:
        """How many they are."""
        return len(self.labels)

    def batches(self, columns: Sequence[str], check: Callable[[], None] = lambda: None) -> Iterator[pa.Table]:
        """Give the rows in their order, some at a time, with those of some columns that they have."""
        for batch, chosen in _batches(self.files, columns, self.chosen, check):
            rows = batch.filter(pa.array(chosen))
            if rows.num_rows:
                yield pa.Table.from_batches([rows])

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


def held_out(trial: Trial, check: Callable[[], None] = lambda: None) -> HeldOut | None:
    """Give the rows of a trial that have a label; None where there are none. `check` is called now and then.

    Raises:
        Untried: the rows have no such label.
    """
    total = sum(pq.read_metadata(path).num_rows for path in trial.files)
    if not total:
        return None
    names = pq.read_schema(trial.files[0]).names
    if trial.label not in names:
        raise Untried(f"the rows have no column {trial.label!r}, by which the version would be judged")
    notes: list[str] = []
    everything = np.ones(total, dtype=bool)
    chosen = np.concatenate(
        [_known(batch.column(0)) for batch, _ in _batches(trial.files, [trial.label], everything, check)]
    )
    labelled = int(chosen.sum())
    if labelled < total:
        notes.append(f"{total - labelled:,} of {total:,} rows have no label, and were left out")
    if not labelled:
        raise Untried(f"none of {total:,} rows has a label")
    if labelled > MAX_ROWS:
        notes.append(f"of {labelled:,} rows {MAX_ROWS:,} were drawn by a seed")
        drawn = np.random.default_rng(SEED).choice(labelled, MAX_ROWS, replace=False)
        places = np.flatnonzero(chosen)[drawn]
        chosen = np.zeros(total, dtype=bool)
        chosen[places] = True
    labels, slices = [], []
    beside = [name for name in trial.slices[:MAX_SLICE_COLUMNS] if name in names]
    for batch, here in _batches(trial.files, list(dict.fromkeys([trial.label, *beside])), chosen, check):
        rows = batch.filter(pa.array(here))
        labels.append(rows.column(trial.label))
        slices.append({name: _cut_texts(rows.column(name)) for name in beside})
    texts = {name: pa.array(np.concatenate([each[name] for each in slices]), pa.string()) for name in beside}
    groups = _groups(trial, chosen, check)
    return HeldOut(trial.files, names, chosen, _values(pa.chunked_array(labels)), pa.table(texts), groups, tuple(notes))


def _groups(trial: Trial, chosen: NDArray[np.bool_], check: Callable[[], None]) -> Groups | None:
    if not trial.groups:
        return None
    found = _batches(trial.groups, pq.read_schema(trial.groups[0]).names, chosen, check)
    return Groups.of(key for batch, here in found for key in batch.filter(pa.array(here)).column(0).to_pylist())


def _batches(
    files: Sequence[Path], columns: Sequence[str], chosen: NDArray[np.bool_], check: Callable[[], None]
) -> Iterator[tuple[pa.RecordBatch, NDArray[np.bool_]]]:
    """Give all rows of files with some columns, and of each whether it is chosen."""
    begin = 0
    for path in files:
        names = pq.read_schema(path).names
        for batch in read_batches(path, [name for name in columns if name in names], BATCH_ROWS):
            check()
            yield batch, chosen[begin : begin + batch.num_rows]
            begin += batch.num_rows


def _known(label: pa.Array) -> NDArray[np.bool_]:
    known = pc.is_valid(label)
    if pa.types.is_floating(label.type):
        known = pc.and_(known, pc.fill_null(pc.is_finite(label), False))
    return np.asarray(known.to_numpy(zero_copy_only=False), dtype=bool)


def _cut_texts(column: pa.Array) -> NDArray[np.object_]:
    """Give the texts of values, cut where they are too long to be slices anyway; of one that is missing the empty."""
    texts = np.empty(len(column), dtype=object)
    texts[:] = ["" if value is None else text_of(value)[: MAX_VALUE_CHARS + 1] for value in column.to_pylist()]
    return texts


def _values(label: pa.ChunkedArray) -> NDArray[Any]:
    if pa.types.is_floating(label.type) or pa.types.is_integer(label.type) or pa.types.is_boolean(label.type):
        return np.asarray(label.to_numpy(zero_copy_only=False))
    values = np.empty(len(label), dtype=object)
    values[:] = label.to_pylist()
    return values
