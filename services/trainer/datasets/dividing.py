"""Dividing versions: a split is worked out from the rows, and recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from services.common.errors import InvalidArgument, NotFound
from services.trainer.datasets.files import RowFiles, read_column
from services.trainer.datasets.models import Dataset, KeptSplit
from services.trainer.datasets.rows.limits import shown
from services.trainer.datasets.splits import DefaultSplit, Split, SplitBy, check_filled, counts_of, parts_of
from services.trainer.datasets.store import DatasetStore
from services.trainer.datasets.traffic import INFERENCE_ID

MAX_NAMED: Final = 20
"""Columns that a refusal lists."""


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


def default_split(dataset: Dataset, said: DefaultSplit | None = None) -> Split:
    """Say how a version is divided where nobody said by what: live traffic by what it was asked under, other rows by
    seed. Nothing of a recipe counts, its label among it: whatever is trained and tried, the same rows are held out.

    Raises:
        InvalidArgument: it is live traffic, and to be spread evenly over a column's values (INVALID_PARAMETERS).
    """
    said = said or DefaultSplit()
    split = Split(train_share=said.train_share, validation_share=said.validation_share, seed=said.seed)
    if dataset.source.traffic is not None:
        check_unspread(dataset.reference, said)
        # Rows have other places when the window moves: by those, what the live version learned from would judge it.
        return replace(split, by=SplitBy.KEY, column=INFERENCE_ID)
    if said.stratify_column:
        return replace(split, stratify_column=said.stratify_column)
    return split


def check_unspread(traffic: str, said: DefaultSplit) -> None:
    """See that nobody wants live traffic spread evenly; raises InvalidArgument (INVALID_PARAMETERS)."""
    if said.stratify_column:
        sentence = (
            f"{traffic} is live traffic, which is divided by {INFERENCE_ID} and cannot be spread evenly over a "
            "column's values then; leave it out, or say by: seed, with which rows change their part as time goes on"
        )
        raise InvalidArgument.field("split.stratify_column", sentence, reason="INVALID_PARAMETERS")


def check_columns(dataset: Dataset, split: Split) -> None:
    """See that a split's column is there; raises InvalidArgument (UNKNOWN_COLUMN)."""
    name, field = split.read_column, "split.column" if split.by is not SplitBy.SEED else "split.stratify_column"
    check_named(dataset.reference, [column.name for column in dataset.rows.columns], {field: [name] if name else []})


def check_named(reference: str, columns: Sequence[str], named: Mapping[str, Sequence[str]]) -> None:
    """See that columns which are named, by the field that names them, are there; raises InvalidArgument
    (UNKNOWN_COLUMN), which lists those that are.
    """
    there = set(columns)
    for field, names in named.items():
        missing = next((name for name in names if name not in there), None)
        if missing is not None:
            more = f" and {len(columns) - MAX_NAMED:,} more" if len(columns) > MAX_NAMED else ""
            listed = ", ".join(map(shown, columns[:MAX_NAMED])) + more
            sentence = f"{reference} has no column {shown(missing)}; it has {listed}"
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
