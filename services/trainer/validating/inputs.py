"""Rows of a table as what a version takes, by its signature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.api.registry.v1.registry_pb2 import ModelVersion
from penstock.api.tensors.v1.tensors_pb2 import TensorSpec
from penstock.tensors import DTYPES, datatype_name
from services.trainer.validating.models import Untried

MATRIX_RANK: Final = 2


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


def inputs_of(version: ModelVersion, rows: pa.Table) -> Inputs:
    """Lay rows out as a version takes them.

    A matrix takes the columns that its signature names, in their order; an input of one column the column of its name.
    Missing numbers are NaN, missing texts are empty; whole numbers and booleans cannot be missing.

    Raises:
        Untried: the rows lack a column, or have values that the version cannot take.
    """
    specs = version.signature.inputs
    if not specs:
        raise Untried(f"{version.version} takes no tensors, so rows cannot be given to it")
    arrays = {spec.name: _array(version.version, spec, rows) for spec in specs}
    free = all(spec.shape and spec.shape[0] == -1 for spec in specs)
    return Inputs(arrays, rows.num_rows, batched=free and version.validation.rows_independent)


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
    if name not in rows.column_names:
        raise Untried(f"{version} takes a column {name!r}, which the rows do not have")
    column = rows.column(name)
    try:
        if dtype.kind == "O":
            return _texts(column)
        if dtype.kind == "f":
            # What is missing is NaN: as the recipes' own preprocessing has it.
            floats: NDArray[Any] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
            return floats.astype(dtype)
        if column.null_count:
            raise Untried(f"{version} takes {name!r} as {dtype}, which cannot be missing, and {column.null_count} are")
        whole: NDArray[Any] = column.cast(pa.from_numpy_dtype(dtype)).to_numpy(zero_copy_only=False)
        return whole
    except pa.ArrowException as error:
        raise Untried(f"{version} takes {name!r} as {dtype}: {str(error).splitlines()[0]}") from error


def _texts(column: pa.ChunkedArray) -> NDArray[np.object_]:
    texts = np.empty(len(column), dtype=object)
    texts[:] = pc.fill_null(column.cast(pa.string()), "").to_pylist()
    return texts
