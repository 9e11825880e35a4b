from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg
import pytest

from penstock.cli.embedded.detached import start_detached, stop_running
from penstock.cli.embedded.errors import AlreadyRunningError, EmbeddedError
from penstock.cli.embedded.folder import DataFolder, State
from penstock.cli.embedded.health import is_serving
from penstock.cli.embedded.ports import Ports
from penstock.cli.embedded.postgres import PostgresCluster
from penstock.cli.embedded.suite import SERVICES, Suite
from tests.embedded import DEADLINE_S, TESTDATA, UP, RunningUp, all_gone, eventually, running_up

pytestmark = pytest.mark.slow
__all__ = ["running_up"]
COMMANDS = {name: (sys.executable, str(TESTDATA / "embedded_service.py"), name) for name in SERVICES}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may pass through to; pytest's own is closed."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-embedded-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


def test_up_serves_and_at_sigterm_drains_in_reverse_and_leaves_nothing(
    tmp_path: Path, running_up: Callable[..., RunningUp]
) -> None:
    up = running_up(tmp_path / "data")
    state = up.ready()
    assert set(state.children) == {"postgres", *SERVICES}
    assert all(is_serving(address) for address in state.addresses.values())
    below = up.descendants()
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(DEADLINE_S) == 0
    assert all_gone(below)
    assert (up.folder.spool / "stopped").read_text().split() == [
        "trainer",
        "fetcher",
        "jobs",
        "inference",
        "monitoring",
        "registry",
    ]
    assert "database system is shut down" in (up.folder.logs / "postgres.log").read_text()
    assert up.folder.find_running() is None


def test_a_second_start_on_the_folder_is_refused_and_names_the_first(
    tmp_path: Path, running_up: Callable[..., RunningUp]
) -> None:
    up = running_up(tmp_path / "data")
    up.ready()
    second = Suite(tmp_path / "data", ports=Ports.auto())
    with pytest.raises(AlreadyRunningError, match=str(up.process.pid)) as refused:
        second.start()
    second.stop()
    assert refused.value.pid == up.process.pid
    assert up.ready().ready


def test_what_was_written_is_there_after_the_next_start(tmp_path: Path) -> None:
    def run(statement: str) -> list[tuple[object, ...]]:
        suite = Suite(tmp_path / "data", ports=Ports.auto(), commands=COMMANDS)
        try:
            suite.start()
            port = suite.ports.postgres
            with psycopg.connect(PostgresCluster(suite.folder.postgres).url(port)) as connection:
                cursor = connection.execute(statement.encode())
                return cursor.fetchall() if cursor.description else []
        finally:
            suite.stop()

    run("CREATE TABLE kept AS SELECT 42 AS answer")
    assert run("SELECT answer FROM kept") == [(42,)]


def test_detached_it_goes_on_and_down_stops_it(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    state = start_detached(folder, (*UP, str(folder.path)), deadline_s=DEADLINE_S)
    try:
        below = psutil.Process(state.supervisor.pid).children(recursive=True)
        assert (folder.path.stat().st_mode & 0o066) == 0
        assert all(is_serving(address) for address in state.addresses.values())
        with pytest.raises(EmbeddedError, match="already runs"):
            start_detached(folder, (*UP, str(folder.path)), deadline_s=DEADLINE_S)
    finally:
        assert stop_running(folder) == state.supervisor.pid
    assert all_gone(below)
    assert stop_running(folder) is None


def test_a_detached_start_that_fails_says_why(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    command = (sys.executable, "-c", "raise SystemExit('the turbine is stuck')")
    with pytest.raises(EmbeddedError, match="the turbine is stuck"):
        start_detached(folder, command, deadline_s=DEADLINE_S)


def test_a_detached_start_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    begun: list[psutil.Process] = []
    before = set(psutil.Process().children())

    class Interrupted(DataFolder):
        def find_running(self) -> State | None:
            if not self.path.exists():
                return None
            begun.extend(set(psutil.Process().children()) - before)
            raise KeyboardInterrupt

    sleeping = (sys.executable, "-S", "-c", "import time; time.sleep(1000)")
    with pytest.raises(KeyboardInterrupt):
        start_detached(Interrupted(tmp_path / "data"), sleeping, deadline_s=DEADLINE_S)
    assert len(begun) == 1
    eventually(lambda: all_gone(begun))


def test_a_port_that_is_taken_is_named_with_its_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        suite = Suite(tmp_path / "data", ports=replace(Ports.auto(), inference=port))
        with pytest.raises(EmbeddedError, match=f"Port {port} .*PENSTOCK_INFERENCE_PORT"):
            suite.start()
        suite.stop()


def test_ports_come_from_the_environment_and_nonsense_is_refused() -> None:
    assert Ports.from_environment({"PENSTOCK_REGISTRY_PORT": "7"}).registry == 7
    with pytest.raises(EmbeddedError, match="PENSTOCK_REGISTRY_PORT"):
        Ports.from_environment({"PENSTOCK_REGISTRY_PORT": "70000"})


def test_postgres_keeps_its_data_to_itself_and_no_parent_folder_is_opened(open_folder: Path) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    suite = Suite(closed / "data", ports=Ports.auto(), commands=COMMANDS)
    try:
        suite.start()
        postgres = psutil.Process(suite.state.children["postgres"].pid)
        assert postgres.uids().effective != 0
        assert (suite.folder.postgres.stat().st_mode & 0o077) == 0
        assert (closed.stat().st_mode & 0o777, closed.stat().st_uid) == (0o700, os.geteuid())
        assert (suite.folder.postgres.with_name("postgres.password").stat().st_mode & 0o777) == 0o600
    finally:
        suite.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
def test_root_may_keep_everything_where_any_user_passes_and_postgres_then_gets_no_capability(open_folder: Path) -> None:
    suite = Suite(open_folder / "data", ports=Ports.auto(), commands=COMMANDS)
    try:
        suite.start()
        status = Path(f"/proc/{suite.state.children['postgres'].pid}/status").read_text()
    finally:
        suite.stop()
    assert int(status.split("CapEff:")[1].split()[0], 16) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
def test_an_ordinary_user_starts_and_stops_it(open_folder: Path, running_up: Callable[..., RunningUp]) -> None:
    user = pwd.getpwnam("nobody")
    home = open_folder / "home"
    home.mkdir(mode=0o700)
    os.chown(home, user.pw_uid, user.pw_gid)
    up = running_up(home / "data", command_as(user))
    up.ready()
    below = up.descendants()
    assert {uid for process in below for uid in effective_user(process)} == {user.pw_uid}
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(DEADLINE_S) == 0
    assert all_gone(below)


def effective_user(process: psutil.Process) -> list[int]:
    """Say who a process runs as: nobody, where it has ended since."""
    try:
        return [process.uids().effective]
    except psutil.NoSuchProcess:
        return []


def command_as(user: pwd.struct_passwd) -> tuple[str, ...]:
    """Say how that user runs the suite: with this Python or, where that lies in a closed home, the system's."""
    drop = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--inh-caps=-all", "--")
    system_python = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, system_python):
        command = (
            *drop,
            "env",
            "-u",
            "COVERAGE_PROCESS_CONFIG",
            f"PYTHONPATH={':'.join(filter(None, sys.path))}",
            python,
            *UP[1:],
        )
        if subprocess.run([*command[:-1], "-c", "import penstock, grpc"], check=False).returncode == 0:
            return command
    pytest.skip("the user 'nobody' can read neither this checkout's Python nor the system's")
