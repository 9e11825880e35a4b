from __future__ import annotations

import threading
from collections.abc import Iterator
from uuid import uuid4

import pytest

from services.common.errors import Unavailable
from services.common.migrate import migrate
from services.common.postgres import Database
from services.monitoring.__main__ import MIGRATIONS, SCHEMA
from services.monitoring.chores import Chores, Turn
from services.monitoring.store.chores import ChoreStore

WITHIN_S = 20.0
OFTEN_S = 0.01


@pytest.fixture
def database(empty_database: str) -> Iterator[Database]:
    migrate(empty_database, SCHEMA, MIGRATIONS)
    with Database(empty_database, pool_size=4) as database:
        yield database


def lease_to_another(database: Database, *, seconds: int) -> None:
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO monitoring.chores VALUES ('sweep', %(holder)s, now() + %(s)s * interval '1 second') "
            "ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, lease_time = excluded.lease_time",
            {"holder": uuid4(), "s": seconds},
        )


def test_one_replica_works_at_a_time_and_the_next_when_it_is_done(database: Database) -> None:
    began, go_on, second = threading.Event(), threading.Event(), threading.Event()

    def work_long(_: Turn) -> None:
        began.set()
        assert go_on.wait(WITHIN_S)

    one, other = Chores(ChoreStore(database)), Chores(ChoreStore(database))
    one.add("sweep", work_long, interval_s=WITHIN_S)
    looks = threading.Semaphore(0)
    take = ChoreStore.take

    class Watched(ChoreStore):
        def take(self, name: str, holder: object, *, lease_s: float) -> bool:
            taken = take(self, name, holder, lease_s=lease_s)  # type: ignore[arg-type]
            looks.release()
            return taken

    other._store = Watched(database)
    other.add("sweep", lambda _: second.set(), interval_s=OFTEN_S)
    one.open()
    assert began.wait(WITHIN_S)
    other.open()
    for _ in range(3):
        assert looks.acquire(timeout=WITHIN_S)
    assert not second.is_set()
    go_on.set()
    assert second.wait(WITHIN_S)
    one.close()
    other.close()


def test_the_lease_of_a_replica_that_died_runs_out(database: Database) -> None:
    done = threading.Event()
    lease_to_another(database, seconds=3_600)
    mine = Chores(ChoreStore(database))
    mine.add("sweep", lambda _: done.set(), interval_s=WITHIN_S)
    mine.open()
    mine.wake("sweep")
    lease_to_another(database, seconds=-1)
    mine.wake("sweep")
    assert done.wait(WITHIN_S)
    mine.close()


def test_work_that_fails_is_done_again(database: Database) -> None:
    errors: list[Exception] = [Unavailable("not now"), ZeroDivisionError("a defect")]
    done = threading.Event()

    def work(_: Turn) -> None:
        if errors:
            raise errors.pop()
        done.set()

    mine = Chores(ChoreStore(database))
    mine.add("sweep", work, interval_s=OFTEN_S)
    mine.open()
    assert done.wait(WITHIN_S)
    mine.close()


def test_long_work_hears_that_another_has_its_lease_and_that_the_service_ends(
    database: Database,
) -> None:
    store, holder, stopping = ChoreStore(database), uuid4(), threading.Event()
    assert store.take("sweep", holder, lease_s=60.0)
    turn = Turn(store, "sweep", holder, stopping)
    assert turn.renew()
    turn._until_s = 0.0  # half of it is over: the next renewal asks the database
    lease_to_another(database, seconds=3_600)
    assert not turn.renew()
    lease_to_another(database, seconds=0)  # it is free again, and what was read in this turn is old
    assert not turn.renew()
    stopping.set()
    assert not Turn(store, "sweep", holder, stopping).renew()
