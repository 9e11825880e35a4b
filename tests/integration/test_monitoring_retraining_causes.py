"""What raises retraining requests by itself: what checks and alerts found, the calendar, and error rates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from penstock.values import from_value
from services.common.postgres import Database
from services.monitoring.drift.models import DriftType
from services.monitoring.retraining.models import Reason
from services.monitoring.retraining.store.causes import CauseStore
from tests.monitoring import eventually, new_event
from tests.retraining import (
    Retraining,
    drift_check,
    drift_result,
    new_uuid,
    reason_of,
    requests_on,
    serve_retraining,
    state_of,
)


@pytest.fixture
def here(clone_database: Callable[[str], str]) -> Iterator[Retraining]:
    """Monitoring without a trainer."""
    with serve_retraining(clone_database("monitoring")) as here:
        yield here


def test_what_was_found_raises_one_request_which_names_its_check_and_its_alert(here: Retraining) -> None:
    here.configure(min_labels=2)
    here.label(2)
    check_id, alert_id = new_uuid(), new_uuid()
    details = {"metric": "drift_effect", "value": 0.5, "features": ["petal_length"]}
    here.find(check_id=check_id, details=details)
    here.find(alert_id=alert_id, check_id=check_id)
    here.weighed()
    (raised,) = here.listed()
    assert (state_of(raised), reason_of(raised), raised.requested_by) == ("PENDING", "DRIFT_DETECTED", "monitoring")
    assert (raised.check_id, raised.alert_id) == (str(check_id), str(alert_id))
    assert (raised.label_count, raised.version) == (2, "1")
    assert {name: from_value(value) for name, value in raised.details.fields.items()} == details


def test_an_alert_that_raises_nothing_itself_is_answered_by_what_its_check_raised(here: Retraining) -> None:
    here.configure(min_labels=0)
    check_id = new_uuid()
    here.find(check_id=check_id)
    at_once, later, other = new_uuid(), new_uuid(), new_uuid()
    here.find(check_id=check_id, alert_id=at_once, raises=False)
    here.find(check_id=new_uuid(), alert_id=later, raises=False)
    here.find(check_id=new_uuid(), alert_id=other, version="2", raises=False)
    here.weighed()
    (raised,) = here.listed()
    assert (raised.check_id, raised.alert_id) == (str(check_id), "")
    answered = here.monitoring.query("SELECT retraining_id::text, alert_id FROM monitoring.retraining_alerts")
    assert sorted(answered) == sorted([(raised.id, at_once), (raised.id, later)])


def test_what_was_found_for_another_reason_is_no_part_of_an_open_request(here: Retraining) -> None:
    here.configure(min_labels=0)
    here.find(check_id=new_uuid())
    here.find(Reason.ERROR_RATE_THRESHOLD, alert_id=new_uuid())
    here.find(version="2", alert_id=new_uuid())
    here.weighed()
    (raised,) = here.listed()
    assert (reason_of(raised), raised.version, raised.alert_id) == ("DRIFT_DETECTED", "1", "")


def test_what_was_found_again_after_a_no_is_not_asked_again(here: Retraining) -> None:
    here.configure(min_labels=0)
    here.find()
    here.weighed()
    (raised,) = here.listed()
    here.reject(raised.id)
    here.find()
    here.weighed()
    assert len(here.listed()) == 1
    assert state_of(here.create()) == "PENDING", "a person may"


def test_what_is_found_on_too_few_labels_raises_nothing(here: Retraining) -> None:
    here.label(3)
    here.find()
    here.find(Reason.ERROR_RATE_THRESHOLD)
    here.weighed()
    assert here.listed() == []


@pytest.mark.slow
def test_the_calendar_raises_requests(here: Retraining) -> None:
    here.label(1, version="4")
    here.configure(min_labels=1, schedule_interval="30d")
    eventually(lambda: bool(here.listed()))
    found = here.listed()
    assert (reason_of(found[0]), found[0].version) == ("SCHEDULED", "4")


@pytest.mark.slow
def test_an_error_rate_raises_a_request_for_the_version_that_fails(here: Retraining) -> None:
    here.configure(min_labels=0)
    here.monitoring.record(*(new_event(version="4", error_code="MODEL_FAILED") for _ in range(49)))
    here.monitoring.record(*(new_event(model="fine") for _ in range(200)))
    here.monitoring.record(new_event(version="4"))
    eventually(lambda: bool(here.listed()))
    found = here.listed()
    assert [(each.model, each.version, reason_of(each)) for each in found] == [("iris", "4", "ERROR_RATE_THRESHOLD")]
    assert found[0].details.fields["value"].number_value == pytest.approx(0.98)


@pytest.mark.slow
def test_an_alert_that_fired_on_too_few_labels_asks_as_soon_as_there_are_enough(here: Retraining) -> None:
    here.configure(min_labels=2)
    here.label(1)
    alert_id = here.fire()
    here.find(Reason.ACCURACY_DROP, alert_id=alert_id)
    here.all_weighed()
    assert here.listed() == []
    here.label(1)
    eventually(lambda: bool(here.listed()))
    (raised,) = here.listed()
    assert (reason_of(raised), raised.alert_id, raised.label_count) == ("ACCURACY_DROP", str(alert_id), 2)


@pytest.mark.slow
def test_an_alert_that_began_while_another_request_was_open_asks_once_that_is_over(here: Retraining) -> None:
    here.configure(min_labels=0, min_interval="0s")
    here.label(1)
    open_one = here.create()
    here.find(alert_id=here.fire())
    here.all_weighed()
    here.reject(open_one.id)
    eventually(lambda: len(here.listed()) == 2)
    assert reason_of(here.listed()[0]) == "DRIFT_DETECTED"


def test_an_alert_that_ended_meanwhile_asks_for_nothing_any_more(here: Retraining) -> None:
    here.label(1)
    alert_id = here.fire()
    here.find(Reason.ACCURACY_DROP, alert_id=alert_id)
    here.all_weighed()
    here.monitoring.query("UPDATE monitoring.alerts SET state = 'RESOLVED', resolve_time = now() RETURNING 1")
    here.weighed()
    assert here.listed() == []


def test_a_drift_stands_until_a_later_check_by_schedule_or_until_its_data_is_out_of_the_window(
    here: Retraining,
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    past = datetime.now(UTC) - timedelta(hours=1)
    here.find(check_id=here.check(), end_time=later)
    here.find(check_id=here.check(version="2"), version="2", end_time=later)
    here.find(check_id=here.check(version="3"), version="3", end_time=past)
    eventually(lambda: here.standing() == ["1", "2"])
    here.check(version="2")
    eventually(lambda: here.standing() == ["1"])


def test_what_a_check_found_is_kept_with_the_check_or_not_at_all(clone_database: Callable[[str], str]) -> None:
    drifted = drift_check(drift_result(DriftType.INPUT, 0.9))
    with Database(clone_database("monitoring")) as database:
        requests, queue = requests_on(database), CauseStore(database)
        with suppress(KeyboardInterrupt), database.transaction() as transaction:
            requests.consider_check(transaction, drifted)
            raise KeyboardInterrupt  # killed between the two
        assert queue.new(limit=10) == []
        with database.transaction() as transaction:
            requests.consider_check(transaction, drifted)
            requests.consider_check(transaction, drift_check(drift_result(DriftType.PREDICTION, 0.9)))
        (cause,) = queue.new(limit=10)
        assert (cause.check_id, cause.reason) == (drifted.id, Reason.DRIFT_DETECTED)
        assert cause.end_time == drifted.create_time + timedelta(hours=6 + 24), "by then its data is out of the window"
