"""A real PostgreSQL for the tests: one server a session, a migrated template a service, a clone a test.

`PENSTOCK_TEST_POSTGRES=debian` takes the newest server under /usr/lib/postgresql instead of the wheel's.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from penstock.cli.embedded.errors import EmbeddedError
from penstock.cli.embedded.ports import free_port
from penstock.cli.embedded.postgres import PostgresCluster, find_binaries
from services.common.migrate import migrate

ROOT = Path(__file__).resolve().parents[1]
DEBIAN = Path("/usr/lib/postgresql")
READY_DEADLINE_S = 60.0
LOCK_TIMEOUT_MS = 60_000
"""For services under test: who holds a lock while something else is tried takes as long as it takes."""
FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
}
MEMORY = Path("/dev/shm")
ENOUGH_MEMORY_BYTES = 4 << 30


class PostgresServer:
    """A server in a folder of its own, that tests can stop and start again."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self._cluster = PostgresCluster(folder / "cluster", binaries=binaries, settings=FAST)
        self._log = folder / "postgres.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._templates: set[str] = set()
        self.port = free_port()

    def start(self) -> None:
        """Make the cluster where it is missing, and run the server until it answers."""
        self._cluster.create()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._cluster.command(self.port), env=dict(self._cluster.environment), stderr=log, stdout=log
            )
        deadline = time.monotonic() + READY_DEADLINE_S
        while not self._cluster.is_ready(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{self._log.read_text()[-4000:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop at once, as a crash would: what the clients hold is cut."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(60)
            self._process = None

    def url(self, database: str = "postgres") -> str:
        """Give the DSN of one of its databases."""
        return self._cluster.url(self.port, database)

    def clone(self, service: str) -> str:
        """Give the DSN of a fresh database with the migrations of `service` applied."""
        name = f"test_{service}_{secrets.token_hex(4)}"
        self._create(name, template=self._template(service))
        return self.url(name)

    def empty(self) -> str:
        """Give the DSN of a fresh database without anything in it."""
        name = f"test_empty_{secrets.token_hex(4)}"
        self._create(name, template="template0")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Drop a database, whoever is still connected to it."""
        name = url.rpartition("/")[2]
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _template(self, service: str) -> str:
        name = f"template_{service}"
        if name not in self._templates:
            self._create(name, template="template0")
            for folder in sorted((ROOT / "services" / service).rglob("migrations")):
                migrate(self.url(name), folder.parent.name, folder)
            self._templates.add(name)
        return name

    def _create(self, name: str, *, template: str) -> None:
        # A copy of the template's files: the other strategy writes each of their pages to the log as well.
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
        self._execute(statement.format(sql.Identifier(name), sql.Identifier(template)))

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)


def binaries_under_test() -> Path:
    """Find the binaries that the tests run; raises EmbeddedError when there are none."""
    if os.environ.get("PENSTOCK_TEST_POSTGRES") != "debian":
        return find_binaries()
    versions = sorted(DEBIAN.glob("*/bin"), key=lambda folder: int(folder.parent.name))
    if not versions:
        raise EmbeddedError(f"there is no PostgreSQL under {DEBIAN}; apt-get install postgresql")
    return versions[-1]


def pytest_report_header() -> str:
    """Name the PostgreSQL under test."""
    try:
        postgres = binaries_under_test() / "postgres"
    except EmbeddedError as error:
        return f"postgres: none ({error})"
    version = subprocess.run([postgres, "--version"], capture_output=True, text=True, check=False)
    return f"postgres: {version.stdout.strip()}"


def _home() -> Path | None:
    """Choose memory where there is plenty of it: a clone takes 15 ms there, and up to half a second on a disk."""
    plenty = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ENOUGH_MEMORY_BYTES
    return MEMORY if plenty else None


def start_server() -> tuple[PostgresServer, Path]:
    """Start a server of its own; the caller stops it and removes the folder."""
    try:
        binaries = binaries_under_test()
    except EmbeddedError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
    folder = Path(tempfile.mkdtemp(prefix="penstock-postgres-", dir=_home()))
    folder.chmod(0o711)
    server = PostgresServer(folder, binaries)
    try:
        server.start()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return server, folder


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The session's server. Do not stop it; `own_postgres_server` is there for that."""
    server, folder = start_server()
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def own_postgres_server() -> Iterator[PostgresServer]:
    """A server for this test alone, which it may stop and start again."""
    server, folder = start_server()
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def clone_database(postgres_server: PostgresServer) -> Iterator[Callable[[str], str]]:
    """`clone_database("registry")` gives the DSN of a database of this test's own, migrated."""
    urls: list[str] = []

    def clone(service: str) -> str:
        urls.append(postgres_server.clone(service))
        return urls[-1]

    yield clone
    for url in urls:
        postgres_server.drop(url)


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The DSN of a database of this test's own, with nothing in it."""
    url = postgres_server.empty()
    yield url
    postgres_server.drop(url)
