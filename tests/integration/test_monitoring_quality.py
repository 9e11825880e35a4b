"""Data quality over its socket: real events, counted by the service against a real profile."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.api.monitoring.v1 import configuration_pb2, drift_pb2, monitoring_pb2, profiles_pb2
from penstock.api.monitoring.v1 import quality_pb2 as pb
from penstock.api.monitoring.v1.configuration_pb2_grpc import ConfigurationServiceStub
from penstock.api.monitoring.v1.profiles_pb2_grpc import ProfileServiceStub
from penstock.api.monitoring.v1.quality_pb2_grpc import QualityServiceStub
from penstock.values import to_value
from tests.monitoring import TIMEOUT_S, Monitoring, eventually, new_event, reason, serve

pytestmark = pytest.mark.slow
INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
AGE_S = 3_600
"""Events lie so far back that their buckets are over."""


@dataclass(frozen=True, slots=True)
class Quality:
    """A running service, asked for quality."""

    monitoring: Monitoring
    stub: QualityServiceStub
    profiles: ProfileServiceStub
    configurations: ConfigurationServiceStub

    def profile(self, rows: list[dict[str, Any]], model: str = "iris", version: str = "1.0.0") -> str:
        """Attach a profile of these rows, and give its id."""
        header = profiles_pb2.UploadProfileHeader(model=model, version=version, format=profiles_pb2.ROW_FORMAT_JSONL)
        text = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        parts = (
            profiles_pb2.UploadProfileRequest(header=header),
            profiles_pb2.UploadProfileRequest(chunk=text),
        )
        return self.profiles.UploadProfile(iter(parts), timeout=TIMEOUT_S).profile.id

    def send(self, rows: list[dict[str, Any]], *, age_s: float = AGE_S, **fields: Any) -> None:
        """Record an event a row, at some age."""
        events = [new_event(age_s=age_s, features=payload(row), **fields) for row in rows]
        assert set(self.monitoring.record(*events)) == {"STORED"}

    def check(self, model: str = "iris", version: str = "1.0.0", **fields: Any) -> pb.QualityCheck:
        """Check now."""
        request = pb.CheckQualityRequest(model=model, version=version, **fields)
        return self.stub.CheckQuality(request, timeout=TIMEOUT_S).check

    def counted(self, rows: int, **fields: Any) -> pb.QualityCheck:
        """Check when so many rows have been counted."""
        found: list[pb.QualityCheck] = []

        def met() -> bool:
            found.append(self.check(**fields))
            return found[-1].row_count == rows

        eventually(met)
        return found[-1]

    def configure(self, **quality: Any) -> None:
        """Configure all models."""
        configuration = configuration_pb2.Configuration(quality=configuration_pb2.QualityConfiguration(**quality))
        request = configuration_pb2.SetConfigurationRequest(configuration=configuration)
        self.configurations.SetConfiguration(request, timeout=TIMEOUT_S)

    def listed(self, **fields: Any) -> pb.ListQualityChecksResponse:
        """List checks."""
        return self.stub.ListQualityChecks(pb.ListQualityChecksRequest(**fields), timeout=TIMEOUT_S)


def payload(row: dict[str, Any]) -> monitoring_pb2.Payload:
    message = monitoring_pb2.Payload()
    for name, value in row.items():
        message.fields.fields[name].CopyFrom(to_value(name, value))
    return message


def rows(count: int, seed: int = 1, **changed: Any) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    columns = rng.normal(5.8, 0.8, count), rng.normal(3, 0.4, count), rng.choice(["a", "b"], count)
    values = zip(*(column.tolist() for column in columns), strict=True)
    return [{"length": length, "width": width, "kind": kind, **changed} for length, width, kind in values]


@contextmanager
def quality_of(database_url: str, **settings: Any) -> Iterator[Quality]:
    usual = {"profile_interval_ms": 50, "profile_open_interval_ms": 0, "rollup_interval_ms": 50}
    with ExitStack() as stack:
        running = stack.enter_context(serve(database_url, **{**usual, **settings}))
        channel = stack.enter_context(grpc.insecure_channel(running.address))
        yield Quality(
            running, QualityServiceStub(channel), ProfileServiceStub(channel), ConfigurationServiceStub(channel)
        )


@pytest.fixture
def quality(clone_database: Callable[[str], str]) -> Iterator[Quality]:
    with quality_of(clone_database("monitoring")) as running:
        yield running


def at(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def test_bad_data_is_found_kept_and_told_in_words(quality: Quality) -> None:
    profile = quality.profile(rows(1_000))
    quality.send(rows(150, seed=2))
    quality.send(rows(50, seed=3, length=None))
    check = quality.counted(200)
    assert check.status == pb.QUALITY_STATUS_VIOLATED
    assert (check.profile_id, check.trigger) == (profile, drift_pb2.TRIGGER_REQUEST)
    (finding,) = [finding for finding in check.findings if finding.violated]
    assert (finding.issue, finding.feature, finding.count) == (pb.QUALITY_ISSUE_MISSING, "length", 50)
    assert (finding.value, finding.reference_value) == (0.25, 0)
    assert check.summary.startswith(finding.summary)
    scheduled = quality.check(as_scheduled=True)
    (strict,) = [finding for finding in scheduled.findings if finding.violated]
    assert (strict.feature, strict.count) == ("length", 50)
    assert strict.threshold > finding.threshold, "2,184 checks a quarter: each is made at a stricter level"
    assert finding.summary.startswith("length is missing in 25 % of 200 rows; in the reference it is 0 %, and up to ")
    again = quality.stub.GetQualityCheck(pb.GetQualityCheckRequest(id=check.id), timeout=TIMEOUT_S).check
    assert again == check


def test_who_checks_right_after_traffic_has_every_row_looked_at(clone_database: Callable[[str], str]) -> None:
    with quality_of(
        clone_database("monitoring"), rollup_interval_ms=3_600_000, profile_interval_ms=3_600_000
    ) as quality:
        quality.profile(rows(1_000))
        quality.send(rows(60, seed=2))
        quality.send(rows(40, seed=3), age_s=0)
        check = quality.check()
        assert (check.row_count, check.uncounted_bucket_count) == (100, 0)


def test_all_sorts_of_payloads_are_looked_over_and_none_breaks_it(quality: Quality) -> None:
    quality.profile(rows(1_000))
    odd: list[dict[str, Any]] = [
        {"length": math.nan, "kind": "a"},
        {"length": -math.inf, "kind": "b"},
        {"length": "long", "kind": 7},
        {"length": {"deep": [1, {"er": None}]}, "kind": "c"},
        {"length": [1.0, 2.0], "kind": "x" * 100_000},
        {"other": True},
        {},
    ]
    quality.send(rows(40, seed=2))
    quality.send(odd * 20)
    quality.send([{"length": 5.0, "kind": "y" * 1_000_000}])
    check = quality.counted(40 + 140 + 1)
    found = {(finding.issue, finding.feature) for finding in check.findings if finding.violated}
    assert found >= {
        (pb.QUALITY_ISSUE_MISSING, "length"),
        (pb.QUALITY_ISSUE_MISSING, "kind"),
        (pb.QUALITY_ISSUE_NOT_FINITE, "length"),
        (pb.QUALITY_ISSUE_TYPE, "length"),
        (pb.QUALITY_ISSUE_UNKNOWN_CATEGORY, "kind"),
        (pb.QUALITY_ISSUE_SCHEMA, "other"),
        (pb.QUALITY_ISSUE_DUPLICATE, ""),
    }


def test_the_version_that_answered_most_is_meant_where_none_is_named(quality: Quality) -> None:
    quality.send(rows(60), version="2.0.0")
    quality.send(rows(10), version="1.0.0")
    quality.send(rows(70), version="")
    check = quality.check(version="")
    assert (check.version, check.row_count, check.profile_id) == ("2.0.0", 60, "")
    assert check.status == pb.QUALITY_STATUS_OK
    assert check.summary.endswith("a profile makes the rest tellable")
    few = quality.check(version="1.0.0")
    assert few.status == pb.QUALITY_STATUS_INSUFFICIENT_DATA
    assert few.summary == "only 10 rows with features came in the window; from 50 on it can be judged"


def test_what_is_asked_wrongly_is_refused_saying_why(quality: Quality) -> None:
    now = datetime.now(UTC)
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"model": ""}, "MODEL_REQUIRED"),
        ({"model": "m" * 129}, "INVALID_TEXT"),
        ({"version": "a\0b"}, "INVALID_TEXT"),
        ({"from_time": at(now), "to_time": at(now - timedelta(hours=1))}, "INVALID_WINDOW"),
        ({"from_time": at(now - timedelta(days=31))}, "INVALID_WINDOW"),
        ({"to_time": at(datetime(1, 1, 1, tzinfo=UTC))}, "INVALID_WINDOW"),
        ({"to_time": at(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))}, "INVALID_WINDOW"),
        ({"to_time": Timestamp(seconds=1, nanos=-5)}, "INVALID_TIME"),
    ]
    for fields, expected in refusals:
        assert reason(lambda fields=fields: quality.check(**fields)) == (INVALID, expected)  # type: ignore[misc]
    assert reason(lambda: quality.check(model="nobody", version="")) == (MISSING, "VERSION_NOT_SEEN")
    for text in ("", "7", "019a3f5e-7c00-7abc-8def-0123456789ab"):
        unknown = pb.GetQualityCheckRequest(id=text)
        assert reason(lambda unknown=unknown: quality.stub.GetQualityCheck(unknown)) == (MISSING, "CHECK_NOT_FOUND")  # type: ignore[misc]
    assert reason(lambda: quality.listed(page_size=1_001)) == (INVALID, "INVALID_PAGE_SIZE")
    assert reason(lambda: quality.listed(page_token="x")) == (INVALID, "INVALID_PAGE_TOKEN")
    assert reason(lambda: quality.listed(status=9)) == (INVALID, "INVALID_FIELD")


def test_checks_that_are_switched_off_are_refused(quality: Quality) -> None:
    quality.configure(enabled=False)
    assert reason(quality.check) == (grpc.StatusCode.FAILED_PRECONDITION, "QUALITY_OFF")


def test_lists_page_and_filter_and_leave_the_findings_out(quality: Quality) -> None:
    quality.send(rows(60, length=math.inf))
    kept = [quality.check() for _ in range(3)] + [quality.check(version="2.0.0")]
    first = quality.listed(page_size=3)
    rest = quality.listed(page_size=3, page_token=first.next_page_token)
    assert [check.id for check in (*first.checks, *rest.checks)] == [check.id for check in reversed(kept)]
    assert rest.next_page_token == ""
    assert not first.checks[1].findings
    assert first.checks[1].violation_count == 1
    assert [check.id for check in quality.listed(version="2.0.0").checks] == [kept[3].id]
    assert len(quality.listed(status=pb.QUALITY_STATUS_VIOLATED).checks) == 3
    assert not quality.listed(model="other").checks
    other_filters = pb.ListQualityChecksRequest(model="iris", page_token=first.next_page_token)
    assert reason(lambda: quality.stub.ListQualityChecks(other_filters)) == (INVALID, "INVALID_PAGE_TOKEN")


def test_each_version_is_checked_by_schedule_once_over_all_replicas(clone_database: Callable[[str], str]) -> None:
    url = clone_database("monitoring")
    with quality_of(url, quality_interval_ms=50) as quality, quality_of(url, quality_interval_ms=50):
        quality.send(rows(60))
        quality.send(rows(60), version="2.0.0")
        eventually(lambda: {check.version for check in quality.listed().checks} == {"1.0.0", "2.0.0"})
        quality.send(rows(60), version="3.0.0")
        eventually(lambda: len(quality.listed().checks) >= 3)
        checks = quality.listed().checks
        assert sorted(check.version for check in checks) == ["1.0.0", "2.0.0", "3.0.0"], "an hour is between two"
        assert {check.trigger for check in checks} == {drift_pb2.TRIGGER_SCHEDULE}
        assert {(check.to_time.seconds - check.from_time.seconds) for check in checks} == {86_400}
        due = "SELECT max(due_time - now()) < '5 minutes' FROM monitoring.quality_schedule"
        quality.configure(interval="5m")
        eventually(lambda: quality.monitoring.query(due) == [(True,)])
        assert len(quality.listed().checks) == 6, "a shorter interval holds at once"
