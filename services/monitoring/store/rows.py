"""Events as rows of PostgreSQL's binary COPY format (PostgreSQL's manual, COPY, "Binary Format").

Written by hand because every event passes here: psycopg's own row writer takes about three times as long.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from services.monitoring.ids import TIME_SHIFT
from services.monitoring.models import Event

COLUMNS = (
    "inference_id, event_time, latency_ms, row_count, confidence, model, version, framework, request_id, user_id, "
    "session_id, error_code, trace_id, features, prediction, outcomes"
)
_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
_TRAILER = struct.pack("!h", -1)
_NULL = struct.pack("!i", -1)
_EMPTY = struct.pack("!i", 0)
_POSTGRES_EPOCH_MS = 946_684_800_000  # 2000-01-01 in Unix time; a timestamptz counts µs from there
_TEXT_OID = 25

_length = struct.Struct("!i").pack
_double = struct.Struct("!id").pack
# The number of columns, then each column's length and value: uuid, timestamptz, double precision, integer.
_begin = struct.Struct("!hi16siqidii").pack
# text[]: dimensions, whether nulls occur, the element type; the length and the lower bound of the one dimension.
_array = struct.Struct("!iiiii").pack


def copy_text(events: Iterable[Event]) -> bytes:
    """Give the whole input of `COPY … (COLUMNS) FROM STDIN (FORMAT BINARY)`."""
    parts = [_HEADER]
    # What says the same in many events is written once.
    names: dict[tuple[str, str, str], bytes] = {}
    labels: dict[Sequence[str | None], bytes] = {}
    for event in events:
        named, outcomes = (event.model, event.version, event.framework), event.outcomes
        if named not in names:
            names[named] = b"".join(map(_text, named))
        if outcomes is not None and outcomes not in labels:
            labels[outcomes] = _texts(outcomes)
        _append(parts, event, names[named], _NULL if outcomes is None else labels[outcomes])
    parts.append(_TRAILER)
    return b"".join(parts)


def _append(parts: list[bytes], event: Event, names: bytes, outcomes: bytes) -> None:
    number, error_code, trace_id, confidence = (
        event.inference_id.int,
        event.error_code,
        event.trace_id,
        event.confidence,
    )
    features, prediction = event.features, event.prediction
    time_us = ((number >> TIME_SHIFT) - _POSTGRES_EPOCH_MS) * 1000
    parts += (
        _begin(16, 16, number.to_bytes(16), 8, time_us, 8, event.latency_ms, 4, event.row_count),
        _NULL if confidence is None else _double(8, confidence),
        names,
        _text(event.request_id),
        _text(event.user_id),
        _text(event.session_id),
        _text(error_code) if error_code else _EMPTY,
        _text(trace_id) if trace_id else _EMPTY,
        _NULL if features is None else _length(len(features)) + features,
        _NULL if prediction is None else _length(len(prediction)) + prediction,
        outcomes,
    )


def _text(text: str) -> bytes:
    data = text.encode()
    return _length(len(data)) + data


def _texts(values: Sequence[str | None]) -> bytes:
    """Encode one outcome or more; an event has at least one row."""
    parts = [_array(1, int(None in values), _TEXT_OID, len(values), 1)]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            data = value.encode()
            parts.append(_length(len(data)) + data)
    array = b"".join(parts)
    return _length(len(array)) + array
