from __future__ import annotations

import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from pydantic import ValidationError

from services.common.errors import Aborted, AlreadyExists, DeadlineExceeded, Unavailable
from services.common.postgres import Database, Listener, PostgresSettings
from tests.postgres import PostgresServer

DEADLINE_S = 60.0
TABLE = """
CREATE TABLE gates (
    name text CONSTRAINT gates_pkey PRIMARY KEY,
    open_mm integer CONSTRAINT gates_open_mm_check CHECK (open_mm >= 0)
)
"""


@pytest.fixture
def database(empty_database: str) -> Iterator[Database]:
    with Database(empty_database, pool_size=2, pool_wait_s=DEADLINE_S, pool_backlog=1) as database:
        with database.transaction() as connection:
            connection.execute(TABLE)
        yield database


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)


def is_available(database: Database) -> bool:
    try:
        database.check()
    except Unavailable:
        return False
    return True


def test_rows_are_dictionaries_and_a_transaction_commits_at_its_end(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO gates VALUES (%(name)s, 3)", {"name": "upper"})
    with database.transaction() as connection:
        assert connection.execute("SELECT * FROM gates").fetchall() == [{"name": "upper", "open_mm": 3}]


def test_an_error_inside_rolls_back_and_passes_as_it_is(database: Database) -> None:
    with pytest.raises(AlreadyExists, match="ours"), database.transaction() as connection:  # noqa: PT012 - the block is the transaction
        connection.execute("INSERT INTO gates VALUES ('lost', 1)")
        raise AlreadyExists("ours")
    with database.transaction() as connection:
        assert connection.execute("SELECT * FROM gates").fetchall() == []


def test_a_named_constraint_means_what_the_transaction_says(empty_database: str) -> None:
    common = {"gates_pkey": lambda: AlreadyExists("from the database")}
    own = {"gates_open_mm_check": lambda: AlreadyExists("from the transaction")}
    with Database(empty_database, constraints=common) as database:
        with database.transaction() as connection:
            connection.execute(TABLE)
            connection.execute("INSERT INTO gates VALUES ('upper', 1)")
        with pytest.raises(AlreadyExists, match="from the database"), database.transaction(own) as connection:
            connection.execute("INSERT INTO gates VALUES ('upper', 2)")
        with pytest.raises(AlreadyExists, match="transaction"), database.transaction(own) as connection:
            connection.execute("INSERT INTO gates VALUES ('lower', -1)")
        with pytest.raises(psycopg.errors.CheckViolation), database.transaction() as connection:
            connection.execute("INSERT INTO gates VALUES ('lower', -1)")


def test_a_lost_race_is_aborted(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO gates VALUES ('upper', 1)")
    with pytest.raises(Aborted) as lost, database.transaction() as loser:  # noqa: PT012 - the block is the transaction
        loser.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        loser.execute("SELECT * FROM gates")
        with database.transaction() as winner:
            winner.execute("UPDATE gates SET open_mm = 2")
        loser.execute("UPDATE gates SET open_mm = 3")
    assert lost.value.reason == "TRANSACTION_CONFLICT"


def test_a_lock_held_too_long_is_aborted_and_a_slow_statement_ends_at_its_limit(empty_database: str) -> None:
    with Database(empty_database, lock_timeout_s=0.05) as database:
        with database.transaction() as connection:
            connection.execute(TABLE)
        with database.transaction() as holder:
            holder.execute("LOCK TABLE gates")
            with pytest.raises(Aborted) as late, database.transaction() as waiter:
                waiter.execute("SELECT * FROM gates")
        assert late.value.reason == "LOCK_TIMEOUT"
    with Database(empty_database, statement_timeout_s=0.3) as database:
        with pytest.raises(DeadlineExceeded) as slow, database.transaction() as connection:
            connection.execute("SELECT pg_sleep(20)")
        assert slow.value.reason == "DATABASE_TIMEOUT"


def test_the_pool_is_bounded_in_size_and_in_waiting(database: Database) -> None:
    with database.transaction(), database.transaction(), ThreadPoolExecutor(2) as threads:
        database._pool.timeout = 0.2  # the connections that are held took as long as they took

        def ask() -> str:
            with pytest.raises(Unavailable) as refused, database.transaction():
                pass
            assert refused.value.retry_after_s == 1.0
            return refused.value.reason

        reasons = [future.result() for future in [threads.submit(ask) for _ in range(2)]]
    assert reasons == ["DATABASE_UNAVAILABLE"] * 2
    database.check()


def test_a_database_that_is_away_is_unavailable_and_opening_does_not_mind(empty_database: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and never listening: every connection is refused
        url = f"postgresql://penstock@127.0.0.1:{taken.getsockname()[1]}/postgres"
        with Database(url, pool_wait_s=0.2) as database:
            with pytest.raises(Unavailable):
                database.check()
            with pytest.raises(Unavailable) as away, database.transaction():
                pass
    assert away.value.reason == "DATABASE_UNAVAILABLE"
    assert away.value.retryable


@pytest.mark.slow
def test_a_database_that_stops_and_starts_again_is_used_again(own_postgres_server: PostgresServer) -> None:
    with Database(own_postgres_server.empty(), pool_wait_s=1.0) as database:
        database.check()
        with pytest.raises(Unavailable), database.transaction() as connection:  # noqa: PT012 - the block is the transaction
            own_postgres_server.stop()
            connection.execute("SELECT 1")
        with pytest.raises(Unavailable):
            database.check()
        own_postgres_server.start()
        eventually(lambda: is_available(database))


@pytest.mark.slow
def test_a_network_that_swallows_everything_is_unavailable_in_bounded_time(
    postgres_server: PostgresServer, empty_database: str
) -> None:
    with DeafenableProxy(postgres_server.port) as proxy:
        url = empty_database.replace(f":{postgres_server.port}/", f":{proxy.port}/")
        with Database(url, pool_size=1, pool_wait_s=DEADLINE_S, statement_timeout_s=0.5) as database:
            with database.transaction() as connection:
                connection.execute("SELECT 1")
                proxy.deaf = True
                with pytest.raises(psycopg.errors.ConnectionTimeout):
                    connection.execute("SELECT 1")
                proxy.deaf = False
            eventually(lambda: is_available(database))
            proxy.deaf = True
            with pytest.raises(Unavailable):
                database.check()
            proxy.deaf = False
            eventually(lambda: is_available(database))


def test_a_listener_wakes_first_then_for_each_notification(database: Database) -> None:
    with database.listen(["gates"], poll_interval_s=DEADLINE_S) as wakes:
        woken = iter(wakes)
        assert next(woken) == frozenset()
        with database.transaction() as connection:
            connection.execute("NOTIFY gates")
        assert next(woken) == {"gates"}


def test_a_listener_hears_where_a_thousand_files_are_open(database: Database) -> None:
    with ExitStack() as stack:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, hard), hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while stack.enter_context(Path(os.devnull).open()).fileno() < 1_024:
            pass
        wakes = stack.enter_context(database.listen(["gates"], poll_interval_s=DEADLINE_S))
        woken = iter(wakes)
        next(woken)
        with database.transaction() as connection:
            connection.execute("NOTIFY gates")
        assert next(woken) == {"gates"}


def test_a_listener_ends_when_another_thread_closes_it(database: Database) -> None:
    wakes_seen = threading.Semaphore(0)

    def follow(listener: Listener) -> None:
        with listener as wakes:
            for _ in wakes:
                wakes_seen.release()

    listener = database.listen(["gates"], poll_interval_s=DEADLINE_S * 10)
    follower = threading.Thread(target=follow, args=[listener])
    follower.start()
    assert wakes_seen.acquire(timeout=DEADLINE_S)
    listener.close()
    follower.join(DEADLINE_S)
    assert not follower.is_alive()


def test_a_listener_polls_through_a_lost_connection_and_hears_again(database: Database, empty_database: str) -> None:
    with database.listen(["gates"], poll_interval_s=0.05) as wakes:
        woken = iter(wakes)
        next(woken)
        with psycopg.connect(empty_database, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'penstock-listen' AND datname = current_database()"
            )

        def heard() -> bool:
            with database.transaction() as connection:
                connection.execute("NOTIFY gates")
            return next(woken) == {"gates"}

        eventually(heard)


@pytest.mark.parametrize("variable", ["PENSTOCK_DATABASE_URL", "PENSTOCK_LISTEN_URL"])
@pytest.mark.parametrize("dsn", ["penstock:hush@127.0.0.1/db", "postgresql://penstock:hush@127.0.0.1/db?colour=red"])
def test_what_is_no_dsn_is_refused_and_its_password_not_told(
    monkeypatch: pytest.MonkeyPatch, variable: str, dsn: str
) -> None:
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", "postgresql://127.0.0.1/db")
    monkeypatch.setenv(variable, dsn)
    with pytest.raises(ValidationError, match="postgresql://user:password@host") as refused:
        PostgresSettings()  # type: ignore[call-arg] # the environment gives what is required
    assert "hush" not in str(refused.value)


def test_settings_come_from_the_environment_and_hide_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", "postgresql://penstock:secret@127.0.0.1:1/postgres")
    monkeypatch.setenv("PENSTOCK_DATABASE_PREPARE_THRESHOLD", "0")
    settings = PostgresSettings()  # type: ignore[call-arg] # the environment gives what is required
    assert "secret" not in repr(settings)
    assert settings.database_prepare_threshold == 0
    Database.from_settings(settings, name="registry")  # constructing does no I/O: nothing listens there


class DeafenableProxy:
    """A TCP proxy that, while `deaf`, takes every byte and passes nothing on, not even that a side has hung up."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.port: int = self._server.getsockname()[1]
        self.deaf = False

    def __enter__(self) -> DeafenableProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for open_socket in [self._server, *self._sockets]:
            open_socket.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            upstream = socket.create_connection(("127.0.0.1", self._target_port))
            self._sockets += [client, upstream]
            for source, sink in ((client, upstream), (upstream, client)):
                threading.Thread(target=self._pump, args=[source, sink], daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                if not self.deaf:
                    sink.sendall(data)
            if not self.deaf:
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            return
