"""Reading what is asked of checks. Pure; whatever is wrong raises InvalidArgument naming the field."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import TypeVar

from penstock.api.monitoring.v1 import drift_pb2, quality_pb2
from services.common import timestamps
from services.common.errors import InvalidArgument
from services.monitoring.checks import MAX_CHARS

Asked = tuple[str, str, datetime | None, datetime | None, bool]
"""The model, the version or none, the ends of the window that are given, and whether it is the schedule's next."""
StatusT = TypeVar("StatusT", bound=Enum)


Asking = drift_pb2.CheckDriftRequest | quality_pb2.CheckQualityRequest
Listing = drift_pb2.ListDriftChecksRequest | quality_pb2.ListQualityChecksRequest


def asked_from(request: Asking) -> Asked:
    """Read what is to be checked."""
    if not request.model:
        raise InvalidArgument.field("model", "it is empty; name the model", reason="MODEL_REQUIRED")
    check_names(request)
    begin = timestamps.read("from_time", request.from_time) if request.HasField("from_time") else None
    end = timestamps.read("to_time", request.to_time) if request.HasField("to_time") else None
    if request.as_scheduled and (begin or end):
        description = "the check that is next by schedule is over the configured window; leave the window out"
        raise InvalidArgument.field("as_scheduled", description, reason="INVALID_WINDOW")
    return request.model, request.version, begin, end, request.as_scheduled


def check_names(request: Asking | Listing) -> None:
    """Refuse names that nothing has."""
    for name, text in (("model", request.model), ("version", request.version)):
        if len(text) > MAX_CHARS[name] or "\0" in text:
            description = f"got {len(text)} characters; at most {MAX_CHARS[name]} are allowed, and no NUL"
            raise InvalidArgument.field(name, description, reason="INVALID_TEXT")


def status_from(statuses: type[StatusT], number: int) -> StatusT | None:
    """Read a status to filter by; 0 is any."""
    try:
        return statuses(number) if number else None
    except ValueError as error:
        known = ", ".join(str(one.value) for one in statuses)
        description = f"got {number}; 0 (any) and {known} are allowed"
        raise InvalidArgument.field("status", description, reason="INVALID_FIELD") from error
