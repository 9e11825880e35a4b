"""What an event must be like. One that is not is refused alone, with a reason and a sentence."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from uuid import UUID

from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from services.monitoring.ids import find_id, not_an_id, time_ms_of, time_of
from services.monitoring.models import Accepted, Event, Reason, Rejection
from services.monitoring.outcomes import outcomes_of

MAX_PAYLOAD_BYTES = 1024 * 1024
MAX_QUARANTINED_BYTES = 64 * 1024
MAX_CHARS: Mapping[str, int] = {
    "model": 128,
    "version": 128,
    "framework": 64,
    "request_id": 256,
    "user_id": 256,
    "session_id": 256,
    "error_code": 64,
}
_SHORTEST_LIMIT = min(MAX_CHARS.values())
# A mean of float32 probabilities may come out a hair above 1.
_CONFIDENCE_SLACK = 1e-6
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class _RefusedError(Exception):
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def event_from(event: pb.InferenceEvent, accepted: Accepted) -> Event | Rejection:
    """Read an event, or say why it is refused."""
    try:
        return _checked(event, accepted)
    except _RefusedError as refused:
        return Rejection(refused.reason, refused.message, _kept(event))


def _checked(event: pb.InferenceEvent, accepted: Accepted) -> Event:
    inference_id = _inference_id(event.inference_id, accepted)
    texts = (
        event.model,
        event.version,
        event.framework,
        event.request_id or event.inference_id.lower(),
        event.user_id,
        event.session_id,
        event.error_code,
    )
    # One look at all of them together: nearly always there is nothing to say.
    if not texts[0] or max(map(len, texts)) > _SHORTEST_LIMIT or not "".join(texts).isprintable():
        _check_texts(event)
    latency_ms = event.latency_ms
    if not 0 <= latency_ms < math.inf:
        raise _RefusedError(Reason.INVALID_FIELD, f"latency_ms: got {latency_ms}; 0 or more is allowed, finite")
    row_count = event.row_count or 1
    if row_count < 0:
        raise _RefusedError(Reason.INVALID_FIELD, f"row_count: got {row_count}; 0 (counts as 1) or more is allowed")
    features = _payload("features", event.features) if event.HasField("features") else None
    prediction = outcomes = None
    if event.HasField("prediction"):
        predicted = event.prediction
        prediction = _payload("prediction", predicted)
        outcomes = outcomes_of(predicted, row_count)
    confidence = _confidence(event.confidence) if event.HasField("confidence") else None
    if event.trace_id and not _TRACE_ID.fullmatch(event.trace_id):
        message = f"trace_id: got {event.trace_id[:64]!r}; 32 hex digits in lower case are allowed, or nothing"
        raise _RefusedError(Reason.INVALID_FIELD, message)
    model, version, framework, request_id, user_id, session_id, error_code = texts
    return Event(
        inference_id,
        model,
        version,
        framework,
        request_id,
        user_id,
        session_id,
        features,
        prediction,
        outcomes,
        confidence,
        latency_ms,
        error_code,
        row_count,
        event.trace_id,
    )


def _inference_id(text: str, accepted: Accepted) -> UUID:
    inference_id = find_id(text)
    if inference_id is None:
        raise _RefusedError(Reason.INVALID_ID, f"inference_id: {not_an_id(text)}")
    time_ms = time_ms_of(inference_id)
    if time_ms < accepted.oldest_ms:
        age = (accepted.newest_ms - time_ms) // 86_400_000
        raise _RefusedError(Reason.EVENT_TOO_OLD, f"inference_id: its time is {age} days ago, which is past retention")
    if time_ms > accepted.newest_ms:
        ahead = f"its time is {time_of(inference_id).isoformat()}, over 5 minutes ahead; look at the sender's clock"
        raise _RefusedError(Reason.EVENT_IN_FUTURE, f"inference_id: {ahead}")
    return inference_id


def _check_texts(event: pb.InferenceEvent) -> None:
    for name, limit in MAX_CHARS.items():
        text: str = getattr(event, name)
        if len(text) > limit:
            message = f"{name}: got {len(text)} characters; at most {limit} are allowed"
            raise _RefusedError(Reason.INVALID_FIELD, message)
        if _CONTROL.search(text):
            message = f"{name}: {text[:64]!r} has control characters, which are not allowed"
            raise _RefusedError(Reason.INVALID_FIELD, message)
    if not event.model:
        raise _RefusedError(Reason.INVALID_FIELD, "model: it is empty; name the model that predicted")


def _confidence(confidence: float) -> float:
    if 0 <= confidence <= 1:
        return confidence
    if not -_CONFIDENCE_SLACK <= confidence <= 1 + _CONFIDENCE_SLACK:
        raise _RefusedError(Reason.INVALID_FIELD, f"confidence: got {confidence}; 0 to 1 is allowed")
    return min(max(confidence, 0.0), 1.0)


def _payload(name: str, payload: pb.Payload) -> bytes:
    data = payload.SerializeToString()
    if len(data) > MAX_PAYLOAD_BYTES:
        raise _RefusedError(
            Reason.PAYLOAD_TOO_LARGE,
            f"{name}: got {len(data)} bytes; at most {MAX_PAYLOAD_BYTES} are allowed: send the event without it",
        )
    return data


def _kept(event: pb.InferenceEvent) -> bytes | None:
    """Give what of a refused event is kept: all, or all but its payloads, or nothing, as it fits."""
    if event.ByteSize() <= MAX_QUARANTINED_BYTES:
        return event.SerializeToString()
    slim = pb.InferenceEvent()
    slim.CopyFrom(event)
    slim.ClearField("features")
    slim.ClearField("prediction")
    return slim.SerializeToString() if slim.ByteSize() <= MAX_QUARANTINED_BYTES else None
