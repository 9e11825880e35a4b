"""What drift checks and quality checks share: who keeps a check, what rules judge by, and going round."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import BoundedSemaphore
from typing import Any
from uuid import UUID

import psycopg
import pytest

from penstock.ids import uuid7
from services.common.errors import DeadlineExceeded, FailedPrecondition, ResourceExhausted, Unavailable
from services.common.postgres import Database
from services.monitoring.drift.checks import FORM
from services.monitoring.drift.models import BinComparison, DriftCheck, DriftResult
from services.monitoring.window_checks import keeping
from services.monitoring.window_checks.keeping import Kept
from services.monitoring.window_checks.rounds import Rounds, await_counts, one_of_few
from services.monitoring.window_checks.store import CheckStore, Version
from services.monitoring.window_checks.window import Completeness
from tests.alerting import drift_check, drift_result
from tests.postgres import PostgresServer

HOUR = timedelta(hours=1)
RESULT = drift_result("age", 0.5, bins=(BinComparison("≤ 1", 0.5, 0.6, 7),), summary="age has drifted", p_value=0.001)


class Reads(CheckStore):
    """Says which documents were read."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, "drift")
        self.read: list[UUID] = []

    def documents(self, ids: Any) -> dict[UUID, bytes]:
        """Find documents."""
        self.read.extend(ids)
        return super().documents(ids)


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    url = postgres_server.clone("monitoring")
    with Database(url) as running:
        yield running
    postgres_server.drop(url)


@pytest.fixture
def store(database: Database) -> Reads:
    with database.transaction() as connection:
        connection.execute("TRUNCATE monitoring.drift_checks, monitoring.drift_schedule")
    return Reads(database)


def made(model: str = "iris", *results: DriftResult, age: timedelta = timedelta(), **changes: Any) -> DriftCheck:
    now = datetime.now(UTC) - age
    return replace(drift_check(*results, to_time=now), id=UUID(uuid7(now)), model=model, version="1", **changes)


def is_due(store: CheckStore, interval: timedelta) -> bool:
    return store.due({("iris", "1"): interval}) == [("iris", "1")]


def pass_time(database: Database, model: str, time: timedelta) -> None:
    """Let a version's next check come nearer."""
    with database.transaction() as connection:
        shift = "UPDATE monitoring.drift_schedule SET due_time = due_time - %s WHERE model = %s"
        connection.execute(shift, (time, model))


def test_of_two_replicas_that_check_at_once_one_keeps_its_check(store: Reads, database: Database) -> None:
    kept = Kept(store, FORM)
    assert is_due(store, HOUR)
    checks = [made() for _ in range(4)]
    with ThreadPoolExecutor(4) as replicas:
        first = list(replicas.map(lambda check: kept.add_due(check, HOUR), checks))
    assert sorted(first) == [False, False, False, True]
    assert [bool(store.documents([check.id])) for check in checks] == first
    pass_time(database, "iris", HOUR / 2)
    assert not is_due(store, HOUR)
    assert not kept.add_due(made(), HOUR)
    pass_time(database, "iris", HOUR / 2)
    assert is_due(store, HOUR)
    assert kept.add_due(made(), HOUR)
    assert is_due(store, HOUR / 2), "a shorter interval holds at once"


def test_a_replica_whose_clock_is_a_day_ahead_checks_no_sooner_than_the_others(store: Reads) -> None:
    kept = Kept(store, FORM)
    assert kept.add_due(made(), HOUR)
    assert not kept.add_due(made(age=timedelta(days=-1)), HOUR)
    assert not is_due(store, HOUR)


def test_rules_judge_the_last_check_by_schedule_whatever_was_asked_for_since(store: Reads, database: Database) -> None:
    kept = Kept(store, FORM)
    old, new, by_hand = made("iris", RESULT, age=-HOUR), made("iris", RESULT), made("iris")
    other, unchecked = made("wine", RESULT), made("rye")
    for check in (old, other):
        assert kept.add_due(check, HOUR)
    pass_time(database, "iris", HOUR)
    assert kept.add_due(new, HOUR)  # its clock was behind that of the one before
    for check in (by_hand, unchecked):
        kept.add(check)
    found = kept.latest_of([("iris", "1"), ("wine", "1"), ("rye", "1"), ("wine", "2"), ("iris", "")])
    assert {version: check.id for version, check in found.items()} == {("iris", "1"): new.id, ("wine", "1"): other.id}
    (result,) = found["iris", "1"].results
    assert (result.effect, result.p_value, result.drifted) == (0.5, 0.001, True)
    assert (result.bins, result.summary) == ((), ""), "they are what is large, and no rule asks for them"
    assert kept.get(str(new.id)).results[0].bins
    assert kept.latest_of([]) == {}


def test_of_two_checks_made_before_their_time_at_once_rules_judge_the_newer_and_both_are_found(store: Reads) -> None:
    kept, older, newer = Kept(store, FORM), made(age=HOUR), made()
    asked: list[object] = []
    assert kept.add_due(newer, HOUR, asked.append, before_time=True)
    assert not kept.add_due(older, HOUR, asked.append, before_time=True)
    assert kept.latest_of([("iris", "1")])["iris", "1"].id == newer.id
    assert kept.get(str(older.id)) == older, "who asked for it has its id"
    assert len(asked) == 1
    latest = made(age=-HOUR)
    assert kept.add_due(latest, HOUR, before_time=True)
    assert kept.latest_of([("iris", "1")])["iris", "1"].id == latest.id


def test_a_check_that_rules_judge_every_few_seconds_is_read_once(
    store: Reads, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(store, FORM)
    names = [f"model {number}" for number in range(60)]
    for name in names:
        kept.add_due(made(name, RESULT), HOUR)
    versions = [(name, "1") for name in names]
    assert len(kept.latest_of(versions)) == 60
    assert len(store.read) == 60
    pass_time(database, names[7], HOUR)
    again = made(names[7])
    kept.add_due(again, HOUR)
    assert kept.latest_of(versions)[names[7], "1"].id == again.id
    assert store.read[60:] == [again.id]
    monkeypatch.setattr(keeping, "MOST_REMEMBERED", 10)  # each counts as two
    assert len(kept.latest_of([*versions, ("more", "1")])) == 60
    kept.add_due(made("more", RESULT), HOUR)
    del store.read[:]
    assert len(kept.latest_of([*versions, ("more", "1")])) == 61
    assert len(kept.latest_of([("more", "1"), *versions])) == 61, "what is too much to remember is read again"
    assert len(store.read) > 50


def test_a_check_that_waits_for_counts_is_no_last_check_and_waits_from_its_first_turn(
    store: Reads, database: Database
) -> None:
    kept = Kept(store, FORM)
    assert store.wait("iris", "1") == timedelta(0)
    with database.transaction() as connection:
        connection.execute("UPDATE monitoring.drift_schedule SET wait_time = wait_time - interval '10 minutes'")
    assert store.wait("iris", "1") > timedelta(minutes=10)
    assert is_due(store, HOUR)
    assert not kept.latest_of([("iris", "1")])
    check = made()
    assert kept.add_due(check, HOUR)
    assert kept.latest_of([("iris", "1")])["iris", "1"].id == check.id
    assert store.wait("iris", "1") == timedelta(0)


def test_who_asks_for_the_next_check_is_told_where_buckets_wait_but_for_what_was_over_just_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.monitoring.window_checks.rounds._PAUSE_S", 0)
    now = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
    old, new = Completeness(3, now - timedelta(hours=2)), Completeness(1, now - timedelta(minutes=5, seconds=30))
    looks = [old, old, Completeness(0, now)]
    await_counts(lambda: looks.pop(0), lambda: now)
    assert not looks
    await_counts(lambda: new, lambda: now)
    with pytest.raises(FailedPrecondition, match="3 buckets") as caught:
        await_counts(lambda: old, lambda: now)
    assert caught.value.reason == "BUCKETS_WAIT"


def test_no_more_checks_are_made_by_hand_at_once_than_there_is_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.monitoring.window_checks.rounds._PLACE_WAIT_S", 0)
    places = BoundedSemaphore(1)
    with one_of_few(places), pytest.raises(ResourceExhausted, match="try again") as caught, one_of_few(places):
        pass
    assert caught.value.reason == "TOO_MANY_CHECKS"
    with one_of_few(places):
        pass


def test_what_belongs_to_a_check_is_kept_with_it_or_neither_is(store: Reads, database: Database) -> None:
    kept, check = Kept(store, FORM), made()

    def broken(connection: psycopg.Connection[Any]) -> None:
        connection.execute("SELECT 1 / 0")

    with pytest.raises(psycopg.errors.DivisionByZero):
        kept.add_due(check, HOUR, broken)
    assert not store.documents([check.id])
    assert is_due(store, HOUR)


def test_checks_past_their_time_are_dropped(store: Reads) -> None:
    kept = Kept(store, FORM)
    checks = [made(age=timedelta(days=days)) for days in (400, 380, 1)]
    for check in checks:
        kept.add(check)
    assert [store.drop_older(keeping.KEPT, limit=1) for _ in range(3)] == [1, 1, 0]
    assert [bool(store.documents([check.id])) for check in checks] == [False, False, True]


class Turn:
    """A turn that lasts."""

    def renew(self) -> bool:
        """Go on."""
        return True


def rounds(store: CheckStore, check: Callable[[str, str], None], **off: bool) -> Rounds:
    """Go round two versions of one model and one of another; those of `off` are not checked."""
    seen = [("a", "1"), ("a", ""), ("a", "2"), ("c", "1")]

    def intervals(versions: Collection[Version]) -> dict[Version, timedelta]:
        return {(model, version): HOUR for model, version in versions if model not in off}

    return Rounds(store, lambda window: seen, lambda: datetime.now(UTC), intervals, check)


@pytest.mark.parametrize("error", [DeadlineExceeded("too long", reason="STATEMENT_TIMEOUT"), ValueError("odd data")])
def test_what_goes_wrong_with_one_version_keeps_no_other_from_being_checked(store: Reads, error: Exception) -> None:
    seen: list[tuple[str, str]] = []

    def check(model: str, version: str) -> None:
        seen.append((model, version))
        if (model, version) == ("a", "1"):
            raise error

    turn: Any = Turn()
    rounds(store, check).go(turn)
    assert seen == [("a", "1"), ("a", "2"), ("c", "1")]


def test_what_is_switched_off_or_was_checked_lately_is_not_looked_at(store: Reads, database: Database) -> None:
    seen: list[tuple[str, str]] = []
    turn: Any = Turn()
    assert Kept(store, FORM).add_due(made("a"), HOUR)
    rounds(store, lambda *version: seen.append(version), c=True).go(turn)
    assert seen == [("a", "2")]


def test_versions_of_a_model_that_are_checked_share_its_false_alarms(store: Reads) -> None:
    assert rounds(store, print).versions_checked("a") == 2
    assert rounds(store, print, a=True).versions_checked("a") == 0


def test_a_database_that_is_away_is_asked_no_more_in_the_turn(store: Reads) -> None:
    seen: list[str] = []

    def check(model: str, version: str) -> None:
        seen.append(model)
        raise Unavailable("it is away", reason="DATABASE_UNAVAILABLE")

    turn: Any = Turn()
    with pytest.raises(Unavailable):
        rounds(store, check).go(turn)
    assert seen == ["a"]
