"""Protobuf messages as the JSON documents that `--json` prints.

As protobuf's own JSON mapping with the original field names, save three things. 64-bit integers are numbers. A NaN or
an infinity is a string ("NaN", "Infinity", "-Infinity") also inside a Struct, where protobuf refuses it. Enums are the
words that options take (`production`, `onnx`; null where nothing was given), and datatypes the Open Inference
Protocol's (`FP32`), so that one word is the same in every command and every argument.
Fields without presence always stand, whatever they hold, so that scripts need not ask.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, MutableSequence, Sequence
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

_ENUM = FieldDescriptor.CPPTYPE_ENUM
_DATATYPES = "penstock.api.tensors.v1.DataType"


def document_of(message: Message) -> Any:
    """Turn a message into what json.dumps takes: a dict, or what a well-known type stands for."""
    if isinstance(message, Timestamp | Duration):
        return message.ToJsonString()
    if isinstance(message, Struct):
        return {name: document_of(value) for name, value in sorted(message.fields.items())}
    if isinstance(message, ListValue):
        return [document_of(value) for value in message.values]
    if isinstance(message, Value):
        kind = message.WhichOneof("kind")
        return None if kind in (None, "null_value") else _scalar(getattr(message, kind))
    return {
        field.name: _field(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _field(field: Any, value: Any) -> Any:
    # By the container, not the descriptor: `is_repeated` is younger than the oldest protobuf supported.
    # Struct and ListValue pose as containers too, and are messages first.
    if isinstance(value, Message):
        return _one(field, value)
    if isinstance(value, Mapping):
        return {str(key): _scalar(item) for key, item in sorted(value.items())}
    if isinstance(value, MutableSequence):
        return [_one(field, item) for item in value]
    return _one(field, value)


def _one(field: Any, value: Any) -> Any:
    if field.cpp_type == _ENUM and field.enum_type is not None:
        return enum_word(field.enum_type, value)
    return _scalar(value)


def enum_word(enum: EnumDescriptor, number: int) -> str | int | None:
    """Write an enum's value as people type it; None for UNSPECIFIED, and the number where this side knows no name."""
    known = enum.values_by_number.get(number)
    if known is None or number == 0:
        return None if number == 0 else number
    word = known.name.removeprefix(enum.values_by_number[0].name.removesuffix("UNSPECIFIED"))
    return word if enum.full_name == _DATATYPES else word.lower()


def _scalar(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float):
        return json_float(value)
    return value if isinstance(value, str | int) else document_of(value)


def json_float(value: float) -> float | str:
    """Give a number, or the string that JSON must make do with where the number is not finite."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def json_value(value: Any) -> Any:
    """Turn nested lists and dicts of Python scalars into what strict JSON can hold."""
    if isinstance(value, float):
        return json_float(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, Mapping):
        return {str(name): json_value(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [json_value(item) for item in value]
    return value


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name values within mappings by their whole path: `serving_settings.pinned`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flattened(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat
