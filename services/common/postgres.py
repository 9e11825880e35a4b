"""PostgreSQL: a bounded pool of connections, and the one place where its errors become ours.

A store writes `with self._db.transaction() as connection: connection.execute(SQL, {...})` and reads rows as
dictionaries. Whatever PostgreSQL or the network does wrong leaves here as a `DomainError`; only a mistake of
our own (a wrong query, a constraint that nobody named) passes as it is, and becomes an internal error.
"""

from __future__ import annotations

import os
import selectors
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any, Self, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool, PoolTimeout, TooManyRequests
from pydantic import AfterValidator, Field, SecretStr

from services.common.errors import Aborted, DeadlineExceeded, DomainError, Unavailable
from services.common.settings import Settings

Constraints = Mapping[str, Callable[[], DomainError]]
"""Constraint name → the error that its violation means."""

CONNECT_TIMEOUT_S = 5
CHECK_TIMEOUT_S = 1.0
SERVER_GRACE_S = 2.0
"""How much longer than the server's own statement timeout we wait before we take the network for dead."""

_T = TypeVar("_T")


def _checked_dsn(url: SecretStr) -> SecretStr:
    # libpq's own word quotes what came, password and all.
    try:
        conninfo_to_dict(url.get_secret_value())
    except psycopg.ProgrammingError:
        raise ValueError("this is no DSN; write postgresql://user:password@host:port/database") from None
    return url


Dsn = Annotated[SecretStr, AfterValidator(_checked_dsn)]


class PostgresSettings(Settings):
    """Where the database is, and what one process may take of it."""

    database_url: Dsn
    """The DSN: postgresql://user:password@host:port/database. A pooler may stand between."""
    listen_url: Dsn | None = None
    """Another DSN for LISTEN, straight to the server, where a transaction pooler stands in `database_url`."""
    database_pool_size: Annotated[int, Field(ge=1, le=200)] = 8
    """Connections that this process may hold; all services together must stay under max_connections."""
    database_pool_wait_ms: Annotated[int, Field(ge=1, le=60_000)] = 2_000
    """How long a call may wait for a connection before it answers UNAVAILABLE."""
    database_pool_backlog: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Calls that may wait for a connection at once; more are refused with UNAVAILABLE."""
    database_statement_timeout_ms: Annotated[int, Field(ge=1, le=3_600_000)] = 15_000
    """The server ends a statement that takes longer; a server that answers nothing is given up soon after."""
    database_lock_timeout_ms: Annotated[int, Field(ge=1, le=3_600_000)] = 5_000
    """How long a statement waits for another's lock before it is ABORTED."""
    database_prepare_threshold: Annotated[int, Field(ge=0, le=1000)] = 5
    """Statements seen this often are prepared; 0 never prepares, as some transaction poolers need."""


class BoundedConnection(psycopg.Connection[DictRow]):
    """A connection whose every wait has an end.

    The server's statement timeout can't help where the network swallows the answer, so we stop waiting here
    too, and close the connection, whose state nobody knows then.
    """

    patience_s: float = 60.0

    def wait(self, gen: Generator[Any, Any, _T], interval: float = 0.1, timeout: float | None = None) -> _T:
        """Run `gen` to its end, for at most `timeout` or else `patience_s` seconds."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.patience_s)
        except pg._WaitTimeout:  # psycopg has no public name for it
            self.pgconn.finish()
            raise pg.ConnectionTimeout(f"the database answered nothing for {self.patience_s:g} s") from None

    @contextmanager
    def hurried(self, patience_s: float) -> Iterator[None]:
        """Wait less long inside the block."""
        usual, self.patience_s = self.patience_s, patience_s
        try:
            yield
        finally:
            self.patience_s = usual


class Database:
    """A pool of connections to one database. `open` before use, `close` after."""

    def __init__(
        self,
        url: str,
        *,
        name: str = "penstock",
        pool_size: int = 8,
        pool_wait_s: float = 2.0,
        pool_backlog: int = 256,
        statement_timeout_s: float = 15.0,
        lock_timeout_s: float = 5.0,
        prepare_threshold: int | None = 5,
        listen_url: str | None = None,
        constraints: Constraints | None = None,
    ) -> None:
        """Set limits only; nothing is opened. `name` is what pg_stat_activity shows.

        `constraints` holds for every transaction; what a transaction brings itself goes before it.
        """
        self._name = name
        self._constraints = dict(constraints or {})
        self._listen_conninfo = _conninfo(listen_url or url, f"{name}-listen")
        self._patience_s = statement_timeout_s + SERVER_GRACE_S
        self._pool: ConnectionPool[BoundedConnection] = ConnectionPool(
            _conninfo(
                url,
                name,
                jit="off",  # compiling takes longer than any statement of ours runs
                statement_timeout=round(statement_timeout_s * 1000),
                lock_timeout=round(lock_timeout_s * 1000),
                idle_in_transaction_session_timeout=round((statement_timeout_s + SERVER_GRACE_S) * 1000),
            ),
            connection_class=BoundedConnection,
            kwargs={
                "autocommit": True,  # `transaction` says BEGIN and COMMIT; a check then costs one round trip
                "row_factory": dict_row,
                "prepare_threshold": prepare_threshold,
            },
            configure=self._configure,
            check=_check_alive,
            min_size=min(1, pool_size),
            max_size=pool_size,
            timeout=pool_wait_s,
            max_waiting=pool_backlog,
            reconnect_timeout=30.0,
            name=name,
            open=False,
        )

    @classmethod
    def from_settings(cls, settings: PostgresSettings, *, name: str, constraints: Constraints | None = None) -> Self:
        """Build from a service's settings."""
        return cls(
            settings.database_url.get_secret_value(),
            name=name,
            pool_size=settings.database_pool_size,
            pool_wait_s=settings.database_pool_wait_ms / 1000,
            pool_backlog=settings.database_pool_backlog,
            statement_timeout_s=settings.database_statement_timeout_ms / 1000,
            lock_timeout_s=settings.database_lock_timeout_ms / 1000,
            prepare_threshold=settings.database_prepare_threshold or None,
            listen_url=settings.listen_url.get_secret_value() if settings.listen_url else None,
            constraints=constraints,
        )

    def open(self) -> None:
        """Start filling the pool. Returns at once: a database that is away shows in `check`, not here."""
        self._pool.open()

    def close(self) -> None:
        """Close every connection; whoever waits for one gets Unavailable."""
        self._pool.close(timeout=5.0)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self) -> None:
        """Ask the database for a sign of life, for a second or two; raises Unavailable without one."""
        with (
            translated({}),
            self._pool.connection(timeout=CHECK_TIMEOUT_S) as connection,
            connection.hurried(CHECK_TIMEOUT_S),
        ):
            connection.execute("SELECT 1")

    @contextmanager
    def transaction(self, constraints: Constraints | None = None) -> Iterator[psycopg.Connection[DictRow]]:
        """Lend a connection inside a transaction: committed at the end, rolled back on any error.

        `constraints` says what a violated constraint means here: its name → the error to raise. Raises
        Unavailable (no connection, or lost), Aborted (serialisation, deadlock, lock timeout) and
        DeadlineExceeded (statement timeout).
        """
        with (
            translated({**self._constraints, **(constraints or {})}),
            self._pool.connection() as connection,
            connection.transaction(),
        ):
            yield connection

    def listen(self, channels: Sequence[str], *, poll_interval_s: float = 5.0) -> Listener:
        """Make a listener on a connection of its own; see `Listener`."""
        return Listener(self._listen_conninfo, channels, poll_interval_s=poll_interval_s)

    def _configure(self, connection: BoundedConnection) -> None:
        connection.patience_s = self._patience_s


class Listener:
    """Wakes whoever iterates over it: a NOTIFY, the poll interval and a reconnect all wake.

    A notification is a hint and never the news itself: the one who wakes reads the tables. So nothing is lost
    when the connection is, and a poll makes sure. `close` ends the iteration, from any thread.

        with database.listen(["registry_changes"]) as wakes:
            for _ in wakes:
                read what is new
    """

    def __init__(self, conninfo: str, channels: Sequence[str], *, poll_interval_s: float) -> None:
        self._conninfo = conninfo
        self._channels = tuple(channels)
        self._poll_interval_s = poll_interval_s
        self._closed = threading.Event()
        self._connection: BoundedConnection | None = None
        self._bell_in, self._bell_out = -1, -1

    def __enter__(self) -> Self:
        self._bell_out, self._bell_in = os.pipe()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._disconnect()
        os.close(self._bell_in)
        os.close(self._bell_out)
        self._bell_in = -1

    def close(self) -> None:
        """End the iteration, wherever it stands. Closing twice is fine."""
        if not self._closed.is_set():
            self._closed.set()
            if self._bell_in >= 0:  # else nobody iterates yet, and nobody will
                os.write(self._bell_in, b"\0")

    def __iter__(self) -> Iterator[frozenset[str]]:
        """Yield the channels that rang; none of them when a poll or a (re)connect woke us. First, at once."""
        while not self._closed.is_set():
            fresh = self._connection is None and self._connect()
            yield frozenset() if fresh else self._wait()

    def _connect(self) -> bool:
        """Connect and LISTEN; where that fails, the poll interval is the pause before the next try."""
        try:
            connection = BoundedConnection.connect(self._conninfo, autocommit=True)
        except psycopg.OperationalError:
            return False
        connection.patience_s = CONNECT_TIMEOUT_S
        self._connection = connection
        try:
            for channel in self._channels:
                connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        except psycopg.OperationalError:
            self._disconnect()
            return False
        return True

    def _wait(self) -> frozenset[str]:
        with selectors.DefaultSelector() as selector:  # select() itself knows no file above 1,023
            selector.register(self._bell_out, selectors.EVENT_READ)
            if self._connection is not None:
                selector.register(self._connection.fileno(), selectors.EVENT_READ)
            ready = {key.fd for key, _ in selector.select(self._poll_interval_s)}
        if self._connection is None or self._connection.fileno() not in ready:
            return frozenset()
        try:
            return frozenset(notify.channel for notify in self._connection.notifies(timeout=0))
        except psycopg.OperationalError:
            self._disconnect()
            return frozenset()

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


def _check_alive(connection: BoundedConnection) -> None:
    """See that a connection from the pool still answers, before a caller gets it."""
    with connection.hurried(CHECK_TIMEOUT_S):
        connection.execute("")


def _conninfo(url: str, name: str, **server_settings: int | str) -> str:
    """Add our limits to the DSN. What its author set in `options` stays, and goes last, so it wins."""
    given = conninfo_to_dict(url)
    options = " ".join(f"-c {key}={value}" for key, value in server_settings.items())
    merged = {
        "application_name": name,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        **given,
        "options": f"{options} {given.get('options') or ''}".strip(),
    }
    return make_conninfo("", **merged)


@contextmanager
def translated(constraints: Constraints) -> Iterator[None]:
    """Turn psycopg's errors into ours. The most specific class stands first: most are OperationalErrors."""
    try:
        yield
    except pg.IntegrityError as error:
        meaning = constraints.get(error.diag.constraint_name or "")
        if meaning is None:
            raise
        raise meaning() from error
    except (pg.SerializationFailure, pg.DeadlockDetected) as error:
        raise Aborted("Another change came first; try again.", reason="TRANSACTION_CONFLICT") from error
    except pg.LockNotAvailable as error:
        message = "Another change holds this for too long; try again in a moment."
        raise Aborted(message, reason="LOCK_TIMEOUT", retry_after_s=1.0) from error
    except pg.QueryCanceled as error:
        message = "The database took too long; ask for less, or raise PENSTOCK_DATABASE_STATEMENT_TIMEOUT_MS."
        raise DeadlineExceeded(message, reason="DATABASE_TIMEOUT") from error
    except (PoolTimeout, TooManyRequests) as error:
        message = "No database connection came free in time; try again in a moment."
        raise Unavailable(message, reason="DATABASE_UNAVAILABLE", retry_after_s=1.0) from error
    except (psycopg.OperationalError, psycopg.InterfaceError, pg.ReadOnlySqlTransaction) as error:
        message = "The database is not reachable just now; try again in a moment."
        raise Unavailable(message, reason="DATABASE_UNAVAILABLE", retry_after_s=1.0) from error
