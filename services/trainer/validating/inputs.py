"""Rows of a table as what a version takes, by its signature."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.api.registry.v1.registry_pb2 import ModelVersion
from penstock.api.tensors.v1.tensors_pb2 import TensorSpec
from penstock.tensors import DTYPES, datatype_name
from services.trainer.validating.held_out import HeldOut
from services.trainer.validating.models import Untried

MATRIX_RANK: Final = 2
_TEXT_BYTES: Final = 8
"""Of a text beside its characters, with what says how long it is."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a version is asked: an array by the name of an input, each with a row a row of the table.

    Attributes:
        arrays: by input.
        row_count: rows.
        batched: whether several rows may go in one request and be answered as if each went alone.
    """

    arrays: Mapping[str, NDArray[Any]]
    row_count: int
    batched: bool

    def between(self, begin: int, end: int) -> dict[str, NDArray[Any]]:
        """Give some rows."""
        return {name: array[begin:end] for name, array in self.arrays.items()}

    def finite(self) -> NDArray[np.bool_]:
        """Say of each row whether all its numbers are finite: what is missing of floats is none."""
        found = np.ones(self.row_count, dtype=bool)
        for array in self.arrays.values():
            if array.dtype.kind == "f":
                found &= np.isfinite(array).reshape(self.row_count, -1).all(axis=1)
        return found

    def pieces(self, row_count: int, size_bytes: int) -> Iterator[dict[str, NDArray[Any]]]:
        """Give all rows in pieces of at most so many, and of no more bytes, save where a single row has more."""
        ends = np.cumsum(sum(map(_sizes, self.arrays.values())))
        begin, before = 0, 0
        while begin < self.row_count:
            end = min(begin + row_count, int(np.searchsorted(ends, before + size_bytes, side="right")))
            end = max(end, begin + 1)
            yield self.between(begin, end)
            begin, before = end, int(ends[end - 1])


Rows = Callable[[], Iterator[Inputs]]
"""Gives all rows, some at a time, from the first on each time."""


def all_inputs(version: ModelVersion, rows: HeldOut, check: Callable[[], None] = lambda: None) -> Rows:
    """Give what lays held-out rows out as a version takes them, some at a time, from the first on each time.

    Raises as `inputs_of`; so does what it gives, where it comes to values that the version cannot take.
    """
    columns = _columns(version)
    missing = next((name for name in columns if name not in rows.columns), None)
    if missing is not None:
        raise Untried(f"{version.version} takes a column {missing!r}, which the rows do not have")
    return lambda: (inputs_of(version, each) for each in rows.batches(columns, check))


def finite_rows(rows: Rows) -> NDArray[np.bool_]:
    """Say of each row whether all numbers that it has for a version are finite."""
    return np.concatenate([inputs.finite() for inputs in rows()])


def inputs_of(version: ModelVersion, rows: pa.Table) -> Inputs:
    """Lay rows out as a version takes them; they have the columns for it, see `all_inputs`.

    A matrix takes the columns that its signature names, in their order; an input of one column the column of its name.
    Missing numbers are NaN, missing texts are empty; whole numbers and booleans cannot be missing.

    Raises:
        Untried: the rows have values that the version cannot take.
    """
    specs = version.signature.inputs
    arrays = {spec.name: _array(version.version, spec, rows) for spec in specs}
    free = all(spec.shape and spec.shape[0] == -1 for spec in specs)
    return Inputs(arrays, rows.num_rows, batched=free and version.validation.rows_independent)


def _columns(version: ModelVersion) -> Sequence[str]:
    """Give the columns that a version takes."""
    specs = version.signature.inputs
    if not specs:
        raise Untried(f"{version.version} takes no tensors, so rows cannot be given to it")
    return list(dict.fromkeys(name for spec in specs for name in spec.columns or [spec.name]))


def _sizes(array: NDArray[Any]) -> NDArray[np.int64]:
    """Say how many bytes each row takes in a request."""
    if array.dtype != object:
        return np.full(len(array), array.nbytes // max(1, len(array)), dtype=np.int64)
    rows = array.reshape(len(array), -1)
    return np.fromiter((sum(len(text.encode()) + _TEXT_BYTES for text in row) for row in rows), np.int64, len(rows))


def _array(version: str, spec: TensorSpec, rows: pa.Table) -> NDArray[Any]:
    dtype = DTYPES.get(datatype_name(spec.datatype))
    if dtype is None:
        raise Untried(f"{version} takes {spec.name} as {datatype_name(spec.datatype)}, which rows cannot be given as")
    if spec.columns:
        return np.column_stack([_column(version, name, rows, dtype) for name in spec.columns])
    width = spec.shape[-1] if len(spec.shape) == MATRIX_RANK else 1
    if len(spec.shape) not in (1, MATRIX_RANK) or width not in (1, -1):
        sentence = f"{version} takes {spec.name} {list(spec.shape)} and does not say what its columns are called"
        raise Untried(f"{sentence}; register it with `columns`")
    column = _column(version, spec.name, rows, dtype)
    return column if len(spec.shape) == 1 else column.reshape(-1, 1)


def _column(version: str, name: str, rows: pa.Table, dtype: np.dtype[Any]) -> NDArray[Any]:
    column = rows.column(name)
    try:
        if dtype.kind == "O":
            return _texts(column)
        if dtype.kind == "f":
            # What is missing is NaN: as the recipes' own preprocessing has it.
            floats: NDArray[Any] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
            return floats.astype(dtype)
        if column.null_count:
            raise Untried(f"{version} takes {name!r} as {dtype}, which cannot be missing, and some are")
        whole: NDArray[Any] = column.cast(pa.from_numpy_dtype(dtype)).to_numpy(zero_copy_only=False)
        return whole
    except pa.ArrowException as error:
        raise Untried(f"{version} takes {name!r} as {dtype}: {str(error).splitlines()[0]}") from error


def _texts(column: pa.ChunkedArray) -> NDArray[np.object_]:
    texts = np.empty(len(column), dtype=object)
    texts[:] = pc.fill_null(column.cast(pa.string()), "").to_pylist()
    return texts
