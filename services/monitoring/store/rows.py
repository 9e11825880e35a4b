"""Events as rows of PostgreSQL's binary COPY format (PostgreSQL's manual, COPY, "Binary Format").

Written by hand because every event passes here: psycopg's own row writer takes about three times as long.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from services.monitoring.ids import time_ms_of
from services.monitoring.models import Event

COLUMNS = (
    "inference_id, event_time, latency_ms, row_count, confidence, model, version, framework, request_id, user_id, "
    "session_id, error_code, trace_id, features, prediction, outcomes"
)
_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
_TRAILER = struct.pack("!h", -1)
_NULL = struct.pack("!i", -1)
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
    for event in events:
        _append(parts, event)
    parts.append(_TRAILER)
    return b"".join(parts)


def _append(parts: list[bytes], event: Event) -> None:
    inference_id = event.inference_id
    time_us = (time_ms_of(inference_id) - _POSTGRES_EPOCH_MS) * 1000
    parts.append(_begin(16, 16, inference_id.bytes, 8, time_us, 8, event.latency_ms, 4, event.row_count))
    parts.append(_NULL if event.confidence is None else _double(8, event.confidence))
    for text in (
        event.model,
        event.version,
        event.framework,
        event.request_id,
        event.user_id,
        event.session_id,
        event.error_code,
        event.trace_id,
    ):
        data = text.encode()
        parts.append(_length(len(data)))
        parts.append(data)
    for payload in (event.features, event.prediction):
        if payload is None:
            parts.append(_NULL)
        else:
            parts.append(_length(len(payload)))
            parts.append(payload)
    parts.append(_NULL if event.outcomes is None else _texts(event.outcomes))


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
