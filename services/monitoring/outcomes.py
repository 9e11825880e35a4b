"""What a prediction says of each row, in a form in which equal outcomes are equal texts.

The form is a JSON literal: numbers by value (2 and 2.0 are `2`), booleans as 1 and 0 (a model says 1 where people say
true), strings in quotes, and a string that is a plain decimal number as that number. PostgreSQL then compares what the
model said with what really happened by `=`, whichever of the two comes first.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Sequence

import numpy as np
from google.protobuf.struct_pb2 import Struct, Value
from numpy.typing import NDArray

from penstock.api.monitoring.v1.monitoring_pb2 import Payload
from penstock.api.tensors.v1.tensors_pb2 import DataType, Tensor
from services.monitoring.models import MAX_OUTCOMES

MAX_OUTCOME_CHARS = 1_024
"""A longer text is no label."""
LABEL_FIELDS = ("label", "prediction", "outcome")
Outcomes = tuple[str | None, ...]

_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?P<fraction>\.[0-9]{1,17})?")
# How one of them lies in memory. The enum's names are looked up here once: each look takes a microsecond.
_LABELS: dict[int, struct.Struct] = {
    datatype: struct.Struct(f"<{code}")
    for datatype, code in (
        (DataType.DATA_TYPE_BOOL, "B"),
        (DataType.DATA_TYPE_UINT8, "B"),
        (DataType.DATA_TYPE_UINT16, "H"),
        (DataType.DATA_TYPE_UINT32, "I"),
        (DataType.DATA_TYPE_UINT64, "Q"),
        (DataType.DATA_TYPE_INT8, "b"),
        (DataType.DATA_TYPE_INT16, "h"),
        (DataType.DATA_TYPE_INT32, "i"),
        (DataType.DATA_TYPE_INT64, "q"),
    )
}
_BYTES = DataType.DATA_TYPE_BYTES
_SCORES: dict[int, str] = {
    DataType.DATA_TYPE_FP16: "<f2",
    DataType.DATA_TYPE_FP32: "<f4",
    DataType.DATA_TYPE_FP64: "<f8",
}


def literal_of(value: bool | float | str | None) -> str | None:
    """Give the literal of one outcome; None where it is none: not finite, or too long a text."""
    if value is None:
        return None
    if isinstance(value, str):
        return _literal_of_text(value)
    if isinstance(value, int):
        return str(int(value))
    if not math.isfinite(value):
        return None
    return str(int(value)) if value.is_integer() else repr(value)


def value_of(literal: str) -> float | str:
    """Read a literal back."""
    value = json.loads(literal)
    return value if isinstance(value, str) else float(value)


def _literal_of_text(text: str) -> str | None:
    if len(text) > MAX_OUTCOME_CHARS:
        return None
    decimal = _DECIMAL.fullmatch(text)
    if decimal is None:
        return json.dumps(text, ensure_ascii=False)
    return literal_of(float(text) if decimal["fraction"] else int(text))


def outcomes_of(prediction: Payload, row_count: int) -> Outcomes | None:
    """Find the label of each row; None where the prediction has none for exactly `row_count` rows.

    Among tensors: the first integer, string or boolean one of shape [N] or [N, 1]; else the first float one of
    shape [N, K], K > 1, by its largest column's index. Among fields: `label`, `prediction` or `outcome`, a list
    being one value a row, or else the only field.
    """
    if row_count > MAX_OUTCOMES:
        return None
    if prediction.WhichOneof("kind") == "fields":
        found = _of_fields(prediction.fields)
    else:
        found = _of_tensors(prediction.tensors.tensors)
    return found if found is not None and len(found) == row_count else None


def _of_tensors(tensors: Sequence[Tensor]) -> Outcomes | None:
    for tensor in tensors:
        shape = tensor.shape
        dimensions = len(shape)
        if dimensions == 1 or (dimensions == 2 and shape[1] == 1):
            labels = _labels(tensor, shape[0])
            if labels is not None:
                return labels
    for tensor in tensors:
        shape = tensor.shape
        if len(shape) == 2 and shape[1] > 1:
            scores = _scores(tensor, shape[0], shape[1])
            if scores is not None:
                return _best_columns(scores)
    return None


def _labels(tensor: Tensor, rows: int) -> Outcomes | None:
    datatype, raw = tensor.datatype, tensor.raw
    if datatype == _BYTES:
        texts = _texts(raw)
        return tuple(texts) if texts is not None and len(texts) == rows else None
    one = _LABELS.get(datatype)
    if one is None or not 0 <= rows <= MAX_OUTCOMES or len(raw) != rows * one.size:
        return None
    if rows == 1:
        return (str(*one.unpack(raw)),)
    return tuple(str(label) for (label,) in one.iter_unpack(raw))


def _texts(raw: bytes) -> list[str | None] | None:
    """Split length-prefixed strings; None where the lengths do not add up."""
    texts: list[str | None] = []
    position = 0
    while position < len(raw):
        if position + 4 > len(raw):
            return None
        (length,) = struct.unpack_from("<I", raw, position)
        position += 4 + length
        if position > len(raw):
            return None
        try:
            texts.append(literal_of(raw[position - length : position].decode()))
        except UnicodeDecodeError:
            texts.append(None)
    return texts


def _scores(tensor: Tensor, rows: int, columns: int) -> NDArray[np.floating] | None:
    dtype = _SCORES.get(tensor.datatype)
    if dtype is None or rows < 0 or len(tensor.raw) != rows * columns * np.dtype(dtype).itemsize:
        return None
    return np.frombuffer(tensor.raw, dtype).reshape(rows, columns)


def _best_columns(scores: NDArray[np.floating]) -> Outcomes:
    unsure = np.isnan(scores).any(axis=1).tolist()
    return tuple(None if nan else str(best) for best, nan in zip(scores.argmax(axis=1).tolist(), unsure, strict=True))


def _of_fields(fields: Struct) -> Outcomes | None:
    named = next((fields.fields[name] for name in LABEL_FIELDS if name in fields.fields), None)
    if named is None and len(fields.fields) == 1:
        named = next(iter(fields.fields.values()))
    if named is None:
        return None
    rows: Iterable[Value] = named.list_value.values if named.WhichOneof("kind") == "list_value" else (named,)
    literals = tuple(_literal_of_value(row) for row in rows)
    return literals if any(literal is not None for literal in literals) else None


def _literal_of_value(value: Value) -> str | None:
    kind = value.WhichOneof("kind")
    if kind not in ("bool_value", "number_value", "string_value"):
        return None
    return literal_of(getattr(value, kind))
