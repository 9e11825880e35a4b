"""The disk full while inference spools: predictions go on, what is lost is counted, and it mends itself."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest

from penstock import Client
from penstock.cli.embedded.health import is_serving
from penstock.cli.embedded.ports import free_port
from tests.embedded import DEADLINE_S, eventually
from tests.faults.proxy import Proxy
from tests.services import Running
from tests.suite import Callers, read_metrics, serve_tiny_model

pytestmark = pytest.mark.slow
QUEUE_EVENTS = 200


@dataclass(frozen=True)
class Room:
    """How to take the room for the spool away from a process, by its pid, and to give it back."""

    take: Callable[[int], None]
    give: Callable[[int], None]


class InferenceProcess:
    """The inference service in a process of its own."""

    def __init__(self, folder: Path, *, registry: str, monitoring: str) -> None:
        self.port, self.metrics_port = free_port(), free_port()
        environment = {
            **os.environ,
            "PENSTOCK_PORT": str(self.port),
            "PENSTOCK_METRICS_PORT": str(self.metrics_port),
            "PENSTOCK_REGISTRY_ADDRESS": registry,
            "PENSTOCK_MONITORING_ADDRESS": monitoring,
            "PENSTOCK_CACHE_DIR": str(folder / "cache"),
            "PENSTOCK_SPOOL_DIR": str(folder / "spool"),
            "PENSTOCK_SPOOL_QUEUE_EVENTS": str(QUEUE_EVENTS),
            "PENSTOCK_INFERENCE_WORKERS": "1",  # the room is taken away from this very process
        }
        self.process = subprocess.Popen([sys.executable, "-m", "services.inference"], env=environment, cwd=folder)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def metric(self, name: str) -> int:
        with urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=60) as page:
            return int(read_metrics(page.read().decode())[f"penstock_spool_{name}"])

    def close(self) -> int:
        """Stop it in order."""
        self.process.terminate()
        return self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        """End it whatever it does."""
        self.process.kill()
        self.process.wait(DEADLINE_S)


@contextmanager
def full_tmpfs(spool: Path) -> Iterator[Room]:
    """A disk of 1 MiB, filled by a file that is not ours."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs takes root; the other case does the same by a limit on the files' size")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(spool)]
    mounted = subprocess.run(mount, capture_output=True, check=False, text=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here ({mounted.stderr.strip()}); the other case stands in for it")
    ballast = spool / "ballast"

    def fill(_pid: int) -> None:
        with ballast.open("wb", buffering=0) as file, suppress(OSError):  # in the end: No space left on device
            while True:
                file.write(bytes(4096))

    try:
        yield Room(fill, lambda _pid: ballast.unlink())
    finally:
        subprocess.run(["umount", str(spool)], check=True)


@contextmanager
def limited_files(spool: Path) -> Iterator[Room]:
    """Files that may not grow: the system refuses each write with EFBIG."""

    def limit(pid: int, size_bytes: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))

    yield Room(lambda pid: limit(pid, 1), lambda pid: limit(pid, resource.RLIM_INFINITY))


@pytest.mark.parametrize("disk", [full_tmpfs, limited_files])
def test_a_full_disk_stops_no_prediction_and_every_lost_event_is_counted(
    tmp_path: Path, registry: Running, monitoring: Running, disk: Callable[[Path], AbstractContextManager[Room]]
) -> None:
    (tmp_path / "spool").mkdir()
    with ExitStack() as stack:
        room = stack.enter_context(disk(tmp_path / "spool"))
        proxy = stack.enter_context(Proxy(int(monitoring.address.rpartition(":")[2])))
        inference = InferenceProcess(tmp_path, registry=registry.address, monitoring=proxy.address)
        stack.callback(inference.kill)
        eventually(lambda: is_serving(inference.address))

        def connect() -> Client:
            return Client(registry=registry.address, inference=inference.address, monitoring=monitoring.address)

        serve_tiny_model(connect)
        eventually(lambda: inference.metric("delivered_events_total") > 0)
        proxy.cut()  # what is written stays
        with Callers(connect) as callers:
            callers.wait_for(200)
            room.take(inference.process.pid)
            eventually(lambda: inference.metric("dropped_events_total") > 100)
            assert inference.metric("queued_events") == QUEUE_EVENTS
            assert is_serving(inference.address)

            room.give(inference.process.pid)
            written = inference.metric("written_events_total")
            eventually(lambda: inference.metric("written_events_total") > written + 2 * QUEUE_EVENTS)
        assert callers.all_failures == []
        dropped = inference.metric("dropped_events_total")
        proxy.heal()
        with connect() as client:
            kept = callers.answer_count - dropped
            eventually(lambda: len(events_of_callers(client)) >= kept)
            assert len(events_of_callers(client)) == kept
        assert inference.metric("dropped_events_total") == dropped
        assert inference.close() == 0


def events_of_callers(client: Client) -> list[str]:
    found = client.monitoring.list_inferences(model="tiny", limit=None)
    return [each.event.inference_id for each in found if each.event.user_id]
