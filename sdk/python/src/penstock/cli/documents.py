"""Protobuf messages as the JSON documents that `--json` prints.

As protobuf's own JSON mapping with the original field names, save two things: 64-bit integers are numbers, and a
NaN or an infinity is a string ("NaN", "Infinity", "-Infinity") also inside a Struct, where protobuf refuses it.
Fields without presence always stand, whatever they hold, so that scripts need not ask.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, MutableSequence, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

_ENUM = FieldDescriptor.CPPTYPE_ENUM


def document_of(message: Message) -> Any:
    """Turn a message into what json.dumps takes: a dict, or what a well-known type stands for."""
    if isinstance(message, Timestamp | Duration):
        return message.ToJsonString()
    if isinstance(message, Struct):
        return {name: document_of(value) for name, value in message.fields.items()}
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
        return {str(key): _scalar(item) for key, item in value.items()}
    if isinstance(value, MutableSequence):
        return [_one(field, item) for item in value]
    return _one(field, value)


def _one(field: Any, value: Any) -> Any:
    if field.cpp_type == _ENUM and field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    return _scalar(value)


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
