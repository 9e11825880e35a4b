"""Plain Python values as protobuf's: named features, outcomes, times, and enum names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import numpy as np
from google.protobuf.struct_pb2 import NULL_VALUE, ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.errors import FieldViolation, InvalidArgument

MAX_EXACT = 2**53
"""Numbers travel as doubles, which hold every integer up to here exactly."""
MAX_DEPTH = 32
"""Lists and mappings within each other; protobuf's own parsers give up at some fifty."""
Number = TypeVar("Number", bound=int)
Number_co = TypeVar("Number_co", bound=int, covariant=True)


class EnumType(Protocol[Number_co]):
    """A generated protobuf enum, for its names."""

    def Value(self, name: str) -> Number_co: ...  # noqa: D102, N802 - protobuf's
    def keys(self) -> list[str]: ...  # noqa: D102 - protobuf's


def to_struct(fields: Mapping[str, Any], depth: int = MAX_DEPTH) -> Struct:
    """Encode named values; see `to_value` for what they may be."""
    struct = Struct()
    for name, value in fields.items():
        struct.fields[name].CopyFrom(to_value(name, value, depth))
    return struct


def to_value(name: str, value: Any, depth: int = MAX_DEPTH) -> Value:
    """Encode None, a boolean, a number, a string, a mapping, or a list or numpy array of them.

    Raises:
        InvalidArgument: it is something else, an integer beyond 2^53, which a double can't hold, or nested more than
            `depth` deep (UNSUPPORTED_VALUE); `name` names it in the sentence.
    """
    if depth < 0:
        raise _refused(name, f"lists and mappings are nested more than {MAX_DEPTH} deep; send less deep ones")
    match value:
        case None:
            return Value(null_value=NULL_VALUE)
        case bool() | np.bool_():
            return Value(bool_value=bool(value))
        case int() | np.integer():
            if abs(int(value)) > MAX_EXACT:
                raise _refused(name, f"{value} is beyond 2^53, where numbers lose digits; send it as a tensor")
            return Value(number_value=float(value))
        case float() | np.floating():
            return Value(number_value=float(value))
        case str():
            return Value(string_value=value)
        case np.ndarray():
            return to_value(name, value.tolist(), depth)
        case Mapping():
            return Value(struct_value=to_struct(value, depth - 1))
        case Sequence() if not isinstance(value, (bytes, bytearray)):
            return Value(list_value=ListValue(values=[to_value(name, each, depth - 1) for each in value]))
    raise _refused(name, f"a {type(value).__name__} can't be sent as a named value; send it as a tensor")


def from_value(value: Value) -> Any:
    """Decode to None, bool, float, str, dict or list; a whole number within 2^53 comes back as int."""
    match value.WhichOneof("kind"):
        case "bool_value":
            return value.bool_value
        case "number_value":
            number = value.number_value
            whole = math.isfinite(number) and number.is_integer() and abs(number) <= MAX_EXACT
            return int(number) if whole else number
        case "string_value":
            return value.string_value
        case "struct_value":
            return {name: from_value(each) for name, each in value.struct_value.fields.items()}
        case "list_value":
            return [from_value(each) for each in value.list_value.values]
    return None


def to_timestamp(name: str, time: datetime | None) -> Timestamp | None:
    """Encode an aware time; None stays None.

    Raises:
        InvalidArgument: the time is naive (NAIVE_TIME).
    """
    if time is None:
        return None
    if time.tzinfo is None:
        sentence = f"{time.isoformat()} has no time zone; give an aware time"
        raise InvalidArgument(f"{name}: {sentence}", reason="NAIVE_TIME", violations=[FieldViolation(name, sentence)])
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def from_timestamp(stamp: Timestamp) -> datetime:
    """Decode to an aware time in UTC, to the microsecond."""
    return stamp.ToDatetime(tzinfo=UTC)


def enum_number(name: str, enum: EnumType[Number], value: Number | str | None) -> Number:
    """Find an enum's number by its short name, in any case (`production` for STAGE_PRODUCTION).

    A number is passed through, and None is UNSPECIFIED.

    Raises:
        InvalidArgument: there is no such name (UNKNOWN_NAME).
    """
    names = enum.keys()
    prefix = names[0].removesuffix("UNSPECIFIED")
    if value is None:
        return enum.Value(names[0])
    if not isinstance(value, str):
        return value
    full_name = prefix + value.upper()
    if full_name not in names[1:]:
        allowed = ", ".join(each.removeprefix(prefix).lower() for each in names[1:])
        raise _refused(name, f"{value!r} is not one of {allowed}", "UNKNOWN_NAME")
    return enum.Value(full_name)


def _refused(name: str, sentence: str, reason: str = "UNSUPPORTED_VALUE") -> InvalidArgument:
    return InvalidArgument(f"{name}: {sentence}", reason=reason, violations=[FieldViolation(name, sentence)])
