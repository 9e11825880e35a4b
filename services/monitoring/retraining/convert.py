"""Between the contract's messages and our dataclasses. Requests are checked here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from uuid import UUID

from penstock.api.monitoring.v1 import retraining_pb2 as pb
from penstock.values import to_struct, to_timestamp
from services.common.errors import InvalidArgument, NotFound
from services.monitoring.checks import MAX_CHARS
from services.monitoring.ids import find_id
from services.monitoring.retraining.models import Draft, Request, RequestFilters, State, Step

MAX_NOTE_CHARS = 1_000
MAX_REQUEST_ID_CHARS = 128


def draft_from(request: pb.CreateRetrainingRequestRequest) -> Draft:
    """Read what is asked for; raises InvalidArgument naming the field."""
    if not request.model:
        raise InvalidArgument.field("model", "it is empty; name the model", reason="MODEL_REQUIRED")
    return Draft(
        model=_text("model", request.model, MAX_CHARS["model"]),
        version=_text("version", request.version, MAX_CHARS["version"]),
        note=_text("note", request.note, MAX_NOTE_CHARS),
        force=request.force,
        request_id=_text("request_id", request.request_id, MAX_REQUEST_ID_CHARS),
        body_sha256=_digest(request),
    )


def _digest(request: pb.CreateRetrainingRequestRequest) -> str:
    body = pb.CreateRetrainingRequestRequest()
    body.CopyFrom(request)
    body.ClearField("request_id")
    return hashlib.sha256(body.SerializeToString(deterministic=True)).hexdigest()


def id_from(text: str) -> UUID:
    """Read a request's id; one that no request can have is NotFound (REQUEST_NOT_FOUND)."""
    found = find_id(text)
    if found is None:
        raise NotFound(
            f"{text[:64]!r} is no id of a retraining request; `penstock retraining list` shows them",
            reason="REQUEST_NOT_FOUND",
        )
    return found


def filters_from(request: pb.ListRetrainingRequestsRequest) -> RequestFilters:
    """Read a list's filters; raises InvalidArgument naming the field."""
    known = {state.value: state for state in State}
    for number in request.states:
        if number not in known:
            raise InvalidArgument.field(
                "states", f"got {number}; allowed are {', '.join(State.__members__)}", reason="INVALID_FIELD"
            )
    return RequestFilters(
        model=_text("model", request.model, MAX_CHARS["model"]),
        states=tuple(known[number] for number in dict.fromkeys(request.states)),
    )


def approval_from(request: pb.ApproveRetrainingRequestRequest) -> tuple[UUID, str]:
    """Read what is approved, and why; raises InvalidArgument naming the field."""
    return id_from(request.id), _text("note", request.note, MAX_NOTE_CHARS)


def rejection_from(request: pb.RejectRetrainingRequestRequest) -> tuple[UUID, str]:
    """Read what is declined, and why; raises InvalidArgument naming the field."""
    if not request.note.strip():
        raise InvalidArgument.field("note", "it is empty; say why, for who asks later", reason="NOTE_REQUIRED")
    return id_from(request.id), _text("note", request.note, MAX_NOTE_CHARS)


def _text(name: str, value: str, most: int) -> str:
    if len(value) > most or "\0" in value:
        raise InvalidArgument.field(
            name, f"got {len(value)} characters; at most {most} are allowed, and no NUL", reason="INVALID_TEXT"
        )
    return value


def request_proto(request: Request, history: Sequence[Step] = ()) -> pb.RetrainingRequest:
    """Encode a request, with its history where that was asked for."""
    return pb.RetrainingRequest(
        id=str(request.id),
        model=request.model,
        version=request.version,
        state=pb.RetrainingState.ValueType(request.state.value),
        reason=pb.RetrainingReason.ValueType(request.reason.value),
        details=to_struct(request.details),
        alert_id=str(request.alert_id or ""),
        check_id=str(request.check_id or ""),
        label_count=request.label_count,
        requested_by=request.requested_by,
        create_time=to_timestamp("create_time", request.create_time),
        expire_time=to_timestamp("expire_time", request.expire_time),
        decided_by=request.decided_by,
        decide_time=to_timestamp("decide_time", request.decide_time),
        decision_note=request.decision_note,
        training_run_id=request.training_run_id,
        new_version=request.new_version,
        message=request.message,
        history=map(_event_proto, history),
    )


def _event_proto(step: Step) -> pb.RetrainingEvent:
    return pb.RetrainingEvent(
        time=to_timestamp("time", step.time),
        state=pb.RetrainingState.ValueType(step.state.value),
        actor=step.actor,
        note=step.note,
    )


def page_response(requests: Sequence[Request], next_page_token: str) -> pb.ListRetrainingRequestsResponse:
    """Encode a page."""
    return pb.ListRetrainingRequestsResponse(
        retraining_requests=map(request_proto, requests), next_page_token=next_page_token
    )
