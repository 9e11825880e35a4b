"""What of alerts is bounded: rules and silences in number, what is over in time, and what a page token may say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.common import pages
from services.common.errors import InvalidArgument, ResourceExhausted
from services.common.postgres import Database
from tests.alert_replicas import Replica, SetClock
from tests.alerting import HOUR, IRIS, SECOND, Readings, counted, draft

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
    assert replica.states() == ["FIRING", "RESOLVED"]
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
