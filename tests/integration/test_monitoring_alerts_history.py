"""Whatever people do to rules while versions come, fail and go: one open alert each, and every story is whole."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.common.errors import AlreadyExists, NotFound
from services.common.postgres import Database
from services.monitoring.alerts.models import Alert, AlertState
from tests.alert_replicas import Replica, SetClock
from tests.alerting import HOUR, IRIS, MINUTE, SECOND, Readings, counted, draft

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200)]  # thousands of moves take as long as they take
NAMES = st.sampled_from(["errors", "other"])
SCOPES = st.sampled_from([{}, {"model": "iris"}, {"model": "iris", "version": "1.0.0"}])
RULES = st.fixed_dictionaries(
    {
        "enabled": st.sampled_from([True, True, False]),
        "hold": st.sampled_from([timedelta(), MINUTE]),
        "threshold": st.sampled_from([0.1, 0.6]),
        "channels": st.sampled_from([(), ("ops",), ("ops", "slack")]),
        "repeat_interval": st.sampled_from([5 * MINUTE, HOUR]),
    }
)
SEEN = st.sampled_from([90, 30, 90, 0, None])
MOVES = st.one_of(
    st.tuples(st.just("turn"), SEEN, st.sampled_from([15 * SECOND, MINUTE, HOUR, -HOUR])),
    st.tuples(st.just("turn"), SEEN, st.sampled_from([15 * SECOND, MINUTE])),
    st.tuples(st.just("create"), NAMES, SCOPES, RULES),
    st.tuples(st.just("update"), st.integers(0, 5), RULES),
    st.tuples(st.just("delete"), st.integers(0, 5)),
    st.tuples(st.just("acknowledge")),
    st.tuples(st.just("silence"), st.sampled_from([MINUTE, HOUR])),
)
OPEN = (
    "SELECT rule_id, model, version FROM monitoring.alerts WHERE state <> 'RESOLVED' "
    "GROUP BY rule_id, model, version HAVING count(*) > 1"
)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(MOVES, min_size=10, max_size=30))
def test_every_story_is_whole(replicas: list[Replica], moves: list[tuple[Any, ...]]) -> None:
    first = replicas[0]
    first.execute("TRUNCATE monitoring.alert_rules, monitoring.alerts, monitoring.alert_silences CASCADE")
    first.execute("TRUNCATE monitoring.outbox")
    first.create(draft(channels=("ops",)))
    for number, (what, *given_) in enumerate(moves):
        _do(replicas[number % 2], what, given_)
        assert first.execute(OPEN) == []
    _end(first)
    alerts = first.listed()
    assert all(alert.state is AlertState.RESOLVED for alert in alerts)
    told = _told(first)
    assert set(told) <= {str(alert.id) for alert in alerts}
    for alert in alerts:
        _check_story(first, alert, told[str(alert.id)])


@pytest.fixture(scope="module")
def replicas(postgres_server: Any) -> Any:
    """Two replicas that see the same, by clocks that differ a little."""
    url = postgres_server.clone("monitoring")
    with Database(url, pool_size=4) as database:
        readings, clock = Readings(), SetClock()
        yield [Replica(database, readings, clock) for _ in range(2)]
    postgres_server.drop(url)


def _do(replica: Replica, what: str, given_: list[Any]) -> None:
    rules, _ = replica.rules.page("", "", size=0, token="")
    match what, *given_:
        case "turn", errors, elapsed:
            replica.readings.counts = {} if errors is None else {IRIS: counted(errors)}
            replica.turn(elapsed)
        case "create", name, scope, wanted:
            with suppress(AlreadyExists):
                replica.create(draft(name=name, **scope, **wanted))
        case "update", index, wanted if rules:
            rule = rules[index % len(rules)]
            for channel in wanted["channels"]:
                replica.create_channel(channel)
            replica.rules.update(
                rule.id, draft(name=rule.name, model=rule.model, version=rule.version, **wanted), rule.etag
            )
        case "delete", index if rules:
            replica.rules.delete(rules[index % len(rules)].id)
        case ("acknowledge",):
            for alert in replica.listed():
                if alert.state is not AlertState.RESOLVED:
                    with suppress(NotFound):
                        replica.alerts.acknowledge(alert.id, "seen")
        case "silence", length:
            replica.silence(length)


def _end(replica: Replica) -> None:
    for rule in replica.rules.page("", "", size=0, token="")[0]:
        replica.rules.delete(rule.id)


def _told(replica: Replica) -> dict[str, list[tuple[str, str]]]:
    """Give what was told of each alert, in order: to whom, and how it stood."""
    told: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in replica.execute("SELECT destination, body FROM monitoring.outbox ORDER BY put_number"):
        for alert in json.loads(row["body"])["alerts"]:
            told[alert["id"]].append((row["destination"], "REPEATED" if alert["repeated"] else alert["state"]))
    return told


def _check_story(replica: Replica, alert: Alert, told: list[tuple[str, str]]) -> None:
    history = replica.alerts.get(alert.id).history
    states = [event.state.value for event in history]
    assert states == sorted(states)
    assert [event.time for event in history] == sorted(event.time for event in history)
    assert states[-1] == AlertState.RESOLVED.value
    assert alert.fire_time is not None
    assert alert.resolve_time is not None
    assert alert.begin_time <= alert.fire_time <= alert.resolve_time
    for channel in ("ops", "slack"):
        heard = [state for name, state in told if name == channel]
        assert heard.count("RESOLVED") <= 1
        assert "RESOLVED" not in heard[:-1]
        assert heard.count("FIRING") <= 1
        assert not heard or heard[-1] == "RESOLVED"
    first = [state for _, state in told[:1]]
    assert first in ([], ["FIRING"])
