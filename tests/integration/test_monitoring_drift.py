"""Drift over its socket: real events, counted by the service against a real profile, compared and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import grpc
import numpy as np
import psycopg
import pytest

from penstock.api.monitoring.v1 import configuration_pb2, monitoring_pb2, profiles_pb2
from penstock.api.monitoring.v1 import drift_pb2 as pb
from penstock.api.monitoring.v1.configuration_pb2_grpc import ConfigurationServiceStub
from penstock.api.monitoring.v1.drift_pb2_grpc import DriftServiceStub
from penstock.api.monitoring.v1.profiles_pb2_grpc import ProfileServiceStub
from penstock.values import to_value
from tests.monitoring import TIMEOUT_S, Monitoring, eventually, new_event, reason, serve

pytestmark = pytest.mark.slow
INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
REFUSED = grpc.StatusCode.FAILED_PRECONDITION
OFTEN = {"rollup_interval_ms": 50, "profile_interval_ms": 50, "profile_open_interval_ms": 0, "drift_interval_ms": 50}
DRIFTED, OK = pb.DRIFT_STATUS_DRIFTED, pb.DRIFT_STATUS_OK
TOO_LITTLE = pb.DRIFT_STATUS_INSUFFICIENT_DATA
SPAN_S = 7_200


@dataclass(frozen=True, slots=True)
class Drift:
    """A running service, asked for drift."""

    monitoring: Monitoring
    stub: DriftServiceStub
    profiles: ProfileServiceStub
    configurations: ConfigurationServiceStub

    def profile(self, rows: list[dict[str, Any]], **columns: Any) -> str:
        """Attach a profile of these rows, and give its id."""
        header = profiles_pb2.UploadProfileHeader(
            model="iris",
            version="1.0.0",
            format=profiles_pb2.ROW_FORMAT_JSONL,
            columns=profiles_pb2.Columns(**columns),
        )
        text = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        parts = (profiles_pb2.UploadProfileRequest(header=header), profiles_pb2.UploadProfileRequest(chunk=text))
        return self.profiles.UploadProfile(iter(parts), timeout=TIMEOUT_S).profile.id

    def send(
        self, rows: list[dict[str, Any]], *, at: datetime | None = None, users: int = 10_000, **fields: Any
    ) -> list[str]:
        """Record an event a row, spread over the last two hours, or all `at` a time; gives their ids."""
        ages = np.linspace(SPAN_S, 400, len(rows))
        if at is not None:
            ages[:] = (datetime.now(UTC) - at).total_seconds()
        events = [
            new_event(
                age_s=float(age), features=payload(row), user_id=f"user {number % users}" if users else "", **fields
            )
            for number, (age, row) in enumerate(zip(ages, rows, strict=True))
        ]
        for start in range(0, len(events), 500):
            assert set(self.monitoring.record(*events[start : start + 500])) == {"STORED"}
        return [event.inference_id for event in events]

    def check(self, model: str = "iris", version: str = "1.0.0", **fields: Any) -> pb.DriftCheck:
        """Check now."""
        request = pb.CheckDriftRequest(model=model, version=version, **fields)
        return self.stub.CheckDrift(request, timeout=TIMEOUT_S).check

    def counted(self, rows: int, **fields: Any) -> pb.DriftCheck:
        """Check when so many rows have been counted."""
        found: list[pb.DriftCheck] = []

        def met() -> bool:
            found.append(self.check(**fields))
            return found[-1].live_count == rows

        eventually(met)
        return found[-1]

    def configure(self, **drift: Any) -> None:
        """Configure all models."""
        configuration = configuration_pb2.Configuration(drift=configuration_pb2.DriftConfiguration(**drift))
        request = configuration_pb2.SetConfigurationRequest(configuration=configuration)
        self.configurations.SetConfiguration(request, timeout=TIMEOUT_S)

    def listed(self, **fields: Any) -> pb.ListDriftChecksResponse:
        """List checks."""
        return self.stub.ListDriftChecks(pb.ListDriftChecksRequest(**fields), timeout=TIMEOUT_S)


def payload(row: dict[str, Any]) -> monitoring_pb2.Payload:
    message = monitoring_pb2.Payload()
    for name, value in row.items():
        message.fields.fields[name].CopyFrom(to_value(name, value))
    return message


def rows(count: int, seed: int, *, shift: float = 0.0) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    return [
        {"age": float(age), "income": float(income), "colour": str(colour)}
        for age, income, colour in zip(
            generator.normal(40 + 10 * shift, 10, count),
            generator.lognormal(10, 1, count),
            generator.choice(["red", "green", "blue"], count, p=[0.5, 0.3, 0.2]),
            strict=True,
        )
    ]


@pytest.fixture
def drift(clone_database: Callable[[str], str]) -> Iterator[Drift]:
    settings = {**OFTEN, "drift_interval_ms": 3_600_000}
    with serve(clone_database("monitoring"), **settings) as monitoring, connected(monitoring) as found:
        yield found


@contextmanager
def connected(monitoring: Monitoring) -> Iterator[Drift]:
    with grpc.insecure_channel(monitoring.address) as channel:
        stubs = (DriftServiceStub(channel), ProfileServiceStub(channel), ConfigurationServiceStub(channel))
        yield Drift(monitoring, *stubs)


def by_name(check: pb.DriftCheck) -> dict[str, pb.DriftResult]:
    return {result.feature: result for result in check.results}


def test_a_shifted_feature_is_found_told_and_kept(drift: Drift) -> None:
    profile_id = drift.profile(rows(2_000, 1))
    drift.send(rows(600, 2, shift=1.0))
    check = drift.counted(600)
    assert (check.status, list(check.drifted_types), check.drifted_count) == (DRIFTED, [pb.DRIFT_TYPE_INPUT], 1)
    assert (check.profile_id, check.compared_count, check.alpha) == (profile_id, 3, 0.05)
    assert check.false_alarm_rate == 0.05
    worst, *others = check.results
    assert worst.feature == "age"
    assert worst.effect > 0.4
    assert worst.adjusted_p_value < 0.001
    assert worst.psi > 0.4
    assert worst.ks_statistic > 0.2
    assert worst.wasserstein == pytest.approx(1.0, abs=0.25)
    assert [result.status for result in others] == [OK, OK]
    assert not by_name(check)["colour"].HasField("ks_statistic")
    assert "age has drifted: values" in worst.summary
    assert worst.summary.removesuffix(".") in check.summary
    assert sum(each.live_count for each in worst.bins) == 600
    assert drift.stub.GetDriftCheck(pb.GetDriftCheckRequest(id=check.id)).check == check


def test_rows_like_the_references_are_no_drift(drift: Drift) -> None:
    drift.profile(rows(2_000, 1))
    drift.send(rows(400, 2))
    check = drift.counted(400)
    assert (check.status, check.drifted_count, check.compared_count) == (OK, 0, 3)
    assert check.summary.startswith("No drift in 3 comparisons over 400 rows")


@contextmanager
def uncounting(database_url: str) -> Iterator[Drift]:
    """Serve where the chores that count are another replica's, which takes its time."""
    with psycopg.connect(database_url) as connection:
        for name in ("rollups", "profiles"):
            values = (name, uuid4())
            connection.execute("INSERT INTO monitoring.chores VALUES (%s, %s, now() + interval '1 hour')", values)
    with serve(database_url) as monitoring, connected(monitoring) as drift:
        yield drift


def test_who_checks_right_after_traffic_has_every_row_compared(clone_database: Callable[[str], str]) -> None:
    with uncounting(clone_database("monitoring")) as drift:
        drift.profile(rows(200, 1))
        drift.send(rows(60, 2))
        drift.send(rows(41, 3), at=datetime.now(UTC))
        check = drift.check(from_time=datetime.now(UTC) - timedelta(hours=3))
        assert (check.live_count, check.uncounted_bucket_count) == (101, 0)
        assert "wait" not in check.summary
        drift.send(rows(7, 4), at=datetime.now(UTC))  # into a bucket that was counted less than a minute ago
        assert drift.check(from_time=datetime.now(UTC) - timedelta(hours=3)).live_count == 108


def test_a_check_that_cannot_wait_for_what_came_just_now_says_so_and_from_when_on(
    clone_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.monitoring.profiles.live.CATCH_UP_S", 0)
    with uncounting(clone_database("monitoring")) as drift:
        drift.profile(rows(200, 1))
        drift.send(rows(60, 2))
        sent = datetime.now(UTC)
        drift.send(rows(41, 3), at=sent)
        check = drift.check(from_time=datetime.now(UTC) - timedelta(hours=3))
        assert (check.live_count, check.status) == (0, TOO_LITTLE)
        assert check.complete_until.ToDatetime(UTC) < datetime.now(UTC) - timedelta(seconds=SPAN_S - 300)
        assert "wait to be counted" in check.summary
        assert drift.check(from_time=sent).uncounted_bucket_count >= 1, "the bucket under way waits as well"


def test_too_few_rows_are_never_ok(drift: Drift) -> None:
    drift.profile(rows(2_000, 1))
    drift.send(rows(49, 2, shift=9.0))
    check = drift.counted(49)
    assert (check.status, check.compared_count) == (TOO_LITTLE, 0)
    assert {result.status for result in check.results} == {TOO_LITTLE}
    assert "49 rows with features came, and 50 are needed" in check.summary


def test_an_accuracy_that_falls_is_concept_drift_from_enough_labels_on(drift: Drift) -> None:
    reference = [{**row, "said": "yes", "truth": "yes" if n % 20 else "no"} for n, row in enumerate(rows(2_000, 1))]
    drift.profile(reference, predictions=["said"], label="truth")
    prediction = monitoring_pb2.Payload()
    prediction.fields.update({"prediction": "yes"})
    ids = drift.send(rows(150, 2), prediction=prediction)
    for number, inference_id in enumerate(ids[:99]):
        drift.monitoring.feedback(inference_id, actual="yes" if number % 3 else "no")
    eventually(lambda: by_name(drift.check())["accuracy"].live_count == 99)
    assert by_name(drift.check())["accuracy"].status == TOO_LITTLE
    for number, inference_id in enumerate(ids[99:], 99):
        drift.monitoring.feedback(inference_id, actual="yes" if number % 3 else "no")
    eventually(lambda: by_name(drift.check())["accuracy"].live_count == 150)
    check = drift.check()
    found = by_name(check)["accuracy"]
    assert (found.type, found.status) == (pb.DRIFT_TYPE_CONCEPT, DRIFTED)
    assert found.effect == pytest.approx(0.95 - 100 / 150)
    assert 0.05 < found.effect_low < found.effect < found.effect_high
    assert "Accuracy has dropped: the model was right in 95 %" in found.summary
    assert pb.DRIFT_TYPE_CONCEPT in check.drifted_types
    # Windows of days are told by the hour elsewhere: labels of half an hour before would judge this one.
    begin = datetime.now(UTC).replace(minute=30, second=0, microsecond=0) - timedelta(hours=50)
    (before,) = drift.send(rows(1, 3), prediction=prediction, at=begin - timedelta(minutes=10))
    drift.monitoring.feedback(before, actual="no")
    long = partial(drift.check, from_time=begin - timedelta(hours=1))
    eventually(lambda: by_name(long())["accuracy"].live_count == 151)
    assert by_name(drift.check(from_time=begin))["accuracy"].live_count == 150


def test_labels_are_judged_by_their_users(drift: Drift) -> None:
    known = [{"said": "yes", "truth": "yes"}] * 95 + [{"said": "yes", "truth": "no"}] * 5
    drift.profile(known, predictions=["said"], label="truth")
    prediction = monitoring_pb2.Payload()
    prediction.fields.update({"prediction": "yes"})
    for number, inference_id in enumerate(drift.send(rows(120, 2), users=3, prediction=prediction)):
        drift.monitoring.feedback(inference_id, actual="no" if number % 3 == 1 else "yes")
    eventually(lambda: by_name(drift.check())["accuracy"].live_count == 120)
    found = by_name(drift.check())["accuracy"]
    assert found.status == TOO_LITTLE, "one of three users for whom it is always wrong says nothing of the rest"
    assert "so few users that they are worth about" in found.summary
    for inference_id in drift.send(rows(400, 3), users=0, prediction=prediction):
        drift.monitoring.feedback(inference_id, actual="yes")
    eventually(lambda: by_name(drift.check())["accuracy"].live_count == 520)
    assert by_name(drift.check())["accuracy"].status == OK, "of most it is not known whose they are"


def test_another_gate_decides_and_says_how_often_it_is_wrong(drift: Drift) -> None:
    drift.profile(rows(2_000, 1))
    drift.send(rows(100, 2))
    drift.configure(gate=pb.DRIFT_GATE_WASSERSTEIN, ignored_features=["income"])
    eventually(lambda: drift.counted(100).gate == pb.DRIFT_GATE_WASSERSTEIN)
    check = drift.check()
    assert {name: result.gate for name, result in by_name(check).items()} == {
        "age": pb.DRIFT_GATE_WASSERSTEIN,
        "colour": pb.DRIFT_GATE_JENSEN_SHANNON,
    }
    assert check.false_alarm_rate > 0.3
    assert not by_name(check)["age"].HasField("p_value")


def test_what_cannot_be_checked_is_refused(drift: Drift) -> None:
    assert reason(lambda: drift.check(model="")) == (INVALID, "MODEL_REQUIRED")
    assert reason(lambda: drift.check(version="")) == (MISSING, "VERSION_NOT_SEEN")
    assert reason(drift.check) == (REFUSED, "NO_REFERENCE")
    assert reason(lambda: drift.check(version="x" * 200)) == (INVALID, "INVALID_TEXT")
    now = datetime.now(UTC)
    assert reason(lambda: drift.check(from_time=now, to_time=now - timedelta(hours=1))) == (INVALID, "INVALID_WINDOW")
    assert reason(lambda: drift.check(from_time=now - timedelta(days=40))) == (INVALID, "INVALID_WINDOW")
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert reason(lambda: drift.check(to_time=first)) == (INVALID, "INVALID_WINDOW")
    assert reason(lambda: drift.check(to_time=last)) == (INVALID, "INVALID_WINDOW")
    for unknown in ("", "nonsense", "019aa5c0-1234-7abc-8def-0123456789ab"):
        asked = partial(drift.stub.GetDriftCheck, pb.GetDriftCheckRequest(id=unknown))
        assert reason(asked) == (MISSING, "CHECK_NOT_FOUND")
    drift.configure(enabled=False)
    eventually(lambda: reason(drift.check) == (REFUSED, "DRIFT_OFF"))


def test_the_busiest_version_is_checked_where_none_is_named(drift: Drift) -> None:
    drift.profile(rows(200, 1))
    drift.send(rows(60, 2))
    drift.send(rows(5, 3), version="2.0.0")
    eventually(lambda: drift.check(version="").live_count == 60)
    assert drift.check(version="").version == "1.0.0"


def test_checks_are_listed_without_results_and_by_pages(drift: Drift) -> None:
    drift.profile(rows(200, 1))
    made = [drift.check().id for _ in range(5)][::-1]
    first = drift.listed(page_size=3)
    second = drift.listed(page_size=3, page_token=first.next_page_token)
    assert [check.id for check in (*first.checks, *second.checks)] == made
    assert not second.next_page_token
    assert not any(check.results for check in first.checks)
    assert {check.trigger for check in first.checks} == {pb.TRIGGER_REQUEST}
    assert not drift.listed(status=DRIFTED).checks
    assert len(drift.listed(model="iris", version="1.0.0", status=TOO_LITTLE).checks) == 5
    assert reason(lambda: drift.listed(status=9)) == (INVALID, "INVALID_FIELD")
    assert reason(lambda: drift.listed(page_size=3, model="iris", page_token=first.next_page_token)) == (
        INVALID,
        "INVALID_PAGE_TOKEN",
    )


def test_two_replicas_check_by_schedule_once_and_at_a_stricter_level(clone_database: Callable[[str], str]) -> None:
    database_url = clone_database("monitoring")
    with (
        serve(database_url, **OFTEN) as monitoring,
        serve(database_url, **OFTEN),
        connected(monitoring) as drift,
    ):
        drift.send(rows(300, 2, shift=2.0))
        drift.profile(rows(2_000, 1))
        eventually(lambda: len(drift.listed().checks) > 0)
        # Each replica looks for what is due twenty times a second; several turns of both are waited for.
        turns = "SELECT lease_time FROM monitoring.chores WHERE name = 'drift'"
        seen = set()

        def several() -> bool:
            seen.add(monitoring.query(turns)[0])
            return len(seen) > 5

        eventually(several)
        (check,) = drift.listed().checks
        assert check.trigger == pb.TRIGGER_SCHEDULE
        assert check.alpha == pytest.approx(0.25 / 91)
        assert drift.stub.GetDriftCheck(pb.GetDriftCheckRequest(id=check.id)).check.results
        due = "SELECT due_time > now() + interval '5 hours' FROM monitoring.drift_schedule"
        assert monitoring.query(due) == [(True,)]


def test_a_check_whose_time_has_come_again_is_made_again(clone_database: Callable[[str], str]) -> None:
    with serve(clone_database("monitoring"), **OFTEN) as monitoring, connected(monitoring) as drift:
        drift.send(rows(300, 2, shift=2.0))
        drift.profile(rows(2_000, 1))
        eventually(lambda: drift.counted(300).status == DRIFTED)

        def scheduled() -> list[pb.DriftCheck]:
            return [check for check in drift.listed().checks if check.trigger == pb.TRIGGER_SCHEDULE]

        eventually(lambda: len(scheduled()) == 1)
        with psycopg.connect(monitoring.database_url) as connection:
            connection.execute("UPDATE monitoring.drift_schedule SET due_time = now() - interval '1 second'")
        eventually(lambda: len(scheduled()) == 2)
        assert scheduled()[0].status == DRIFTED


def test_no_interval_is_spent_on_a_check_of_what_is_not_counted_yet(clone_database: Callable[[str], str]) -> None:
    """After an outage, a restart or an attachment another replica may count for a while: here one that is stuck."""
    with serve(clone_database("monitoring"), **OFTEN) as monitoring, connected(monitoring) as drift:
        held = """
        INSERT INTO monitoring.chores
        SELECT name, gen_random_uuid(), now() + interval '1 hour' FROM unnest('{rollups,profiles}'::text[]) AS name
        ON CONFLICT (name) DO UPDATE SET lease_time = excluded.lease_time, holder = excluded.holder
        """
        with psycopg.connect(monitoring.database_url) as connection:
            connection.execute(held)
        drift.send(rows(300, 2, shift=2.0))
        drift.profile(rows(2_000, 1))
        waiting = "SELECT wait_time IS NOT NULL FROM monitoring.drift_schedule"
        eventually(lambda: monitoring.query(waiting) == [(True,)])
        assert not drift.listed().checks
        with psycopg.connect(monitoring.database_url) as connection:
            connection.execute("UPDATE monitoring.chores SET lease_time = now() WHERE name IN ('rollups', 'profiles')")
        eventually(lambda: len(drift.listed().checks) == 1)
        (check,) = drift.listed().checks
        assert (check.trigger, check.status) == (pb.TRIGGER_SCHEDULE, DRIFTED)
        assert monitoring.query(waiting) == [(False,)]


def test_the_next_check_by_schedule_may_be_made_before_its_time(clone_database: Callable[[str], str]) -> None:
    with serve(clone_database("monitoring"), **OFTEN) as monitoring, connected(monitoring) as drift:
        drift.send(rows(300, 2, shift=2.0))
        drift.profile(rows(2_000, 1))
        eventually(lambda: drift.counted(300).status == DRIFTED)
        eventually(lambda: monitoring.query("SELECT count(*) FROM monitoring.drift_schedule") == [(1,)])
        waiting = "SELECT FROM monitoring.rollup_marks WHERE granularity = 1"
        waiting += " UNION ALL SELECT FROM monitoring.profile_marks"
        eventually(lambda: monitoring.query(waiting) == [])
        check = drift.check(as_scheduled=True)
        assert (check.trigger, check.status) == (pb.TRIGGER_SCHEDULE, DRIFTED)
        assert check.alpha == pytest.approx(0.25 / 91)
        last = "SELECT check_id::text, due_time > now() + interval '5 hours 59 minutes' FROM monitoring.drift_schedule"
        assert monitoring.query(last) == [(check.id, True)], "rules judge it, and the next comes a whole interval later"
        for end in ("from_time", "to_time"):
            window: dict[str, Any] = {end: datetime.now(UTC)}
            asked = partial(drift.check, as_scheduled=True, **window)
            assert reason(asked) == (INVALID, "INVALID_WINDOW")
        drift.send(rows(60, 4), version="2.0.0")
        drift.profiles.AttachProfile(profiles_pb2.AttachProfileRequest(id=check.profile_id, version="2.0.0"))
        eventually(lambda: drift.check(as_scheduled=True).alpha == pytest.approx(0.125 / 91))
