"""What monitoring answers about a model that drifts, for the tests of the commands that show it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.api.monitoring.v1 import (
    drift_pb2,
    metrics_pb2,
    profiles_pb2,
    quality_pb2,
)
from tests.sdk import ScriptedServer, scripted_server

AT = datetime(2026, 1, 10, 12, 0, tzinfo=UTC)
ID = "019b9c5e-7c00-7000-8000-00000000000"


def stamp(**ago: float) -> Timestamp:
    """A time so long before `AT`."""
    time = Timestamp()
    time.FromDatetime(AT - timedelta(**ago))
    return time


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A scripted server that the commands find."""
    with scripted_server() as server:
        monkeypatch.delenv("PENSTOCK_TOKEN", raising=False)
        monkeypatch.setenv("PENSTOCK_MONITORING_ADDRESS", server.address)
        yield server


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let rich believe in a terminal of 80 columns; tests set others."""
    for name in ("NO_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm-256color"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)
    return monkeypatch


def point(number: int, *, count: int = 1_200, errors: int = 0, minutes: int = 60) -> metrics_pb2.MetricsPoint:
    """One step of a series."""
    begin = 24 * 60 - number * minutes
    return metrics_pb2.MetricsPoint(
        from_time=stamp(minutes=begin),
        to_time=stamp(minutes=begin - minutes),
        inference_count=count,
        row_count=count * 2,
        error_count=errors,
        errors=[metrics_pb2.ErrorCount(error_code="WRONG_SHAPE", count=errors)] if errors else [],
        error_rate=errors / count if count else None,
        average_latency_ms=3.25,
        max_latency_ms=81.5,
        p50_latency_ms=2.5 + number % 3,
        p95_latency_ms=9.75 + number,
        p99_latency_ms=24.5,
        average_confidence=0.91,
        accuracy=0.9375,
        feedback_count=320,
        judged_count=320,
        correct_count=300,
        average_feedback_lag_s=5_400,
        throughput_per_s=count / (minutes * 60),
    )


def series(version: str = "", points: int = 24) -> metrics_pb2.MetricsSeries:
    """A day, hour by hour, with a bad one."""
    each = [point(number, count=900 + 300 * (number % 5), errors=40 if number == 17 else 0) for number in range(points)]
    total = point(0, count=sum(one.inference_count for one in each), errors=40, minutes=24 * 60)
    return metrics_pb2.MetricsSeries(version=version, points=each, total=total)


def listed(*versions: str) -> metrics_pb2.ListMetricsResponse:
    """What ListMetrics answers: one series, or one a version."""
    return metrics_pb2.ListMetricsResponse(
        granularity=metrics_pb2.GRANULARITY_HOUR,
        from_time=stamp(days=1),
        to_time=stamp(),
        series=[series(version) for version in versions or ("",)],
        complete_until=stamp(minutes=3),
    )


def live(number: int = 0) -> metrics_pb2.WatchMetricsResponse:
    """One look at the last five minutes."""
    points = []
    for each in range(30):
        one = point(0, count=20 + (each + number) % 7 * 3, errors=int(each == 20))
        one.from_time.CopyFrom(stamp(seconds=300 - each * 10))
        one.to_time.CopyFrom(stamp(seconds=290 - each * 10))
        one.p95_latency_ms = 9 + each % 4
        points.append(one)
    points[3].ClearField("p95_latency_ms")
    total = point(0, count=sum(one.inference_count for one in points), errors=1)
    total.throughput_per_s = 2.5
    total.to_time.CopyFrom(stamp())
    return metrics_pb2.WatchMetricsResponse(points=points, total=total)


def bins(shift: float = 0.0, *, missing: float = 0.01) -> list[drift_pb2.BinComparison]:
    """Ten quantile bins of a normal feature, moved by so many σ, then missing and other."""
    edges = [-1.28, -0.84, -0.52, -0.25, 0.0, 0.25, 0.52, 0.84, 1.28]

    def below(edge: float, by: float) -> float:
        return 0.5 * (1 + math.erf((edge - by) / math.sqrt(2)))

    cumulated = [0.0, *(below(edge, shift) for edge in edges), 1.0]
    lows = [
        "below -1.28",
        *(f"{low:.2f} to {high:.2f}" for low, high in itertools.pairwise(edges)),
        "1.28 on",
    ]
    return [
        *(
            drift_pb2.BinComparison(
                label=label,
                reference_share=0.1 * (1 - missing),
                live_share=(high - low) * (1 - missing),
                live_count=round((high - low) * 2_000),
            )
            for label, low, high in zip(lows, cumulated, cumulated[1:], strict=False)
        ),
        drift_pb2.BinComparison(label="missing", reference_share=missing, live_share=missing, live_count=20),
        drift_pb2.BinComparison(label="other"),
    ]


def drift_result(feature: str, shift: float, effect: float) -> drift_pb2.DriftResult:
    """One comparison."""
    drifted = effect > 0.02
    return drift_pb2.DriftResult(
        type=drift_pb2.DRIFT_TYPE_INPUT,
        feature=feature,
        kind=profiles_pb2.FEATURE_KIND_NUMERIC,
        status=drift_pb2.DRIFT_STATUS_DRIFTED if drifted else drift_pb2.DRIFT_STATUS_OK,
        gate=drift_pb2.DRIFT_GATE_PSI_CALIBRATED,
        statistic=412.5 if drifted else 9.5,
        p_value=1e-12 if drifted else 0.41,
        adjusted_p_value=4e-12 if drifted else 0.62,
        effect=effect,
        effect_floor=0.02,
        psi=effect + 0.01,
        ks_statistic=0.21,
        ks_p_value=1e-9,
        chi_square=402.5,
        chi_square_p_value=1e-10,
        wasserstein=0.48,
        jensen_shannon=0.17,
        bins=bins(shift),
        reference_count=10_000,
        live_count=2_000,
        overdispersion=1.4,
        summary=f"{feature} moved up by about {shift:g} σ: its median was 0.00 and is {shift:.2f}." if drifted else "",
    )


def drift_check(**more: object) -> drift_pb2.DriftCheck:
    """A check that found drift in one feature of three."""
    results = [drift_result("petal_length", 0.6, 0.31), drift_result("sepal_width", 0.0, 0.001)]
    category = drift_result("colour", 0.0, 0.004)
    category.kind = profiles_pb2.FEATURE_KIND_CATEGORICAL
    del category.bins[:]
    for label, reference, now in (("blue", 0.61, 0.6), ("white", 0.35, 0.36), ("other", 0.04, 0.04)):
        category.bins.add(label=label, reference_share=reference, live_share=now, live_count=round(now * 2_000))
    check = drift_pb2.DriftCheck(
        id=f"{ID}1",
        model="iris",
        version="2.0.0",
        profile_id=f"{ID}2",
        from_time=stamp(days=1),
        to_time=stamp(),
        status=drift_pb2.DRIFT_STATUS_DRIFTED,
        drifted_types=[drift_pb2.DRIFT_TYPE_INPUT],
        drifted_count=1,
        compared_count=3,
        effect=0.31,
        live_count=2_000,
        alpha=0.05,
        gate=drift_pb2.DRIFT_GATE_PSI_CALIBRATED,
        false_alarm_rate=0.05,
        summary="1 of 3 features has drifted: petal_length moved up by about 0.6 σ (PSI 0.31, large).",
        results=[*results, category],
        trigger=drift_pb2.TRIGGER_REQUEST,
        create_time=stamp(),
    )
    check.MergeFrom(drift_pb2.DriftCheck(**more))  # type: ignore[arg-type]  # whatever a test gives
    return check


def quality_check() -> quality_pb2.QualityCheck:
    """A check that found missing values and a stale feature."""
    return quality_pb2.QualityCheck(
        id=f"{ID}3",
        model="iris",
        version="2.0.0",
        profile_id=f"{ID}2",
        from_time=stamp(days=1),
        to_time=stamp(),
        status=quality_pb2.QUALITY_STATUS_VIOLATED,
        row_count=2_000,
        violation_count=2,
        summary="2 findings: sepal_width is missing in 5.00% of rows, colour has not come for 3 h.",
        findings=[
            quality_pb2.QualityFinding(
                issue=quality_pb2.QUALITY_ISSUE_MISSING,
                feature="sepal_width",
                value=0.05,
                reference_value=0.01,
                threshold=0.0215,
                violated=True,
                count=100,
                summary="sepal_width is missing in 5.00% of rows; the reference has 1.00%.",
            ),
            quality_pb2.QualityFinding(
                issue=quality_pb2.QUALITY_ISSUE_STALE,
                feature="colour",
                value=10_800,
                threshold=3_600,
                violated=True,
                summary="colour has not come for 3 h, while others have.",
            ),
            quality_pb2.QualityFinding(
                issue=quality_pb2.QUALITY_ISSUE_DUPLICATE,
                value=0.004,
                reference_value=0.005,
                threshold=0.015,
                count=8,
                summary="8 rows came again.",
            ),
        ],
        trigger=drift_pb2.TRIGGER_SCHEDULE,
        create_time=stamp(),
    )


def profile() -> profiles_pb2.Profile:
    """A profile of three features."""
    shares = [0.1] * 10
    numeric = profiles_pb2.FeatureProfile(
        name="petal_length",
        kind=profiles_pb2.FEATURE_KIND_NUMERIC,
        bins=[
            *(profiles_pb2.Bin(label=f"bin {number}", count=1_000, share=share) for number, share in enumerate(shares)),
            profiles_pb2.Bin(label="missing", count=100, share=0.01),
            profiles_pb2.Bin(label="other"),
        ],
        edges=[float(each) for each in range(9)],
        moments=profiles_pb2.Moments(
            count=9_900, mean=3.758, standard_deviation=1.765, min=1.0, max=6.9, median=4.35, mad=1.85
        ),
        overdispersion=1.2,
    )
    category = profiles_pb2.FeatureProfile(
        name="colour",
        kind=profiles_pb2.FEATURE_KIND_CATEGORICAL,
        bins=[
            profiles_pb2.Bin(label="blue", count=6_100, share=0.61),
            profiles_pb2.Bin(label="white", count=3_500, share=0.35),
            profiles_pb2.Bin(label="other", count=400, share=0.04),
        ],
    )
    vector = profiles_pb2.FeatureProfile(
        name="scent", kind=profiles_pb2.FEATURE_KIND_EMBEDDING, dimensions=384, bins=[]
    )
    return profiles_pb2.Profile(
        id=f"{ID}2",
        model="iris",
        version="2.0.0",
        number=3,
        source=profiles_pb2.ProfileSource(upload_sha256="ab" * 32),
        row_count=10_000,
        features=[numeric, category, vector],
        feature_count=3,
        accuracy=0.96,
        judged_count=10_000,
        create_time=stamp(days=9),
        created_by="ada",
        note="the training data of 2.0.0",
        attached_versions=["2.0.0", "2.0.1"],
    )
