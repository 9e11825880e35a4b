"""An inference service of several workers, as processes of their own, beside a registry and monitoring in this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import psutil

import penstock
from penstock.api.inference.v1.sessions_pb2_grpc import SessionServiceStub
from services.inference.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.inference import wait_until
from tests.postgres import PostgresServer
from tests.services import Running, running_monitoring, running_registry
from tests.suite import read_metrics

WORKER, FOLLOWER = "services.inference.workers.worker", "services.inference.workers.follower"


def runs(process: psutil.Process, module: str) -> bool:
    """Say whether a process runs a module; one that ends while it is asked does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and module in process.cmdline()
    except psutil.NoSuchProcess:
        return False


class WorkersService:
    """The service, and a grip on its processes."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, client: penstock.Client) -> None:
        self.process = process
        self.log = log
        self.client = client
        self.address = ""
        self.metrics_address = ""

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Find what was logged under a name."""
        lines = self.log.read_text().splitlines()
        said = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [each for each in said if each["event"] == event]

    def find_addresses(self) -> None:
        """Wait until it has its ports."""
        said = wait_until(lambda: self.lines("supervising") or self.process.poll() is not None or None)
        assert isinstance(said, list), self.log.read_text()
        self.address = said[0]["address"]
        self.metrics_address = f"127.0.0.1:{said[0]['metrics_port']}"

    def children(self, module: str = WORKER) -> list[psutil.Process]:
        """Find its children by what they run."""
        return [each for each in psutil.Process(self.process.pid).children() if runs(each, module)]

    def metrics(self) -> dict[str, float]:
        """Read its metrics page, summed by name."""
        with urlopen(f"http://{self.metrics_address}/metrics", timeout=60) as page:
            return read_metrics(page.read().decode())

    def probe(self, path: str) -> int:
        """Ask it as a kubelet does."""
        try:
            with urlopen(f"http://{self.metrics_address}{path}", timeout=60) as answer:
                return int(answer.status)
        except HTTPError as refused:
            return refused.code

    def until_serving(self, count: int) -> None:
        """Wait until so many workers answer predictions."""
        wait_until(lambda: self.metrics().get("penstock_workers_serving") == count or None)

    def connect(self) -> penstock.Client:
        """Open another client, on connections of its own."""
        return penstock.Client(inference=self.address)

    @contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        """Open a connection that is shared with nobody."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self.address, options=options) as channel:
            yield channel

    @contextmanager
    def stubs(self, count: int) -> Iterator[list[GRPCInferenceServiceStub]]:
        """Open connections, each of its own."""
        with ExitStack() as stack:
            yield [GRPCInferenceServiceStub(stack.enter_context(self.channel())) for _ in range(count)]

    @contextmanager
    def session_stub(self) -> Iterator[SessionServiceStub]:
        """Open a connection to steer what is loaded."""
        with self.channel() as channel:
            yield SessionServiceStub(channel)

    def stop(self) -> int:
        """End it as a pod is ended, and give its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def command_of(folder: Path, registry: str, monitoring: str, **more: str) -> tuple[list[str], Mapping[str, str]]:
    """Give the command that starts the service, and its environment."""
    environment = {
        **os.environ,
        "PENSTOCK_PORT": "0",
        "PENSTOCK_METRICS_PORT": "0",
        "PENSTOCK_INFERENCE_WORKERS": "2",
        "PENSTOCK_REGISTRY_ADDRESS": registry,
        "PENSTOCK_MONITORING_ADDRESS": monitoring,
        "PENSTOCK_CACHE_DIR": str(folder / "cache"),
        "PENSTOCK_SPOOL_DIR": str(folder / "spool"),
        **more,
    }
    return [sys.executable, "-m", "services.inference"], environment


@contextmanager
def running_workers(
    folder: Path, registry: Running, monitoring: Running, *, serving: int = 2, **more: str
) -> Iterator[WorkersService]:
    """Run the service with two workers; none of its processes may be left at the end."""
    command, environment = command_of(folder, registry.address, monitoring.address, **more)
    log = folder / "inference.log"
    with (
        log.open("ab") as output,
        penstock.Client(registry=registry.address, monitoring=monitoring.address) as client,
    ):
        process = subprocess.Popen(command, env=dict(environment), stdout=output, stderr=output)
        service = WorkersService(process, log, client)
        family: list[psutil.Process] = []
        try:
            service.find_addresses()
            service.until_serving(serving)
            family += psutil.Process(process.pid).children()
            yield service
        finally:
            if process.poll() is None:
                family += psutil.Process(process.pid).children()
                service.stop()
            _, left = psutil.wait_procs(family, 60)
            assert not left, left


@contextmanager
def running_backends(server: PostgresServer, folder: Path) -> Iterator[tuple[Running, Running]]:
    """Run a registry and monitoring on databases of their own."""
    with ExitStack() as stack:
        urls = server.clone("registry"), server.clone("monitoring")
        for url in urls:
            stack.callback(server.drop, url)
        yield (
            stack.enter_context(running_registry(urls[0], folder)),
            stack.enter_context(running_monitoring(urls[1])),
        )
