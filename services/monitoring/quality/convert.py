"""Between the contract's messages and our dataclasses. Requests are checked here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from uuid import UUID

from penstock.api.monitoring.v1 import drift_pb2
from penstock.api.monitoring.v1 import quality_pb2 as pb
from services.monitoring.drift.models import Trigger
from services.monitoring.models import Window
from services.monitoring.quality.models import (
    QualityCheck,
    QualityFilters,
    QualityFinding,
    QualityIssue,
    QualityStatus,
)
from services.monitoring.window_checks.requests import check_names, status_from
from services.monitoring.window_checks.window import Completeness


def filters_from(request: pb.ListQualityChecksRequest) -> QualityFilters:
    """Read a list's filters; raises InvalidArgument naming the field."""
    check_names(request)
    return QualityFilters(request.model, request.version, status_from(QualityStatus, request.status))


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
