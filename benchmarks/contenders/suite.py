"""Penstock itself: the embedded suite, and inference services beside it, each with what is to be measured."""

from __future__ import annotations

import os
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

import penstock
from benchmarks.contenders.contender import CALL_TIMEOUT_S, Contender, GrpcDoor
from benchmarks.contenders.others import model_file, wait_for_answer
from benchmarks.harness import running, wait_until
from benchmarks.workloads import Workload
from penstock.api.registry.v1.registry_pb2 import STAGE_STAGING
from penstock.cli.embedded.ports import Ports, free_port
from penstock.cli.embedded.suite import Suite
from penstock.cli.keys_file import KeysFile, Role

BREAKDOWN: Mapping[str, Mapping[str, str]] = {
    "… without capture": {"PENSTOCK_CAPTURE": "false"},
    "… without keys": {"PENSTOCK_KEYS_FILE": ""},
    "… without either": {"PENSTOCK_CAPTURE": "false", "PENSTOCK_KEYS_FILE": ""},
}
"""What differs from the settings that a team would run with: keys, metrics and capture on."""


class RunningSuite:
    """The suite with models in production, and the `key` of a viewer. Its own inference service is left in peace."""

    def __init__(self, suite: Suite, folder: Path, admin: str, viewer: str, client: penstock.Client) -> None:
        self._suite = suite
        self._folder = folder
        self._admin = admin
        self.key = viewer
        self._client = client

    @contextmanager
    def server(
        self, name: str, workload: Workload, changes: Mapping[str, str], *, pins_itself: bool = False
    ) -> Iterator[Contender]:
        """Run an inference service with these settings beside those of a team that has just begun."""
        port, metrics_port = free_port(), free_port()
        addresses = self._suite.state.addresses
        home = self._folder / f"inference-{port}"
        home.mkdir()
        environment = {
            **os.environ,
            "PENSTOCK_PORT": str(port),
            "PENSTOCK_METRICS_PORT": str(metrics_port),
            "PENSTOCK_REGISTRY_ADDRESS": addresses["registry"],
            "PENSTOCK_MONITORING_ADDRESS": addresses["monitoring"],
            "PENSTOCK_KEYS_FILE": str(self._suite.folder.keys_file),
            "PENSTOCK_SERVICE_TOKEN": (self._suite.folder.tokens / "inference").read_text(),
            "PENSTOCK_CACHE_DIR": str(home / "cache"),
            "PENSTOCK_SPOOL_DIR": str(home / "spool"),
            **changes,
        }
        keyed = {} if "PENSTOCK_KEYS_FILE" in changes else {"authorization": f"Bearer {self.key}"}
        door = GrpcDoor(name, f"127.0.0.1:{port}", workload, keyed)
        began = time.monotonic()
        with running([sys.executable, "-m", "services.inference"], environment, home / "log") as pid:
            wait_for_answer(f"{name} (see {home / 'log'})", door.ask)
            scrape = partial(_scrape, f"http://127.0.0.1:{metrics_port}/metrics")
            yield Contender(
                name,
                [pid],
                door.ask,
                time.monotonic() - began,
                answered=lambda: int(scrape()["nv_inference_request_success"]),
                captures="PENSTOCK_CAPTURE" not in changes,
                settle=partial(wait_until, lambda: _delivered(scrape()), f"{name}'s events do not reach monitoring"),
                pins_itself=pins_itself,
                address=door.address,
                counts=scrape,
            )

    @contextmanager
    def client(self, contender: Contender) -> Iterator[penstock.Client]:
        """Give a client of one of the servers, with the key of an admin."""
        addresses = self._suite.state.addresses
        with penstock.Client(
            registry=addresses["registry"],
            inference=contender.address,
            monitoring=addresses["monitoring"],
            token=self._admin,
            timeout_s=CALL_TIMEOUT_S,
        ) as client:
            yield client

    def stored(self, model: str) -> int:
        """Count the predictions that monitoring has of a model, by its own metrics."""
        return self._client.monitoring.get_metrics(model).inference_count


@contextmanager
def running_suite(folder: Path, workloads: Sequence[Workload]) -> Iterator[RunningSuite]:
    """Run the suite on this folder, with keys in force, and put the models into production."""
    with ExitStack() as stack:
        suite = Suite(folder / "suite", ports=Ports.auto())
        keys = KeysFile(suite.folder.keys_file)
        stack.callback(suite.stop)
        suite.start()
        _, admin = keys.create("benchmark-admin", Role.ADMIN)
        _, viewer = keys.create("benchmark", Role.VIEWER)
        addresses = suite.state.addresses
        client = stack.enter_context(
            penstock.Client(
                registry=addresses["registry"],
                inference=addresses["inference"],
                monitoring=addresses["monitoring"],
                token=admin,
            )
        )
        for workload in workloads:
            file = model_file(folder, workload)
            client.registry.register_version(workload.name, "1.0.0", file, stage=STAGE_STAGING)
            client.registry.promote(workload.name, "1.0.0", approved_by="the benchmark", note="to be measured")
        yield RunningSuite(suite, folder, admin, viewer, client)


def _scrape(url: str) -> dict[str, float]:
    """Read the metrics, summed over their labels."""
    with urllib.request.urlopen(url, timeout=CALL_TIMEOUT_S) as answer:
        text = answer.read().decode()
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


def _delivered(metrics: Mapping[str, float]) -> bool:
    """Whether every event is with monitoring; True also where none are kept."""
    if "penstock_spool_queued_events" not in metrics:
        return True
    lost = metrics["penstock_spool_dropped_events_total"] + metrics["penstock_spool_rejected_events_total"]
    if lost:
        raise SystemExit(f"{lost:.0f} events were dropped or refused: what was measured is not what was promised")
    made = metrics["nv_inference_request_success"]
    return metrics["penstock_spool_delivered_events_total"] >= made
