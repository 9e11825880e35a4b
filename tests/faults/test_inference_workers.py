"""Workers that are killed or hang, and a supervisor that is killed: the service answers, and its counts stay."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

import penstock
from penstock.cli.embedded.ports import free_port
from services.inference.oip import open_inference_pb2 as oip
from tests.inference import fp32, wait_until
from tests.postgres import PostgresServer
from tests.services import Running
from tests.testdata import models
from tests.workers import FOLLOWER, WorkersService, command_of, running_backends, running_workers

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
ROW = fp32([[1, 2, 3, 4]])
CONNECTIONS = 16
IN_MEMORY = 100
"""Events that a worker may hold before they are on disk, at this rate: those of some 20 ms."""
SILENCE_MS = "5000"
"""A worker that lives may say nothing for a second or two where the machine is busy."""
DEATHS = "penstock_worker_deaths_total"
SUCCESSES = "nv_inference_request_success"


@pytest.fixture(scope="module")
def backends(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, Running]]:
    """A registry that has the model `linear`, and monitoring."""
    with running_backends(postgres_server, tmp_path_factory.mktemp("backends")) as running:
        with penstock.Client(registry=running[0].address) as client:
            client.registry.register_version("linear", "1", models.linear(), framework="onnx")
        yield running


@pytest.fixture
def service(backends: tuple[Running, Running], tmp_path: Path) -> Iterator[WorkersService]:
    """Two workers."""
    with running_workers(tmp_path, *backends, PENSTOCK_WORKER_SILENCE_MS=SILENCE_MS) as running:
        yield running


@pytest.fixture(scope="module")
def lasting(backends: tuple[Running, Running], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkersService]:
    """Two workers that outlive a test: after each there are two again, and a follower."""
    with running_workers(
        tmp_path_factory.mktemp("lasting"), *backends, PENSTOCK_WORKER_SILENCE_MS=SILENCE_MS
    ) as running:
        yield running


class Traffic:
    """Connections that predict without pause, each call once."""

    def __init__(self, service: WorkersService) -> None:
        self._service = service
        self._stopping = threading.Event()
        self.answered: list[list[str]] = [[] for _ in range(CONNECTIONS)]
        self.failed: list[list[penstock.PenstockError]] = [[] for _ in range(CONNECTIONS)]

    @property
    def count(self) -> int:
        """How many were answered."""
        return sum(map(len, self.answered))

    def wait_for(self, more: int) -> None:
        """Wait until so many more were answered, for as long as any is."""
        enough = self.count + more
        while (so_far := self.count) < enough:
            wait_until(lambda: self.count > so_far or None)

    def wait_for_everyone(self) -> None:
        """Wait until every connection was answered again."""
        before = [len(each) for each in self.answered]
        wait_until(lambda: all(len(e) > b for e, b in zip(self.answered, before, strict=True)) or None)

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """Predict inside the block."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            futures = [pool.submit(self._call, number) for number in range(CONNECTIONS)]
            try:
                yield
            finally:
                self._stopping.set()
        for future in futures:
            future.result()

    def _call(self, number: int) -> None:
        with self._service.connect() as client:
            while not self._stopping.is_set():
                try:
                    answer = client.inference.predict("linear", tensors={"x": ROW}, timeout_s=20)
                except penstock.PenstockError as error:
                    self.failed[number].append(error)
                    self._stopping.wait(0.02)  # a caller with manners
                else:
                    self.answered[number].append(answer.inference_id)


def stored_count(service: WorkersService) -> int:
    """Ask monitoring how many predictions of the model it has."""
    return service.client.monitoring.get_metrics("linear").inference_count


def test_a_killed_workers_connections_go_on_its_counts_stay_and_its_events_arrive(service: WorkersService) -> None:
    traffic = Traffic(service)
    stored_before = stored_count(service)
    with traffic.flowing():
        traffic.wait_for(500)
        victim = service.children()[0]
        before = service.metrics()[SUCCESSES]
        victim.kill()
        traffic.wait_for_everyone()  # the other answers those too that were the victim's
        assert service.metrics()[SUCCESSES] >= before  # also while the slot is empty
        wait_until(lambda: service.metrics()[DEATHS] == 1 or None)
        service.until_serving(2)
        traffic.wait_for(500)
    assert {type(each) for failed in traffic.failed for each in failed} <= {penstock.Unavailable}
    # Each caller lost one answer at the most, and a request may have been counted whose answer did not get out.
    lost = sum(map(len, traffic.failed))
    counted = service.metrics()[SUCCESSES]
    assert traffic.count <= counted <= traffic.count + lost
    # All but what the victim held in memory for some ms has reached monitoring; what it had on disk was adopted.
    wait_until(lambda: stored_count(service) - stored_before >= traffic.count - IN_MEMORY or None)
    assert stored_count(service) - stored_before <= counted
    assert victim.pid not in [each.pid for each in service.children()]


def test_a_hung_worker_is_replaced(service: WorkersService) -> None:
    hung = service.children()[1]
    hung.send_signal(signal.SIGSTOP)
    wait_until(lambda: not hung.is_running() or None)
    service.until_serving(2)
    (line,) = service.lines("a worker is replaced")
    assert line["why"] == "it says nothing"
    with service.connect() as client:
        assert client.inference.predict("linear", tensors={"x": ROW}).outputs


def test_what_all_were_told_holds_for_the_worker_that_comes_later(lasting: WorkersService) -> None:
    before = lasting.metrics()[DEATHS]
    level = oip.LogSettingsRequest.SettingValue
    with lasting.stubs(1) as (stub,):
        stub.LogSettings(oip.LogSettingsRequest(settings={"log_info": level(bool_param=False)}), timeout=60)
    for victim in lasting.children():
        victim.kill()
    wait_until(lambda: lasting.metrics()[DEATHS] == before + 2 or None)
    lasting.until_serving(2)
    with lasting.stubs(CONNECTIONS) as stubs:
        for stub in stubs:
            settings = stub.LogSettings(oip.LogSettingsRequest(), timeout=60).settings
            assert (settings["log_info"].bool_param, settings["log_warning"].bool_param) == (False, True)


def test_a_pinned_model_is_loaded_and_pinned_by_the_worker_that_comes_later(lasting: WorkersService) -> None:
    before = lasting.metrics()[DEATHS]

    def pinned(count: int) -> bool:
        with lasting.connect() as client:
            sessions = client.inference.sessions("linear").sessions
        return [each.pinned for each in sessions] == [True] * count

    with lasting.connect() as client:
        client.inference.load_model("linear", pin=True)
    assert pinned(2)
    for victim in lasting.children():
        victim.kill()
    wait_until(lambda: lasting.metrics()[DEATHS] == before + 2 or None)
    lasting.until_serving(2)
    wait_until(lambda: pinned(2) or None)
    with lasting.connect() as client:
        client.inference.unload_model("linear")
    lasting.children()[0].kill()
    wait_until(lambda: lasting.metrics()[DEATHS] == before + 3 or None)
    lasting.until_serving(2)
    assert pinned(0)


def test_a_killed_follower_comes_back_and_misses_nothing(lasting: WorkersService) -> None:
    (follower,) = lasting.children(FOLLOWER)
    follower.kill()
    lasting.client.registry.register_version("late", "1", models.linear(), framework="onnx")
    clients = [lasting.connect() for _ in range(CONNECTIONS)]
    for client in clients:
        wait_until(lambda client=client: predicts(client, "late") or None)  # type: ignore[misc] # each its own
        client.close()


def test_a_hung_follower_is_replaced_and_nothing_is_missed(lasting: WorkersService) -> None:
    (hung,) = lasting.children(FOLLOWER)
    hung.send_signal(signal.SIGSTOP)
    lasting.client.registry.register_version("unheard", "1", models.linear(), framework="onnx")
    wait_until(lambda: not hung.is_running() or None)
    (line,) = wait_until(lambda: lasting.lines("the follower is replaced") or None)
    assert line["why"] == "it says nothing"
    with lasting.connect() as client:
        wait_until(lambda: predicts(client, "unheard") or None)
    assert lasting.lines("a worker is replaced") == []


def predicts(client: penstock.Client, model: str) -> bool:
    try:
        client.inference.predict(model, tensors={"x": ROW})
    except penstock.NotFound:
        return False
    return True


def test_a_late_worker_knows_what_the_others_know_though_the_registry_is_gone(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    with running_backends(postgres_server, tmp_path) as backends:
        with penstock.Client(registry=backends[0].address) as client:
            client.registry.register_version("linear", "1", models.linear(), framework="onnx")
        with running_workers(tmp_path, *backends) as service:
            with service.connect() as client:
                wait_until(lambda: predicts(client, "linear") or None)
            backends[0].server.close()
            for victim in service.children():
                victim.kill()
            wait_until(lambda: service.metrics()[DEATHS] == 2 or None)
            service.until_serving(2)
            for _ in range(CONNECTIONS):
                with service.connect() as client:
                    assert predicts(client, "linear")


def test_a_killed_supervisor_leaves_no_process_and_the_port_is_free(
    backends: tuple[Running, Running], tmp_path: Path
) -> None:
    port = str(free_port())  # none of those that the kernel gives to others meanwhile
    with running_workers(tmp_path, *backends, PENSTOCK_PORT=port) as service:
        family = psutil.Process(service.process.pid).children()
        assert len(family) == 3
        service.process.kill()
        service.process.wait()
        _, left = psutil.wait_procs(family, 60)
        assert left == []
    with running_workers(tmp_path / "..", *backends, PENSTOCK_PORT=port) as again:
        assert again.address.endswith(port)


def test_a_service_whose_workers_cannot_begin_ends_and_says_why(
    backends: tuple[Running, Running], tmp_path: Path
) -> None:
    command, environment = command_of(
        tmp_path, *(each.address for each in backends), PENSTOCK_TLS_CERT_FILE=str(tmp_path / "nothing.pem")
    )
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    last = json.loads(done.stderr.splitlines()[-1])
    assert (last["event"], last["reason"]) == ("not started", "TLS_INCOMPLETE")


def test_workers_that_die_again_and_again_end_the_service(service: WorkersService) -> None:
    def kill_all() -> bool:
        for worker in service.children():
            with suppress(psutil.NoSuchProcess):
                worker.kill()
        return service.process.poll() is not None

    wait_until(lambda: kill_all() or None)
    assert service.process.returncode == 1
    (line,) = service.lines("not started")
    assert line["reason"] == "WORKERS_FAIL"


def test_a_worker_with_a_run_that_nothing_ends_is_replaced(tmp_path: Path) -> None:
    """With a stand-in for the worker: no model here hangs past the end of its run."""
    script = (
        "from services.inference.workers import supervisor\n"
        "supervisor.WORKER = supervisor.FOLLOWER = 'tests.testdata.stuck_worker'\n"
        "supervisor.supervise(['--port', '0', '--metrics-port', '0', '--inference-workers', '2'])"
    )
    log = tmp_path / "log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment, stderr=output)
    try:
        wait_until(lambda: log.read_text().count('"a worker serves"') >= 3 or None)
        assert "1 of its runs cannot be ended" in log.read_text()
        assert len(psutil.Process(process.pid).children()) == 3
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
