"""The tail of running traffic while other models load: iris at half of what the server can do, twenty others in turn.

Run it by `.venv/bin/python -m benchmarks loading`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from onnx import ModelProto
from rich.console import Console
from rich.table import Table

import penstock
from benchmarks.contenders.contender import Contender
from benchmarks.contenders.suite import running_suite
from benchmarks.harness import claim_cores, pin
from benchmarks.load import Window, require_h2load, send
from benchmarks.workloads import WORKLOADS, Workload

CLIENTS = 8
console = Console()


@dataclass(frozen=True, slots=True)
class Round:
    """The same traffic without loads, and with them; `loads`: how many were made meanwhile."""

    before: Window
    during: Window
    loads: int


def main() -> None:
    """Measure, and show the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long a window lasts")
    parser.add_argument("--others", type=int, default=20, help="models that load, of 45 MiB each")
    options = parser.parse_args()
    require_h2load()
    cores = claim_cores()
    running, loaded = WORKLOADS["iris"](), others(options.others)
    table = Table("cores", "p50 µs", "p99 µs", "p50 µs, loading", "p99 µs, loading", "x p99", "low, high", "loads")
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        Path(name).chmod(0o711)  # as root, PostgreSQL's own user passes through
        with running_suite(Path(name), [running, *loaded]) as suite:
            for words, where in (("one", cores.server), ("both", cores.all)):
                with suite.server("Penstock", running, {"PENSTOCK_INFERENCE_WORKERS": "1"}) as server:
                    for process in server.processes:
                        pin(process.pid, where)
                    with suite.client(server) as client:
                        rounds = [one_round(server, client, loaded, options.seconds) for _ in range(options.rounds)]
                table.add_row(words, *cells_of(rounds))
    console.print(table)


def others(count: int) -> list[Workload]:
    """Give ResNet-18 so many times, no file like another."""
    resnet = WORKLOADS["resnet18"]()
    model = ModelProto.FromString(resnet.onnx)
    made = []
    for number in range(count):
        model.producer_name = f"other {number}"
        made.append(replace(resnet, name=f"other-{number}", onnx=model.SerializeToString()))
    return made


def one_round(server: Contender, client: penstock.Client, loaded: Sequence[Workload], seconds: float) -> Round:
    """Take the tail at half load, and again while the others load one after another, as often as there is time."""
    call = server.ask()
    rate = send(call, requests=2_000, concurrency=CLIENTS).rate / 2
    count = int(rate * seconds)
    before = send(call, requests=count, concurrency=CLIENTS, rate=rate)
    with Loads(client, loaded) as loads:
        during = send(call, requests=count, concurrency=CLIENTS, rate=rate)
    return Round(before, during, loads.count)


class Loads(AbstractContextManager["Loads"]):
    """Loads models, and unloads them, one after another, for as long as the block lasts."""

    def __init__(self, client: penstock.Client, models: Sequence[Workload]) -> None:
        self.count = 0
        self._client = client
        self._models = models
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Loads:
        self._done = self._pool.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._done.result()
        self._pool.shutdown()

    def _run(self) -> None:
        while not self._stopped.is_set():
            model = self._models[self.count % len(self._models)].name
            self._client.inference.load_model(model)
            self._client.inference.unload_model(model)
            self.count += 1


def cells_of(rounds: Sequence[Round]) -> tuple[str, ...]:
    """Write the medians of some rounds."""
    ratios = [each.during.p99_us / each.before.p99_us for each in rounds]
    windows = [(each.before.p50_us, each.before.p99_us, each.during.p50_us, each.during.p99_us) for each in rounds]
    times = [statistics.median(column) for column in zip(*windows, strict=True)]
    return (
        *(f"{time:,.0f}" for time in times),
        f"{statistics.median(ratios):.2f}",
        f"{min(ratios):.2f}, {max(ratios):.2f}",
        f"{sum(each.loads for each in rounds)}",
    )
