"""Features by name, as people and JSON have them, as the tensors that the model takes."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from services.common.errors import InvalidArgument
from services.inference.models import ANY, Signature, TensorSpec
from services.inference.tensors import BFLOAT16, Tensor, dtype_of

Nested = Any
"""A number, string, boolean or None, or a list of Nested."""
MAX_ECHOED_CHARS: Final = 64
_MISSING_TEXT: Final = 'the text that stands for a missing one ("" for versions that a recipe trained)'


def from_features(features: Struct, signature: Signature) -> dict[str, Tensor]:
    """Build every input from the features: by the input's own name, or column by column where it declares columns.

    A flat list for a rank-2 input is one row, a single value is one row of one; where the rows have one column, a
    flat list is one value a row. A column takes one value, or a list with one value a row. None is NaN in a float.

    Raises:
        InvalidArgument: MISSING_INPUT, UNKNOWN_INPUT, DATATYPE_MISMATCH, VALUE_OUT_OF_RANGE, RAGGED_INPUT,
            RANK_MISMATCH.
    """
    given = features.fields
    taken: set[str] = set()
    inputs: dict[str, Tensor] = {}
    for spec in signature.inputs:
        if spec.name in given:
            taken.add(spec.name)
            inputs[spec.name] = _whole(spec, _nested(given[spec.name]))
        elif any(column in given for column in spec.columns):
            taken.update(spec.columns)
            inputs[spec.name] = _from_columns(
                spec, {name: _nested(given[name]) for name in spec.columns if name in given}
            )
        else:
            raise InvalidArgument.field(
                spec.name, f"this input is missing; {_takes(signature)}", reason="MISSING_INPUT"
            )
    _refuse_unknown(given, taken, signature)
    return inputs


@dataclass(frozen=True, slots=True)
class Given:
    """What a request brings where the rest is filled in: whole inputs, and columns of others, by name."""

    inputs: dict[str, Tensor]
    columns: dict[str, Tensor]


def given_in(features: Struct, signature: Signature) -> Given:
    """Read the features that are there, as `from_features` does.

    Raises:
        InvalidArgument: as `from_features`, but for what is missing; and where an input came both whole and by
            columns (DUPLICATE_INPUT).
    """
    given = features.fields
    inputs = {spec.name: _whole(spec, _nested(given[spec.name])) for spec in signature.inputs if spec.name in given}
    columns: dict[str, Tensor] = {}
    for spec in signature.inputs:
        for name in spec.columns:
            if name in given and name not in inputs:
                if spec.name in inputs:
                    sentence = f"it is a column of {spec.name!r}, which came as well; send one of them"
                    raise InvalidArgument.field(name, sentence, reason="DUPLICATE_INPUT")
                columns[name] = _whole(TensorSpec(name, spec.datatype, (ANY,)), _nested(given[name]))
    _refuse_unknown(given, inputs.keys() | columns.keys(), signature)
    return Given(inputs, columns)


def _refuse_unknown(given: Iterable[str], taken: Collection[str], signature: Signature) -> None:
    unknown = next((name for name in given if name not in taken), None)
    if unknown is not None:
        shown = unknown[:MAX_ECHOED_CHARS]
        raise InvalidArgument.field(shown, f"the model has no such input; {_takes(signature)}", reason="UNKNOWN_INPUT")


def _whole(spec: TensorSpec, value: Nested) -> Tensor:
    shape = _shape(spec.name, value)
    array = _array(spec, value, shape)
    rank = len(spec.shape)
    if array.ndim == rank:
        return array
    if array.ndim == 1 and rank == 2:
        one_column = spec.shape[1] == 1 and array.size != 1
        return array.reshape(-1, 1) if one_column else array.reshape(1, -1)
    if array.ndim == rank - 1 or array.ndim == 0:
        return array.reshape((1,) * (rank - array.ndim) + array.shape)
    raise InvalidArgument.field(
        spec.name,
        f"lists nested {array.ndim} deep came; the model takes rank {rank}, {list(spec.shape)}, where -1 is any size",
        reason="RANK_MISMATCH",
    )


def _from_columns(spec: TensorSpec, columns: dict[str, Nested]) -> Tensor:
    arrays: dict[str, Tensor] = {}
    for name in spec.columns:
        if name not in columns:
            listed = ", ".join(map(repr, spec.columns))
            raise InvalidArgument.field(
                name, f"this column of {spec.name!r} is missing; it takes {listed}", reason="MISSING_INPUT"
            )
        column = TensorSpec(name, spec.datatype, (ANY,))
        arrays[name] = _whole(column, columns[name])
    return stack_columns(spec, arrays)


def stack_columns(spec: TensorSpec, columns: Mapping[str, Tensor]) -> Tensor:
    """Put an input's columns, each of one value or one a row, side by side; raises InvalidArgument (RAGGED_INPUT)."""
    arrays = [columns[name] for name in spec.columns]
    rows = {array.size for array in arrays if array.size != 1} or {1}
    if len(rows) > 1:
        counts = ", ".join(f"{name!r} {array.size}" for name, array in zip(spec.columns, arrays, strict=True))
        raise InvalidArgument.field(spec.name, f"the columns differ in length: {counts}", reason="RAGGED_INPUT")
    (count,) = rows
    return np.stack([np.broadcast_to(array, (count,)) for array in arrays], axis=1)


def _nested(value: Value) -> Nested:
    kind = value.WhichOneof("kind")
    if kind == "list_value":
        return _list(value.list_value)
    if kind == "struct_value":
        return value.struct_value  # no tensor has one; `_array` says so, and names the input
    return None if kind in (None, "null_value") else getattr(value, kind)


def _list(values: ListValue) -> list[Nested]:
    return [_nested(value) for value in values.values]


def _shape(name: str, value: Nested) -> tuple[int, ...]:
    if not isinstance(value, list):
        return ()
    shapes = {_shape(name, item) for item in value} or {()}
    if len(shapes) > 1:
        raise InvalidArgument.field(
            name, "the lists differ in length or depth; every row needs as many values", reason="RAGGED_INPUT"
        )
    return (len(value), *shapes.pop())


def _array(spec: TensorSpec, value: Nested, shape: tuple[int, ...]) -> Tensor:
    dtype = dtype_of(spec.name, spec.datatype)
    flat = [_element(spec, dtype, item) for item in _flatten(value)]
    if dtype.hasobject:
        array = np.empty(len(flat), dtype=object)
        array[:] = flat
        return array.reshape(shape)
    with np.errstate(over="ignore"):  # looked at below
        array = np.array(flat, dtype=dtype)
    if is_float(dtype) and np.isinf(array).any():
        _refuse_overflow(spec, flat, array)
    return array.reshape(shape)


def _refuse_overflow(spec: TensorSpec, values: list[Nested], array: Tensor) -> None:
    """Refuse a finite number that the input's type would turn into infinity."""
    for value, taken in zip(values, array.tolist(), strict=True):
        if math.isinf(taken) and math.isfinite(value):
            raise InvalidArgument.field(
                spec.name, f"{value!r} came; {spec.datatype} does not reach so far", reason="VALUE_OUT_OF_RANGE"
            )


def _flatten(value: Nested) -> list[Nested]:
    if not isinstance(value, list):
        return [value]
    return [leaf for item in value for leaf in _flatten(item)]


def _element(spec: TensorSpec, dtype: np.dtype[Any], value: Nested) -> Nested:
    """Check one value; JSON knows one kind of number only, so an integer input takes whole numbers in range."""
    kind = dtype.kind
    if kind == "O" and isinstance(value, str):
        return value.encode()
    if kind == "b" and isinstance(value, bool):
        return value
    if is_float(dtype) and (value is None or isinstance(value, float)):
        return math.nan if value is None else value
    if kind in "iu" and isinstance(value, float) and value.is_integer():
        limits = np.iinfo(dtype)
        if limits.min <= int(value) <= limits.max:
            return int(value)
    came = "null" if value is None else "an object" if isinstance(value, Struct) else repr(value)[:MAX_ECHOED_CHARS]
    sentence = f"{came} came; the model takes {spec.datatype}"
    if value is None:
        sentence += ", which has no null: send " + (_MISSING_TEXT if kind == "O" else "a value")
    raise InvalidArgument.field(spec.name, sentence, reason="DATATYPE_MISMATCH")


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether a tensor of this type can hold NaN."""
    return dtype.kind == "f" or dtype == BFLOAT16  # whose kind is that of any foreign type


def _takes(signature: Signature) -> str:
    names = [
        f"{spec.name!r}" + (f" (columns {', '.join(map(repr, spec.columns))})" if spec.columns else "")
        for spec in signature.inputs
    ]
    return f"the model takes {', '.join(names) or 'none'}"
