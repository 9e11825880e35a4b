from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from penstock.cli.embedded.child import Child, ChildSpec, RestartPolicy
from penstock.cli.embedded.errors import EmbeddedError, StopRequestedError
from penstock.cli.embedded.folder import DataFolder, ProcessMark, State
from penstock.cli.embedded.health import is_serving
from penstock.cli.embedded.ports import Ports, free_port
from penstock.cli.embedded.postgres import PostgresCluster
from penstock.cli.embedded.suite import OF_SOURCES, SERVICES, Suite
from penstock.cli.embedded.supervisor import Event, EventKind, Supervisor
from penstock.cli.keys_file import KeysFile
from tests.embedded import DEADLINE_S, TESTDATA, RunningUp, all_gone, eventually, running_up

__all__ = ["running_up"]
SERVICE = str(TESTDATA / "embedded_service.py")
QUICK = RestartPolicy(first_delay_s=0.01, max_deaths=3)


def spec(folder: Path, name: str, *arguments: str, grace_s: float = 10.0) -> ChildSpec:
    port = free_port()
    return ChildSpec(
        name=name,
        command=(sys.executable, SERVICE, name, *arguments),
        environment={**os.environ, "PENSTOCK_PORT": str(port), "PENSTOCK_SPOOL_DIR": str(folder)},
        is_healthy=lambda: is_serving(f"127.0.0.1:{port}"),
        grace_s=grace_s,
    )


def dying(words: str) -> ChildSpec:
    command = (sys.executable, "-S", "-c", f"print({words!r}); raise SystemExit(3)")
    return ChildSpec(name="dying", command=command, environment=dict(os.environ), is_healthy=lambda: False)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["closed", "open"])
def test_a_kill_of_the_supervisor_leaves_no_process_and_the_next_start_works(
    tmp_path: Path, place: str, running_up: Callable[..., RunningUp]
) -> None:
    if place == "open":
        for folder in (tmp_path, *tmp_path.parents[:2]):
            if folder.stat().st_uid == os.geteuid():
                folder.chmod(0o711)
    first = running_up(tmp_path / "data")
    first.ready()
    below = first.descendants()
    assert len(below) > len(SERVICES) + 1
    first.process.kill()
    eventually(lambda: all_gone(below))
    second = running_up(tmp_path / "data")
    second.ready()
    below = second.descendants()
    second.process.kill()
    running_up(tmp_path / "data").ready()  # at once, while the kernel may still be clearing up
    assert all_gone(below)


def test_a_service_left_behind_is_ended_by_the_next_start(tmp_path: Path) -> None:
    orphan = subprocess.Popen(["sleep", "1000"])
    mark, ourselves = ProcessMark.of(orphan.pid), ProcessMark.of(os.getpid())
    assert mark is not None
    assert ourselves is not None
    with DataFolder(tmp_path / "data") as folder:
        folder.write_state(State(supervisor=ourselves, started_time="", children={"registry": mark}))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        suite = Suite(tmp_path / "data", ports=replace(Ports.auto(), registry=taken.getsockname()[1]))
        with pytest.raises(EmbeddedError, match="PENSTOCK_REGISTRY_PORT"):
            suite.start()  # it gets as far as the ports
        suite.stop()
    assert orphan.wait(DEADLINE_S) == -signal.SIGKILL


@pytest.mark.slow
def test_a_postgres_left_behind_is_stopped_by_the_next_start(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    with folder:
        cluster = PostgresCluster(folder.postgres)
        cluster.create()
        port = free_port()
        orphan = subprocess.Popen(cluster.command(port), env=dict(cluster.environment), stderr=subprocess.DEVNULL)
        eventually(lambda: cluster.is_ready(port))
    assert cluster.stop_orphan() == orphan.pid
    assert orphan.wait(DEADLINE_S) == 0
    assert cluster.stop_orphan() is None


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["postgres", "monitoring"])
def test_a_child_that_dies_is_started_again(tmp_path: Path, victim: str, running_up: Callable[..., RunningUp]) -> None:
    up = running_up(tmp_path / "data")
    before = up.ready()
    psutil.Process(before.children[victim].pid).kill()

    def is_back() -> bool:
        state = up.ready()
        return state.children[victim] != before.children[victim] and state.children[victim].find() is not None

    eventually(is_back)
    after = up.ready()
    if victim != "postgres":
        eventually(lambda: is_serving(after.addresses[victim]))
    assert after.restarts == {victim: 1}
    others = set(before.children) - {victim}
    assert {name: after.children[name] for name in others} == {name: before.children[name] for name in others}


def test_a_child_that_keeps_dying_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    events: list[Event] = []
    supervisor = Supervisor(
        [[dying("the turbine is stuck")]], log_folder=tmp_path, on_event=events.append, policy=QUICK
    )
    with pytest.raises(EmbeddedError, match=r"(?s)dying keeps dying .*status 3.*the turbine is stuck"):
        supervisor.start(deadline_s=DEADLINE_S)
    supervisor.stop()
    deaths = [event for event in events if event.kind is EventKind.DIED]
    assert [death.exit_status for death in deaths] == [3] * QUICK.max_deaths


def test_a_child_that_is_never_healthy_fails_the_start_by_name(tmp_path: Path) -> None:
    sleeper = ChildSpec("sleeper", ("sleep", "1000"), dict(os.environ), lambda: False, grace_s=5)
    supervisor = Supervisor([[sleeper]], log_folder=tmp_path)
    with pytest.raises(EmbeddedError, match=r"Not healthy after 0\.2 s: sleeper"):
        supervisor.start(deadline_s=0.2)
    supervisor.stop()


def test_a_stop_asked_for_while_starting_is_heeded(tmp_path: Path) -> None:
    supervisor = Supervisor(
        [[ChildSpec("sleeper", ("sleep", "1000"), dict(os.environ), lambda: False)]],
        log_folder=tmp_path,
        on_event=lambda _: supervisor.request_stop(),
    )
    with pytest.raises(StopRequestedError):
        supervisor.start(deadline_s=DEADLINE_S)
    supervisor.stop()


@pytest.mark.slow
def test_a_child_that_outstays_its_grace_is_killed_with_what_it_started(tmp_path: Path) -> None:
    events: list[Event] = []
    stubborn = spec(tmp_path, "stubborn", "--stubborn", "--with-child", grace_s=0.1)
    supervisor = Supervisor([[stubborn]], log_folder=tmp_path, on_event=events.append)
    supervisor.start(deadline_s=DEADLINE_S)
    pid = events[0].pid
    assert pid is not None
    family = [psutil.Process(pid), *psutil.Process(pid).children()]
    assert len(family) == 2
    supervisor.stop()
    assert events[-1].kind is EventKind.KILLED
    eventually(lambda: all_gone(family))


@pytest.mark.slow
def test_asked_twice_it_does_not_wait_for_the_grace(tmp_path: Path) -> None:
    events: list[Event] = []
    supervisor = Supervisor(
        [[spec(tmp_path, "stubborn", "--stubborn", grace_s=DEADLINE_S * 10)]],
        log_folder=tmp_path,
        on_event=events.append,
    )
    supervisor.start(deadline_s=DEADLINE_S)
    supervisor.request_stop()
    supervisor.wait()
    second = threading.Timer(0.1, supervisor.request_stop)
    second.start()
    supervisor.stop()
    second.join()
    assert events[-1].kind is EventKind.KILLED


@pytest.mark.slow
def test_a_child_killed_while_we_wait_is_restarted_and_healthy_again(tmp_path: Path) -> None:
    events: list[Event] = []
    supervisor: Supervisor

    def on_event(event: Event) -> None:
        events.append(event)
        if event.kind is EventKind.HEALTHY and event.pid is not None:
            if EventKind.DIED in [each.kind for each in events]:
                supervisor.request_stop()
            else:
                os.kill(event.pid, signal.SIGKILL)

    supervisor = Supervisor([[spec(tmp_path, "one")]], log_folder=tmp_path, on_event=on_event, policy=QUICK)
    supervisor.start(deadline_s=DEADLINE_S)
    supervisor.wait()
    supervisor.stop()
    kinds = [event.kind for event in events]
    assert kinds == [
        *[EventKind.STARTED, EventKind.HEALTHY, EventKind.DIED],
        *[EventKind.STARTED, EventKind.HEALTHY, EventKind.STOPPING, EventKind.STOPPED],
    ]
    assert (tmp_path / "one.log").read_text().splitlines() == ["one serves"] * 2


def test_a_log_is_bounded_and_the_child_writes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.cli.embedded.child.LOG_LIMIT_BYTES", 1000)
    program = "import sys\nfor line in sys.stdin.buffer: sys.stdout.buffer.write(line); sys.stdout.flush()"
    log = tmp_path / "child.log"
    child = Child(ChildSpec("child", ("true",), dict(os.environ), lambda: True), log, QUICK)
    with log.open("ab") as output:
        writer = subprocess.Popen([sys.executable, "-S", "-c", program], stdin=subprocess.PIPE, stdout=output)
    assert writer.stdin is not None
    with writer.stdin:
        writer.stdin.write(b"x" * 2000 + b"\n")
        writer.stdin.flush()
        eventually(lambda: log.stat().st_size == 2001)
        child.bound_log()
        writer.stdin.write(b"after\n")
    writer.wait(DEADLINE_S)
    assert log.read_text() == "after\n"
    assert (tmp_path / "child.log.1").stat().st_size == 2001


def test_a_log_stays_bounded_where_the_disk_has_no_room_for_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.cli.embedded.child.LOG_LIMIT_BYTES", 1000)
    log = tmp_path / "child.log"
    log.write_bytes(b"x" * 2000)
    (tmp_path / "child.log.1").symlink_to("/dev/full")
    Child(ChildSpec("child", ("true",), dict(os.environ), lambda: True), log, QUICK).bound_log()
    assert log.stat().st_size == 0
    assert not (tmp_path / "child.log.1").is_symlink()


@pytest.mark.slow
def test_a_full_disk_and_a_terminal_that_is_gone_end_nothing_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = {name: (sys.executable, SERVICE, name) for name in SERVICES}
    suite = Suite(tmp_path / "data", ports=Ports.auto(), commands=commands)
    healthy: list[str] = []

    def on_event(event: Event) -> None:
        if not suite.state.ready:
            return
        if event.kind is EventKind.HEALTHY:
            healthy.append(event.name)
            suite.request_stop()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def full(_state: State) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    try:
        suite.start(on_event)
        monkeypatch.setattr(suite.folder, "write_state", full)
        os.kill(suite.state.children["registry"].pid, signal.SIGKILL)
        suite.wait()
    finally:
        suite.stop()
    assert healthy == ["registry"]
    stopped = (tmp_path / "data" / "spool" / "stopped").read_text().split()
    assert stopped == list(reversed(SERVICES))


@pytest.mark.slow
def test_only_those_who_work_on_the_database_are_told_its_password_and_nobody_our_own_key(tmp_path: Path) -> None:
    environment = {**os.environ, "PENSTOCK_TOKEN": "ours", "PENSTOCK_DATABASE_URL": "theirs"}
    commands = {name: (sys.executable, SERVICE, name) for name in SERVICES}
    suite = Suite(tmp_path / "data", ports=Ports.auto(), commands=commands, environment=environment)
    try:
        suite.start()
        told = {name: psutil.Process(mark.pid).environ() for name, mark in suite.state.children.items()}
    finally:
        suite.stop()
    password = (tmp_path / "data" / "postgres.password").read_text()
    knowing = {name for name, seen in told.items() if any(password in value for value in seen.values())}
    assert knowing == {"registry", "monitoring", "jobs", "fetcher", "trainer"}
    assert not any({"ours", "theirs"} & set(seen.values()) for seen in told.values())


@pytest.mark.slow
def test_what_sources_are_told_reaches_the_fetcher_alone_and_what_it_may_do_is_no_secret(tmp_path: Path) -> None:
    credentials = {name: f"our {name}" for name in OF_SOURCES}
    environment = {**os.environ, **credentials, "PENSTOCK_FETCHER_ROOTS": "file:///srv/models"}
    commands = {name: (sys.executable, SERVICE, name) for name in SERVICES}
    suite = Suite(tmp_path / "data", ports=Ports.auto(), commands=commands, environment=environment)
    try:
        suite.start()
        told = {name: psutil.Process(mark.pid).environ() for name, mark in suite.state.children.items()}
    finally:
        suite.stop()
    assert credentials.items() <= told["fetcher"].items()
    assert told["fetcher"]["PENSTOCK_FETCHER_ROOTS"] == "file:///srv/models"
    knowing = {name for name, seen in told.items() if set(credentials.values()) & set(seen.values())}
    assert knowing == {"fetcher"}


@pytest.mark.slow
def test_the_keys_file_that_the_environment_names_is_the_one_that_services_read(tmp_path: Path) -> None:
    environment = {**os.environ, "PENSTOCK_KEYS_FILE": str(tmp_path / "ours.json")}
    commands = {name: (sys.executable, SERVICE, name) for name in SERVICES}
    suite = Suite(tmp_path / "data", ports=Ports.auto(), commands=commands, environment=environment)
    try:
        suite.start()
        seen = psutil.Process(suite.state.children["registry"].pid).environ()
    finally:
        suite.stop()
    assert seen["PENSTOCK_KEYS_FILE"] == str(tmp_path / "ours.json")
    assert {key.name for key in KeysFile(tmp_path / "ours.json").list()} == {f"service.{name}" for name in SERVICES}
    assert not suite.folder.keys_file.exists()


def test_initdb_killed_half_way_leaves_nothing_that_is_taken_for_a_cluster(tmp_path: Path) -> None:
    half = tmp_path / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18")
    broken = tmp_path / "no-binaries"
    broken.mkdir()
    for name in ("postgres", "initdb"):
        (broken / name).write_text("#!/bin/sh\n[ \"$1\" = --version ] || { echo 'no space' >&2; exit 1; }\n")
        (broken / name).chmod(0o755)
    cluster = PostgresCluster(tmp_path / "postgres", binaries=broken)
    with pytest.raises(EmbeddedError, match="no space"):
        cluster.create()
    assert not (tmp_path / "postgres").exists()


def test_a_state_of_a_process_that_is_gone_or_of_another_release_is_nobody_running(tmp_path: Path) -> None:
    with DataFolder(tmp_path) as folder:
        gone = subprocess.Popen(["true"])
        gone.wait()
        folder.state_file.write_text(
            json.dumps({"supervisor": {"pid": gone.pid, "create_time": 1.0}, "started_time": "", "children": {}})
        )
        assert folder.find_running() is None
        folder.state_file.write_text('{"another": "release"}')
        assert folder.find_running() is None
        folder.state_file.write_text("{")
        assert folder.find_running() is None


def test_a_pid_that_was_given_to_another_process_is_not_taken_for_the_old_one() -> None:
    mark = ProcessMark.of(os.getpid())
    assert mark is not None
    assert mark.find() is not None
    assert ProcessMark(mark.pid, mark.create_time - 100).find() is None


@pytest.mark.slow
def test_a_service_that_keeps_dying_fails_the_start_and_nothing_is_left(tmp_path: Path) -> None:
    commands = {name: (sys.executable, SERVICE, name) for name in SERVICES}
    commands["monitoring"] = (sys.executable, "-c", "raise SystemExit('monitoring: no spool')")
    suite = Suite(tmp_path / "data", ports=Ports.auto(), commands=commands, policy=QUICK)
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(EmbeddedError, match="monitoring: no spool"):
        suite.start()
    started = set(psutil.Process().children(recursive=True)) - before
    suite.stop()
    assert started
    assert all_gone(list(started))
    with DataFolder(tmp_path / "data"):
        pass  # the lock was given back
