"""Dividing versions: a split is worked out from the rows, and recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from services.common.errors import InvalidArgument, NotFound
from services.trainer.datasets.files import RowFiles, read_column
from services.trainer.datasets.kinds import ColumnType
from services.trainer.datasets.models import Dataset, KeptSplit
from services.trainer.datasets.rows.limits import shown
from services.trainer.datasets.splits import Split, SplitBy, check_filled, counts_of, parts_of
from services.trainer.datasets.store import DatasetStore
from services.trainer.datasets.traffic import INFERENCE_ID

MAX_CLASSES: Final = 20


class Dividing:
    """Divides versions into parts."""

    def __init__(self, store: DatasetStore, files: RowFiles) -> None:
        self._store = store
        self._files = files

    def split(self, dataset: Dataset, split: Split) -> KeptSplit:
        """Divide a version, for good; the same again gives the same split.

        Raises:
            InvalidArgument: INVALID_SHARES, UNKNOWN_COLUMN, EMPTY_PART.
        """
        split.check()
        check_columns(dataset, split)
        known = find_split(dataset, split.id_for(dataset.rows.digest))
        if known is not None:
            check_filled(split, known.counts)
            return known
        with self._files.brought(self._store.blob(dataset.version_id)) as path:
            kept, _ = divided(dataset, split, path)
        check_filled(split, kept.counts)
        self._store.add_split(dataset.version_id, kept)
        return kept


def divided(
    dataset: Dataset, split: Split, path: Path, check: Callable[[], None] = lambda: None
) -> tuple[KeptSplit, NDArray[Any]]:
    """Work a split out from a version's file; gives it, and of each row the number of its part.

    `check` is called several times a second, and may raise.
    """
    column = read_column(path, split.read_column) if split.read_column else None
    parts = parts_of(split, dataset.rows.row_count, column, check)
    return KeptSplit(split.id_for(dataset.rows.digest), split, counts_of(parts)), parts


def default_split(dataset: Dataset, label: str) -> Split:
    """Say how a version is divided where nobody said it: live traffic by what it was asked under, other rows by seed,
    evenly over the label's values that are classes.
    """
    if dataset.source.traffic is not None:
        # Rows have other places when the window moves: by those, what the live version learned from would judge it.
        return Split(by=SplitBy.KEY, column=INFERENCE_ID)
    column = next((each for each in dataset.rows.columns if each.name == label), None)
    whole = column is not None and column.type is ColumnType.INT64 and column.distinct_count <= MAX_CLASSES
    classes = column is not None and (whole or column.type in (ColumnType.STRING, ColumnType.BOOL))
    return replace(Split(), stratify_column=label) if classes else Split()


def check_columns(dataset: Dataset, split: Split) -> None:
    """See that a split's column is there; raises InvalidArgument (UNKNOWN_COLUMN)."""
    name, field = split.read_column, "split.column" if split.by is not SplitBy.SEED else "split.stratify_column"
    names = [column.name for column in dataset.rows.columns]
    if name and name not in names:
        sentence = f"{dataset.reference} has no column {shown(name)}; it has {', '.join(map(shown, names[:20]))}"
        raise InvalidArgument.field(field, sentence, reason="UNKNOWN_COLUMN")


def find_split(dataset: Dataset, split_id: str) -> KeptSplit | None:
    """Find a recorded split."""
    return next((kept for kept in dataset.splits if kept.split_id == split_id), None)


def get_split(dataset: Dataset, split_id: str) -> KeptSplit:
    """Find a recorded split; raises NotFound (SPLIT_NOT_FOUND)."""
    found = find_split(dataset, split_id)
    if found is None:
        sentence = f"{dataset.reference} has no split {shown(split_id)}; divide it first"
        raise NotFound(sentence, reason="SPLIT_NOT_FOUND")
    return found
