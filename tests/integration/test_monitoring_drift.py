"""Drift over its socket: real events, counted by the service against a real profile, compared and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid4

import grpc
import psycopg
import pytest

from penstock.api.monitoring.v1 import drift_pb2 as pb
from penstock.api.monitoring.v1 import monitoring_pb2
from tests.drift import OFTEN, SPAN_S, Drift, connected, rows
from tests.monitoring import eventually, reason, serve

pytestmark = pytest.mark.slow
INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
REFUSED = grpc.StatusCode.FAILED_PRECONDITION
DRIFTED, OK = pb.DRIFT_STATUS_DRIFTED, pb.DRIFT_STATUS_OK
TOO_LITTLE = pb.DRIFT_STATUS_INSUFFICIENT_DATA


@pytest.fixture
def drift(clone_database: Callable[[str], str]) -> Iterator[Drift]:
    settings = {**OFTEN, "drift_interval_ms": 3_600_000}
    with serve(clone_database("monitoring"), **settings) as monitoring, connected(monitoring) as found:
        yield found


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
