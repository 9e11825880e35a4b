"""Reading what is asked for."""

from __future__ import annotations

from datetime import datetime

from penstock.api.monitoring.v1 import export_pb2 as pb
from services.common import timestamps
from services.common.errors import InvalidArgument
from services.monitoring.checks import MAX_CHARS
from services.monitoring.export.models import EventsWanted, ExportFormat, MetricsWanted
from services.monitoring.rollups.models import Granularity

AnyRequest = pb.ExportEventsRequest | pb.ExportMetricsRequest


def events_from(request: pb.ExportEventsRequest) -> EventsWanted:
    """Read which events; raises InvalidArgument naming the field."""
    _check_names(request)
    return EventsWanted(
        model=request.model,
        version=request.version,
        from_time=_time("from_time", request),
        to_time=_time("to_time", request),
        format=_format(request),
        payloads=request.payloads,
    )


def metrics_from(request: pb.ExportMetricsRequest) -> MetricsWanted:
    """Read which metrics; raises InvalidArgument naming the field."""
    _check_names(request)
    try:
        granularity = Granularity(request.granularity) if request.granularity else None
    except ValueError as error:
        description = f"got {request.granularity}; 0 to {len(Granularity)} are allowed"
        raise InvalidArgument.field("granularity", description, reason="INVALID_FIELD") from error
    return MetricsWanted(
        model=request.model,
        version=request.version,
        from_time=_time("from_time", request),
        to_time=_time("to_time", request),
        granularity=granularity,
        format=_format(request),
    )


def _check_names(request: AnyRequest) -> None:
    if not request.model:
        raise InvalidArgument.field("model", "it is empty; name the model", reason="MODEL_REQUIRED")
    for name in ("model", "version"):
        text: str = getattr(request, name)
        if len(text) > MAX_CHARS[name] or "\0" in text:
            description = f"got {len(text)} characters; at most {MAX_CHARS[name]} are allowed, and no NUL"
            raise InvalidArgument.field(name, description, reason="INVALID_TEXT")


def _format(request: AnyRequest) -> ExportFormat:
    try:
        return ExportFormat(request.format)
    except ValueError as error:
        description = f"got {request.format}; 1 (CSV) and 2 (Parquet) are allowed"
        raise InvalidArgument.field("format", description, reason="FORMAT_REQUIRED") from error


def _time(name: str, request: AnyRequest) -> datetime | None:
    if not request.HasField(name):  # type: ignore[arg-type] # each caller names a field of its request
        return None
    return timestamps.read(name, getattr(request, name))
