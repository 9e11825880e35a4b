"""Between the contract's messages and our dataclasses. Requests are checked here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from uuid import UUID

from penstock.api.monitoring.v1 import drift_pb2 as pb
from penstock.api.monitoring.v1 import profiles_pb2
from services.monitoring.configuration.models import DriftGate
from services.monitoring.drift.models import (
    BinComparison,
    Distances,
    DriftCheck,
    DriftFilters,
    DriftResult,
    DriftStatus,
    DriftType,
    Trigger,
)
from services.monitoring.models import Window
from services.monitoring.profiles.models import FeatureKind
from services.monitoring.window_checks.requests import check_names, status_from
from services.monitoring.window_checks.window import Completeness


def filters_from(request: pb.ListDriftChecksRequest) -> DriftFilters:
    """Read a list's filters; raises InvalidArgument naming the field."""
    check_names(request)
    return DriftFilters(request.model, request.version, status_from(DriftStatus, request.status))


def check_proto(check: DriftCheck) -> pb.DriftCheck:
    """Encode a check, with the results that it has."""
    message = pb.DriftCheck(
        id=str(check.id),
        model=check.model,
        version=check.version,
        profile_id=str(check.profile_id),
        status=pb.DriftStatus.ValueType(check.status.value),
        drifted_types=[pb.DriftType.ValueType(each.value) for each in check.drifted_types],
        drifted_count=check.drifted_count,
        compared_count=check.compared_count,
        effect=check.effect,
        live_count=check.live_count,
        alpha=check.alpha,
        gate=pb.DriftGate.ValueType(check.gate.value),
        false_alarm_rate=check.false_alarm_rate,
        summary=check.summary,
        results=map(_result_proto, check.results),
        trigger=pb.Trigger.ValueType(check.trigger.value),
    )
    message.from_time.FromDatetime(check.window.from_time)
    message.to_time.FromDatetime(check.window.to_time)
    message.create_time.FromDatetime(check.create_time)
    message.uncounted_bucket_count = check.completeness.uncounted_bucket_count
    if check.completeness.complete_until is not None:
        message.complete_until.FromDatetime(check.completeness.complete_until)
    return message


def _result_proto(result: DriftResult) -> pb.DriftResult:
    distances = result.distances
    return pb.DriftResult(
        type=pb.DriftType.ValueType(result.type.value),
        feature=result.feature,
        kind=profiles_pb2.FeatureKind.ValueType(result.kind.value if result.kind else 0),
        status=pb.DriftStatus.ValueType(result.status.value),
        gate=pb.DriftGate.ValueType(result.gate.value),
        statistic=result.statistic,
        p_value=result.p_value,
        adjusted_p_value=result.adjusted_p_value,
        effect=result.effect,
        effect_floor=result.effect_floor,
        psi=distances.psi,
        ks_statistic=distances.ks_statistic,
        ks_p_value=distances.ks_p_value,
        chi_square=distances.chi_square,
        chi_square_p_value=distances.chi_square_p_value,
        wasserstein=distances.wasserstein,
        jensen_shannon=distances.jensen_shannon,
        bins=[
            pb.BinComparison(
                label=each.label,
                reference_share=each.reference_share,
                live_share=each.live_share,
                live_count=each.live_count,
            )
            for each in result.bins
        ],
        reference_count=result.reference_count,
        live_count=result.live_count,
        overdispersion=result.overdispersion,
        summary=result.summary,
        effect_low=result.effect_low,
        effect_high=result.effect_high,
    )


def check_from(document: bytes) -> DriftCheck:
    """Read a check as it is kept."""
    message = pb.DriftCheck.FromString(document)
    return DriftCheck(
        id=UUID(message.id),
        model=message.model,
        version=message.version,
        profile_id=UUID(message.profile_id),
        window=Window(message.from_time.ToDatetime(UTC), message.to_time.ToDatetime(UTC)),
        status=DriftStatus(message.status),
        drifted_types=tuple(DriftType(each) for each in message.drifted_types),
        drifted_count=message.drifted_count,
        compared_count=message.compared_count,
        effect=message.effect,
        live_count=message.live_count,
        alpha=message.alpha,
        gate=DriftGate(message.gate),
        false_alarm_rate=message.false_alarm_rate,
        summary=message.summary,
        results=tuple(map(_result_from, message.results)),
        trigger=Trigger(message.trigger),
        create_time=message.create_time.ToDatetime(UTC),
        completeness=Completeness(
            message.uncounted_bucket_count,
            message.complete_until.ToDatetime(UTC) if message.HasField("complete_until") else None,
        ),
    )


def _result_from(message: pb.DriftResult) -> DriftResult:
    return DriftResult(
        type=DriftType(message.type),
        feature=message.feature,
        kind=FeatureKind(message.kind) if message.kind else None,
        status=DriftStatus(message.status),
        gate=DriftGate(message.gate),
        statistic=message.statistic,
        effect=message.effect,
        effect_floor=message.effect_floor,
        reference_count=message.reference_count,
        live_count=message.live_count,
        p_value=_optional(message, "p_value"),
        adjusted_p_value=_optional(message, "adjusted_p_value"),
        overdispersion=message.overdispersion,
        distances=Distances(**{name: _optional(message, name) for name in Distances.__dataclass_fields__}),
        bins=tuple(
            BinComparison(each.label, each.reference_share, each.live_share, each.live_count) for each in message.bins
        ),
        effect_low=_optional(message, "effect_low"),
        effect_high=_optional(message, "effect_high"),
        summary=message.summary,
    )


def _optional(message: pb.DriftResult, name: str) -> float | None:
    present = message.HasField(name)  # type: ignore[arg-type] # each caller names an optional field
    return float(getattr(message, name)) if present else None


def list_response(checks: Sequence[DriftCheck], next_page_token: str) -> pb.ListDriftChecksResponse:
    """Encode a page."""
    return pb.ListDriftChecksResponse(checks=map(check_proto, checks), next_page_token=next_page_token)
