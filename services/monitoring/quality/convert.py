"""Between the contract's messages and our dataclasses. Requests are checked here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from penstock.api.monitoring.v1 import drift_pb2
from penstock.api.monitoring.v1 import quality_pb2 as pb
from services.common import timestamps
from services.common.errors import InvalidArgument
from services.monitoring.checks import MAX_CHARS
from services.monitoring.drift.models import Trigger
from services.monitoring.models import Window
from services.monitoring.quality.models import (
    QualityCheck,
    QualityFilters,
    QualityFinding,
    QualityIssue,
    QualityStatus,
)
from services.monitoring.window_checks.window import Completeness

Asked = tuple[str, str, datetime | None, datetime | None]


def asked_from(request: pb.CheckQualityRequest) -> Asked:
    """Read what is to be checked; raises InvalidArgument naming the field."""
    if not request.model:
        raise InvalidArgument.field("model", "it is empty; name the model", reason="MODEL_REQUIRED")
    _check_texts(request)
    return request.model, request.version, _time("from_time", request), _time("to_time", request)


def filters_from(request: pb.ListQualityChecksRequest) -> QualityFilters:
    """Read a list's filters; raises InvalidArgument naming the field."""
    _check_texts(request)
    try:
        status = QualityStatus(request.status) if request.status else None
    except ValueError as error:
        known = ", ".join(str(one.value) for one in QualityStatus)
        description = f"got {request.status}; 0 (any) and {known} are allowed"
        raise InvalidArgument.field("status", description, reason="INVALID_FIELD") from error
    return QualityFilters(request.model, request.version, status)


def _check_texts(request: pb.CheckQualityRequest | pb.ListQualityChecksRequest) -> None:
    for name in ("model", "version"):
        text: str = getattr(request, name)
        if len(text) > MAX_CHARS[name] or "\0" in text:
            description = f"got {len(text)} characters; at most {MAX_CHARS[name]} are allowed, and no NUL"
            raise InvalidArgument.field(name, description, reason="INVALID_TEXT")


def _time(name: str, request: pb.CheckQualityRequest) -> datetime | None:
    if not request.HasField(name):  # type: ignore[arg-type] # each caller names a field of its request
        return None
    return timestamps.read(name, getattr(request, name))


def check_proto(check: QualityCheck) -> pb.QualityCheck:
    """Encode a check, with the findings that it has."""
    message = pb.QualityCheck(
        id=str(check.id),
        model=check.model,
        version=check.version,
        profile_id=str(check.profile_id) if check.profile_id else "",
        status=pb.QualityStatus.ValueType(check.status.value),
        row_count=check.row_count,
        violation_count=check.violation_count,
        summary=check.summary,
        findings=map(_finding_proto, check.findings),
        trigger=drift_pb2.Trigger.ValueType(check.trigger.value),
    )
    message.from_time.FromDatetime(check.window.from_time)
    message.to_time.FromDatetime(check.window.to_time)
    message.create_time.FromDatetime(check.create_time)
    message.uncounted_bucket_count = check.completeness.uncounted_bucket_count
    if check.completeness.complete_until is not None:
        message.complete_until.FromDatetime(check.completeness.complete_until)
    return message


def _finding_proto(finding: QualityFinding) -> pb.QualityFinding:
    return pb.QualityFinding(
        issue=pb.QualityIssue.ValueType(finding.issue.value),
        feature=finding.feature,
        value=finding.value,
        reference_value=finding.reference_value,
        threshold=finding.threshold,
        violated=finding.violated,
        count=finding.count,
        summary=finding.summary,
    )


def check_from(document: bytes) -> QualityCheck:
    """Read a check as it is kept."""
    message = pb.QualityCheck.FromString(document)
    return QualityCheck(
        id=UUID(message.id),
        model=message.model,
        version=message.version,
        profile_id=UUID(message.profile_id) if message.profile_id else None,
        window=Window(message.from_time.ToDatetime(UTC), message.to_time.ToDatetime(UTC)),
        status=QualityStatus(message.status),
        row_count=message.row_count,
        violation_count=message.violation_count,
        summary=message.summary,
        findings=tuple(map(_finding_from, message.findings)),
        trigger=Trigger(message.trigger),
        create_time=message.create_time.ToDatetime(UTC),
        completeness=Completeness(
            message.uncounted_bucket_count,
            message.complete_until.ToDatetime(UTC) if message.HasField("complete_until") else None,
        ),
    )


def _finding_from(message: pb.QualityFinding) -> QualityFinding:
    return QualityFinding(
        issue=QualityIssue(message.issue),
        feature=message.feature,
        value=message.value,
        reference_value=message.reference_value,
        threshold=message.threshold,
        violated=message.violated,
        count=message.count,
        summary=message.summary,
    )


def list_response(checks: Sequence[QualityCheck], next_page_token: str) -> pb.ListQualityChecksResponse:
    """Encode a page."""
    return pb.ListQualityChecksResponse(checks=map(check_proto, checks), next_page_token=next_page_token)
