"""What of alerts is bounded: rules and silences in number, what is over in time, and what a page token may say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.common import pages
from services.common.errors import InvalidArgument, ResourceExhausted
from services.common.postgres import Database
from services.monitoring.alerts.models import AlertType, MissingData, RequestKey, SilenceDraft
from services.monitoring.configuration.models import Own, Scope
from services.monitoring.configuration.store import ConfigurationStore
from tests.alert_replicas import Replica, SetClock
from tests.alerting import HOUR, IRIS, SECOND, Readings, counted, draft
from tests.monitoring import eventually

TURN = 15 * SECOND
BAD, GOOD = counted(50), counted(1)


@pytest.fixture
def replica(clone_database: Callable[[str], str]) -> Iterator[Replica]:
    """A replica without the rules that come with the service."""
    with Database(clone_database("monitoring"), pool_size=4) as database:
        made = Replica(database, Readings({IRIS: GOOD}), SetClock())
        made.execute("DELETE FROM monitoring.alert_rules")
        yield made


def test_what_is_over_is_kept_for_a_year_and_what_is_open_for_as_long_as_it_is(replica: Replica) -> None:
    replica.create(draft())
    replica.create(draft(name="other", threshold=0.2))
    replica.silence(HOUR)
    replica.readings.counts[IRIS] = BAD
    replica.turn()
    replica.readings.counts[IRIS] = replace(GOOD, error_count=15)
    replica.turn(TURN)
    assert sorted(replica.states()) == ["FIRING", "RESOLVED"]
    for age, left in ((364, 2), (2, 1)):
        replica.clock.forward(timedelta(days=age))
        replica.keeping.take(replica.new_turn())
        assert len(replica.listed()) == left
    assert replica.states() == ["FIRING"]
    assert replica.silences.page(ended=True, size=0, token="") == ([], "")


def test_rules_and_silences_are_bounded_in_number(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.monitoring.alerts.rules.MAX_RULES", 1)
    monkeypatch.setattr("services.monitoring.alerts.silences.MAX_SILENCES", 1)
    replica.create(draft())
    replica.silence(HOUR)
    with pytest.raises(ResourceExhausted) as rules:
        replica.create(draft(name="other"))
    with pytest.raises(ResourceExhausted) as silences:
        replica.silence(HOUR)
    assert (rules.value.reason, silences.value.reason) == ("TOO_MANY_RULES", "TOO_MANY_SILENCES")
    replica.clock.forward(HOUR)
    replica.silence(HOUR)  # the first is over


@pytest.mark.parametrize("position", [[1], ["a", "b"], ["a", "b", "\0"], ["no id"], [None]])
def test_a_token_that_was_never_given_is_refused(replica: Replica, position: list[Any]) -> None:
    of_rules = pages.encode(position, {"model": "", "version": ""})
    of_silences = pages.encode(position, {"ended": False})
    for ask in (
        lambda: replica.rules.page("", "", size=0, token=of_rules),
        lambda: replica.silences.page(ended=False, size=0, token=of_silences),
    ):
        with pytest.raises(InvalidArgument) as refused:
            ask()
        assert refused.value.reason == "INVALID_PAGE_TOKEN"


DRIFT: dict[str, Any] = {"type": AlertType.DRIFT, "metric": "effect", "window": timedelta(days=1), "threshold": 0.2}
SELDOM = {"drift": {"interval": timedelta(days=3)}}


def configure(replica: Replica, scope: Scope, own: Own) -> None:
    replica.configurations.set(scope, own, etag="", note="")


@pytest.mark.parametrize("scope", [Scope(), Scope("iris"), Scope("iris", "1.0.0")], ids=str)
def test_checks_that_would_come_too_seldom_for_a_rule_are_refused(replica: Replica, scope: Scope) -> None:
    rule = replica.create(draft(**DRIFT))
    with pytest.raises(InvalidArgument, match="the alert rule 'errors' looks at checks of the last 24h") as refused:
        configure(replica, scope, SELDOM)
    assert [each.field for each in refused.value.violations] == ["configuration.drift.interval"]
    replica.create(draft(**{**DRIFT, "window": timedelta(days=3)}, model="iris"))
    if scope.model:
        configure(replica, scope, SELDOM)  # that rule holds there
    replica.rules.delete(rule.id)
    configure(replica, scope, SELDOM)
    configure(replica, Scope(), {**SELDOM, "alerts": {"enabled": False}})


def test_a_rule_that_would_not_see_the_checks_of_some_model_is_refused(replica: Replica) -> None:
    configure(replica, Scope("iris", "1.0.0"), SELDOM)
    with pytest.raises(InvalidArgument, match=r"checks of iris 1\.0\.0 come every 3d") as refused:
        replica.create(draft(**DRIFT))
    assert refused.value.reason == "INVALID_RULE"
    replica.create(draft(**DRIFT, model="wine"))
    replica.create(draft(**{**DRIFT, "window": timedelta(days=7)}, model="iris", version="1.0.0"))
    everywhere = replica.create(draft(**DRIFT))  # there, it is not the one that holds
    replica.rules.update(everywhere.id, draft(**DRIFT, feature="age"), "")


def test_a_rule_that_waits_for_what_is_older_than_any_window_of_its_models_is_refused(replica: Replica) -> None:
    of = {"type": AlertType.DATA_QUALITY, "metric": "stale_s", "window": timedelta(days=1), "threshold": 86_400.0}
    with pytest.raises(InvalidArgument, match="never holds"):
        replica.create(draft(**of))
    configure(replica, Scope("iris", "1.0.0"), {"quality": {"window": timedelta(days=7)}})
    replica.create(draft(**of))
    with pytest.raises(InvalidArgument, match="never holds"):
        replica.create(draft(**of, model="wine"))


@pytest.mark.parametrize("scope", [Scope(), Scope("iris")], ids=str)
def test_an_interval_as_long_as_the_window_of_a_rule_that_misses_checks_is_refused(
    replica: Replica, scope: Scope
) -> None:
    misses = {**DRIFT, "missing_data": MissingData.ALERT}
    rule = replica.create(draft(**misses))
    daily = {"drift": {"interval": timedelta(days=1)}}
    with pytest.raises(InvalidArgument, match="--window 1450m"):
        configure(replica, scope, daily)
    replica.rules.delete(rule.id)
    configure(replica, scope, daily)
    with pytest.raises(InvalidArgument, match="take at least 1450m"):
        replica.create(draft(**misses))


def test_a_request_that_was_carried_out_gives_what_it_made_whatever_has_changed_since(replica: Replica) -> None:
    """Its answer was lost: that the same would be refused by now helps nobody."""
    rule_key, silence_key = (RequestKey("ada", rpc, "one", "body") for rpc in ("CreateAlertRule", "CreateSilence"))
    end_time = replica.clock.now + HOUR
    quiet = SilenceDraft("iris", "", "", None, begin_time=None, end_time=end_time, note="a migration")
    rule, silence = replica.rules.create(draft(**DRIFT), rule_key), replica.silences.create(quiet, silence_key)
    replica.rules.update(rule.id, draft(**DRIFT, enabled=False), "")
    configure(replica, Scope(), SELDOM)
    replica.clock.forward(2 * HOUR)
    assert replica.rules.create(draft(**DRIFT), rule_key).id == rule.id
    assert replica.silences.create(quiet, silence_key).id == silence.id


def test_of_a_rule_and_an_interval_that_do_not_go_together_only_one_comes_to_be(replica: Replica) -> None:
    waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with ThreadPoolExecutor(1) as colleague:
        with ConfigurationStore(replica.database).changing() as change:
            change.write(Scope(), SELDOM, changed_by="eve", note="", time=replica.clock.now)
            made = colleague.submit(replica.create, draft(**DRIFT))
            eventually(lambda: made.done() or bool(replica.execute(waiting)))
        with pytest.raises(InvalidArgument, match="3d"):
            made.result()
