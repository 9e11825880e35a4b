"""Rows of another dataset with features beside them, as they were known at each row's time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from penstock import Client
from services.trainer.datasets.faults import BuildFailed, FeaturesUnavailable, asked_until_stopped, asking
from services.trainer.datasets.kinds import ColumnType
from services.trainer.datasets.models import FeatureSource
from services.trainer.datasets.rows.arrow import ARROW, types_of
from services.trainer.datasets.rows.writing import read_batches
from services.trainer.task import Stopping

_BATCH_ROWS: Final = 8_192
_KINDS: Final = {
    "f": ColumnType.FLOAT64,
    "i": ColumnType.INT64,
    "u": ColumnType.INT64,
    "b": ColumnType.BOOL,
    "O": ColumnType.STRING,
}


class FeatureRows:
    """Reads features through the registry, which serves the feature store."""

    def __init__(self, open_client: Callable[[], Client]) -> None:
        self._open_client = open_client

    def batches(
        self, source: FeatureSource, rows: Path, stopping: Stopping, check: Callable[[int], None]
    ) -> Iterator[pa.RecordBatch]:
        """Give the rows of a file with features beside them; `check` is told how many, and may raise.

        Raises:
            FeaturesUnavailable: tried again.
            BuildFailed: a view, a feature or a column is not there, or a row has no key or no time.
        """
        views = views_of(source.features)
        done = 0
        with asked_until_stopped(self._open_client, stopping) as client:
            for batch in read_batches(rows, batch_rows=_BATCH_ROWS):
                check(done)
                keys, times = _keyed(batch, source, done)
                with asking(FeaturesUnavailable, "the feature store"):
                    (found,) = client.features.get_as_of(views, keys, times)
                done += batch.num_rows
                yield _beside(batch, found)


def views_of(features: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Read `view`, `view@2` and `view:feature` as views with the features that are wanted of each; () is all."""
    found: dict[str, list[str]] = {}
    whole = {text for text in features if ":" not in text}
    for text in features:
        view, _, feature = text.partition(":")
        chosen = found.setdefault(view, [])
        if feature and view not in whole and feature not in chosen:
            chosen.append(feature)
    return found


def _keyed(batch: pa.RecordBatch, source: FeatureSource, done: int) -> tuple[list[str], list[Any]]:
    types = types_of(batch.schema)
    for column, wanted in ((source.key_column, (ColumnType.STRING, ColumnType.INT64)),
                           (source.time_column, (ColumnType.TIMESTAMP,))):  # fmt: skip
        if column not in types:
            raise BuildFailed(f"{source.rows} has no column {column!r}", reason="UNKNOWN_COLUMN")
        if types[column] not in wanted:
            kinds = " or ".join(wanted)
            raise BuildFailed(
                f"column {column!r} of {source.rows} is {types[column]}, not {kinds}", reason="WRONG_TYPE"
            )
        values = batch.column(column)
        if values.null_count:
            row = done + 1 + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
            sentence = f"row {row} of {source.rows} has no {column!r}; leave out rows without key or time"
            raise BuildFailed(sentence, reason="MALFORMED_ROWS")
    keys = [str(key) for key in batch.column(source.key_column).to_pylist()]
    return keys, batch.column(source.time_column).to_pylist()


def _beside(batch: pa.RecordBatch, found: Mapping[str, Any]) -> pa.RecordBatch:
    names, columns = list(batch.schema.names), list(batch.columns)
    for view, values in found.items():
        for feature, array in values.columns.items():
            name = f"{view}.{feature}"
            if name in names:
                raise BuildFailed(f"two columns would be called {name!r}; rename that of the rows", reason="NAME_TAKEN")
            names.append(name)
            columns.append(_arrow(array, values.missing[feature]))
    return pa.RecordBatch.from_arrays(columns, names=names)


def _arrow(array: np.ndarray[Any, Any], missing: np.ndarray[Any, Any]) -> Any:
    if array.ndim == 2:
        lists = [None if gone else row for row, gone in zip(array.tolist(), missing.tolist(), strict=True)]
        return pa.array(lists, ARROW[ColumnType.FLOAT64_LIST])
    kind = _KINDS[array.dtype.kind]
    if kind is ColumnType.STRING:
        texts = [None if gone else str(value) for value, gone in zip(array.tolist(), missing.tolist(), strict=True)]
        return pa.array(texts, ARROW[kind])
    return pa.array(array, mask=missing).cast(ARROW[kind])
