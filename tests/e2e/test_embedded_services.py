from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from penstock.cli.embedded.detached import start_detached
from penstock.cli.embedded.folder import DataFolder, State
from penstock.cli.embedded.health import is_serving
from tests.commands import PENSTOCK
from tests.embedded import DEADLINE_S, all_gone, eventually
from tests.suite import FREE_PORTS

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataFolder]:
    for name, port in FREE_PORTS.items():
        monkeypatch.setenv(name, port)
    monkeypatch.setenv("PENSTOCK_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    yield DataFolder(tmp_path / "data")
    subprocess.run([*PENSTOCK, "down", "--data-dir", tmp_path / "data"], check=True, timeout=DEADLINE_S)


def up(folder: DataFolder) -> State:
    return start_detached(folder, (*PENSTOCK, "up", "--data-dir", str(folder.path)), deadline_s=DEADLINE_S)


def all_serve(state: State) -> bool:
    return all(is_serving(address) for address in state.addresses.values())


def test_the_real_services_serve_again_after_postgres_is_killed(folder: DataFolder) -> None:
    state = up(folder)
    assert all_serve(state)
    psutil.Process(state.children["postgres"].pid).kill()
    eventually(lambda: (now := folder.find_running()) is not None and now.restarts == {"postgres": 1})
    eventually(lambda: subprocess.run([*PENSTOCK, "model", "list"], check=False, timeout=DEADLINE_S).returncode == 0)
    eventually(lambda: all_serve(state))


def test_after_a_kill_of_up_no_service_is_left_and_up_works_again(folder: DataFolder) -> None:
    supervisor = psutil.Process(up(folder).supervisor.pid)
    below = supervisor.children(recursive=True)
    supervisor.kill()
    eventually(lambda: all_gone(below))
    assert all_serve(up(folder))
