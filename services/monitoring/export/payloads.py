"""Payloads as JSON, in a form that every reader of JSON takes."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from typing import Any

import numpy as np
from google.protobuf.struct_pb2 import Struct, Value
from numpy.typing import NDArray

from penstock.api.monitoring.v1.monitoring_pb2 import Payload
from penstock.api.tensors.v1.tensors_pb2 import DataType, Tensor
from penstock.errors import InvalidArgument
from penstock.tensors import datatype_name, from_tensor
from penstock.values import MAX_EXACT


def payload_json(data: bytes) -> str:
    """Write a serialised Payload as an object of its values by name, a tensor as nested lists.

    NaN and the infinities are the strings "NaN", "Infinity" and "-Infinity", as in protobuf's own JSON. Byte strings
    that are no UTF-8 are {"base64": …}, and so are, with their datatype and shape, tensors whose bytes do not fit them.
    """
    payload = Payload.FromString(data)
    if payload.WhichOneof("kind") == "tensors":
        values: dict[str, Any] = {tensor.name: _of_tensor(tensor) for tensor in payload.tensors.tensors}
    else:
        values = _of_fields(payload.fields)
    return to_json(values)


def to_json(value: Any) -> str:
    """Write JSON without blanks; the value must be `strict` already."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def strict(value: Any) -> Any:
    """Give what strict JSON can hold of a value, or of lists of them."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return [strict(item) for item in value] if isinstance(value, list) else value


def _of_value(value: Value) -> Any:
    """Give what strict JSON can hold of a value, in one go: most of an export's time is spent here."""
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) <= MAX_EXACT else strict(number)
    if kind == "list_value":
        return [_of_value(item) for item in value.list_value.values]
    if kind == "struct_value":
        return _of_fields(value.struct_value)
    return None if kind is None or kind == "null_value" else getattr(value, kind)


def _of_fields(struct: Struct) -> dict[str, Any]:
    # A map has no order of its own: by name, so that equal events are equal texts.
    return {name: _of_value(value) for name, value in sorted(struct.fields.items())}


def _of_tensor(tensor: Tensor) -> Any:
    try:
        values = _floats_of_bfloat16(tensor) if tensor.datatype == DataType.DATA_TYPE_BF16 else from_tensor(tensor)
        if not values.size and values.shape[0]:  # no bytes claim a thousand million empty lists
            raise ValueError(values.shape)
    except (InvalidArgument, ValueError):
        shape, encoded = list(tensor.shape), b64encode(tensor.raw).decode()
        return {"datatype": datatype_name(tensor.datatype), "shape": shape, "base64": encoded}
    if values.dtype == object:
        return _texts(values.tolist())
    if values.dtype.kind != "f":
        return values.tolist()
    if values.itemsize < 8:
        # By way of the shortest decimal: 5.1, and not the 5.099999904632568 that its nearest double is.
        values = values.astype(np.str_).astype(np.float64)
    return values.tolist() if np.isfinite(values).all() else strict(values.tolist())


def _floats_of_bfloat16(tensor: Tensor) -> NDArray[np.float32]:
    """Read the upper halves of floats; numpy has no type for them."""
    halves = np.frombuffer(tensor.raw, "<u2").astype("<u4")
    return (halves << 16).view("<f4").reshape(tuple(tensor.shape))


def _texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_texts(item) for item in value]
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(value).decode()}
