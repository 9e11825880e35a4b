"""Which columns are learned from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.row_parameters import RowParameters

RESERVED: Final = frozenset(
    {
        "prediction", "confidence", "event_time", "inference_id", "inference_row", "model_version",
        "label", "probabilities",
    }
)  # fmt: skip
"""What traffic has beside its features, and what versions answer: no feature, whoever says so."""
_IDENTIFIER: Final = re.compile(r"(?:.*_)?(?:id|uuid)", re.IGNORECASE)
_MAX_NOTE_CHARS: Final = 900


@dataclass(frozen=True, slots=True)
class Chosen:
    """The columns to learn from, in order, and a sentence for each group that is left out."""

    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def choose(table: pa.Table, parameters: RowParameters) -> Chosen:
    """Choose among the training rows' columns, as RowParameters says.

    Raises:
        TrainingFailed: INVALID_PARAMETERS: a column that is asked for is not there, or cannot be learned from;
            INVALID_DATA: nothing is left to learn from.
    """
    if parameters.feature_columns:
        for name in parameters.feature_columns:
            why = "is not among the rows' columns" if name not in table.column_names else _never(table, name)
            if why:
                raise TrainingFailed(f"feature_columns: {name!r} {why}", reason="INVALID_PARAMETERS")
        return Chosen(parameters.feature_columns)
    names, left_out = [], []
    for name in table.column_names:
        if name == parameters.label_column or name in parameters.ignore_columns:
            continue
        why = _never(table, name) or _not_unasked(table, name, parameters.max_categories)
        if why:
            left_out.append(f"{name} ({why})")
        else:
            names.append(name)
    notes = [f"not learned from: {', '.join(left_out)}"[:_MAX_NOTE_CHARS]] if left_out else []
    if not names:
        said = f"; {notes[0]}" if notes else ""
        raise TrainingFailed(f"the rows have no column to learn from{said}", reason="INVALID_DATA")
    unknown = sorted(set(parameters.ignore_columns) - set(table.column_names))
    if unknown:
        notes.append(f"ignore_columns: the rows have no {', '.join(unknown)}"[:_MAX_NOTE_CHARS])
    return Chosen(tuple(names), tuple(notes))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column's values are texts."""
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner))


def is_number(kind: pa.DataType) -> bool:
    """Whether a column's values are numbers, or booleans, which are 1 and 0."""
    return bool(pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind))


def numbers_of(table: pa.Table, name: str) -> NDArray[np.float32]:
    """Read a column as it is served, in single precision; NaN where there is none."""
    # What single precision does not hold becomes infinite, and that counts as missing.
    numbers = table.column(name).cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return np.asarray(numbers, np.float32)


def texts_in(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Read a column as it is served: '' where there is no text."""
    column = table.column(name)
    return pc.fill_null(column.cast(pa.large_string()), "")


def _never(table: pa.Table, name: str) -> str:
    """Say why nothing can be learned from a column; '' where something can."""
    if name in RESERVED:
        return "what models answer"
    kind = table.schema.field(name).type
    if pa.types.is_timestamp(kind) or pa.types.is_temporal(kind):
        return "a time"
    if is_number(kind):
        return "" if np.isfinite(numbers_of(table, name)).any() else "no value in any training row"
    if is_text(kind):
        return "" if _kinds(table, name) else "no value in any training row"
    return "no value in any training row" if pa.types.is_null(kind) else f"of type {kind}"


def _not_unasked(table: pa.Table, name: str, max_categories: int) -> str:
    if _IDENTIFIER.fullmatch(name):
        return "an identifier"
    if is_text(table.schema.field(name).type) and (kinds := _kinds(table, name)) > max_categories:
        return f"{kinds} kinds of text, and max_categories is {max_categories}"
    return ""


def _kinds(table: pa.Table, name: str) -> int:
    texts = texts_in(table, name)
    return int(pc.count_distinct(texts.filter(pc.not_equal(texts, ""))).as_py())


def require(table: pa.Table, numbers: Sequence[str], texts: Sequence[str]) -> None:
    """Check that rows have what a version takes; raises TrainingFailed(INVALID_DATA), naming what is missing."""
    for names, fits, what in ((numbers, is_number, "numbers"), (texts, is_text, "texts")):
        for name in names:
            kind = table.schema.field(name).type if name in table.column_names else None
            if kind is None or not (fits(kind) or pa.types.is_null(kind)):
                came = "they have no such column" if kind is None else f"there it is of type {kind}"
                sentence = f"the version takes {what} in the column {name!r} of the rows, and {came}"
                raise TrainingFailed(sentence, reason="INVALID_DATA")
