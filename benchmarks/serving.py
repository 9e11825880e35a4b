"""Predictions a second and their latency: Penstock beside what a team would run in its place, on the same cores.

Penstock runs with keys, metrics and capture on; the others have none of the three. Servers take turns under the load of
h2load. Run it by `.venv/bin/python -m benchmarks serving`; it makes the environments of MLServer and FastAPI itself.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks.contenders import others
from benchmarks.contenders.contender import Contender
from benchmarks.contenders.environments import PACKAGES, environment, versions
from benchmarks.contenders.suite import BREAKDOWN, RunningSuite, running_suite
from benchmarks.harness import Cores, claim_cores, cpu_seconds, pin, surroundings
from benchmarks.load import require_h2load, send
from benchmarks.serving_table import BARE, PAIR, Cell, Footprint, Row, Turn, as_tables, keep, summarise
from benchmarks.workloads import WORKLOADS, Workload

LEAST_REQUESTS = 50
WARM_UP_S = 0.5
BATCH_SIZE = 32
console = Console()
if not console.is_terminal:
    console = Console(width=180)  # the table's own; a pipe has none


def main() -> None:
    """Measure, show the tables, and keep them in benchmarks/results/."""
    options = _options()
    require_h2load()
    cores = claim_cores()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    if not options.ours:
        for name in PACKAGES:
            console.print(f"[dim]{name}: {environment(name).parent}[/]")
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        Path(name).chmod(0o711)  # as root, PostgreSQL's own user passes through
        bench = Bench(Path(name), cores, options)
        rows = bench.measure()
    machine = surroundings() | {name: versions(name) for name in PACKAGES}
    machine |= {"rounds": str(options.rounds), "window": f"{options.seconds:g} s"}
    for table in as_tables(rows, bench.footprints):
        console.print(table)
    console.print(f"[dim]kept in {keep(rows, bench.footprints, machine)}[/]")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=5, help="windows of each server in each comparison")
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long a window lasts")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32], help="connections, one request each")
    parser.add_argument("--cores", nargs="+", choices=("one", "both"), default=["one", "both"])
    parser.add_argument("--ours", action="store_true", help="no servers but ours and the bare handler")
    parser.add_argument(
        "--breakdown", action="store_true", help="ours also without capture, without keys, without either"
    )
    return parser.parse_args()


class Bench:
    """One run: the models one after another, for each the servers together, for each cell their turns."""

    def __init__(self, folder: Path, cores: Cores, options: argparse.Namespace) -> None:
        self._folder = folder
        self._cores = cores
        self._options = options
        self.footprints: list[Footprint] = []

    def measure(self) -> list[Row]:
        """Run every contender, and compare them cell by cell."""
        options = self._options
        workloads = [WORKLOADS[name]() for name in options.models]
        cells = len(workloads) * len(options.cores) * len(options.concurrency)
        rows: list[Row] = []
        with running_suite(self._folder, workloads) as suite, Progress(console=console) as progress:
            bar = progress.add_task("measuring", total=cells * options.rounds)
            for workload in workloads:
                captured = 0
                for where in options.cores:
                    with self._contenders(suite, workload, where) as contenders:
                        for concurrency in options.concurrency:
                            cell = Cell(workload.name, where, concurrency)
                            rows += self._compare(cell, workload, contenders, lambda: progress.advance(bar))
                        self._note(workload, where, contenders)
                        captured += sum(each.answered() for each in contenders if each.answered and each.captures)
                check_stored(suite, workload, captured)
        return rows

    def _compare(
        self, cell: Cell, workload: Workload, contenders: Sequence[Contender], advance: Callable[[], None]
    ) -> list[Row]:
        """Let the sides take turns, A B A B …: what disturbs the machine for a while disturbs them alike."""
        seconds, threads = self._options.seconds, 1 if cell.cores == "one" else len(self._cores.all)
        cores = sorted(self._cores.server if cell.cores == "one" else self._cores.all)
        turns: dict[str, list[Turn]] = {contender.name: [] for contender in contenders}
        alone: list[dict[int, float]] = []
        for _ in range(self._options.rounds):
            alone.append(others.in_process(self._folder, workload, cores, threads, seconds))
            for contender in contenders:
                turns[contender.name].append(take_turn(contender, cell, cores, seconds))
            advance()
        return summarise(cell, turns, alone)

    @contextmanager
    def _contenders(self, suite: RunningSuite, workload: Workload, where: str) -> Iterator[list[Contender]]:
        make = self._on_one(suite, workload) if where == "one" else self._on_both(suite, workload)
        with ExitStack() as stack:
            with self._all_cores():
                contenders = [stack.enter_context(each) for each in make]
            yield contenders

    def _on_one(self, suite: RunningSuite, workload: Workload) -> Sequence[AbstractContextManager[Contender]]:
        threads = {"PENSTOCK_INFERENCE_WORKERS": "1", "PENSTOCK_RUNTIME_THREADS": "1"}
        folder = self._folder
        made = [
            others.bare(folder, workload, BARE, threads=1),
            others.bare(folder, workload, f"{BARE} again", threads=1),
            suite.server("Penstock", workload, threads),
        ]
        if self._options.breakdown:
            made += [suite.server(name, workload, {**threads, **changes}) for name, changes in BREAKDOWN.items()]
        if not self._options.ours:
            made += [
                others.mlserver(folder, workload, "MLServer", threads=1),
                others.mlserver(folder, workload, "MLServer, batching", threads=1, max_batch_size=BATCH_SIZE),
                others.fastapi(folder, workload, "FastAPI, JSON", threads=1, workers=1),
            ]
        return made

    def _on_both(self, suite: RunningSuite, workload: Workload) -> Sequence[AbstractContextManager[Contender]]:
        cores = sorted(self._cores.all)
        folder, count = self._folder, len(cores)
        pinned = {"PENSTOCK_INFERENCE_WORKERS": str(count), "PENSTOCK_INFERENCE_PINNED": "always"}
        made = [
            others.bare(folder, workload, BARE, threads=count),
            others.bare_pair(folder, workload, PAIR, cores),
            suite.server("Penstock, one process", workload, {"PENSTOCK_INFERENCE_WORKERS": "1"}),
            suite.server("Penstock, a worker a core", workload, pinned, pins_itself=True),
        ]
        if not self._options.ours:
            made += [
                others.mlserver(folder, workload, "MLServer", threads=count),
                others.fastapi(folder, workload, "FastAPI, JSON", threads=1, workers=count),
            ]
        return made

    @contextmanager
    def _all_cores(self) -> Iterator[None]:
        """Servers are born free to use every core; who measures keeps to the others."""
        os.sched_setaffinity(0, self._cores.all)
        try:
            yield
        finally:
            os.sched_setaffinity(0, self._cores.others)

    def _note(self, workload: Workload, where: str, contenders: Sequence[Contender]) -> None:
        self.footprints += [
            Footprint(workload.name, where, each.name, each.start_s, each.resident_bytes) for each in contenders
        ]


def take_turn(contender: Contender, cell: Cell, cores: Sequence[int], seconds: float) -> Turn:
    """Warm up, see that it answers right, measure, and see that it answered every request and still answers right."""
    if not contender.pins_itself:
        for process in contender.processes:
            pin(process.pid, cores)
    load = partial(send, contender.ask(), concurrency=cell.concurrency)
    first = load(requests=max(2, cell.concurrency))
    warm = load(requests=max(LEAST_REQUESTS, cell.concurrency, int(first.rate * WARM_UP_S)))
    contender.settle()
    before = contender.answered() if contender.answered else 0
    cpu_before_s = sum(cpu_seconds(process.pid) for process in contender.processes)
    window = load(requests=max(LEAST_REQUESTS, cell.concurrency, int(warm.rate * seconds)))
    settle_s = contender.settle()
    cpu_s = sum(cpu_seconds(process.pid) for process in contender.processes) - cpu_before_s
    if contender.answered and contender.answered() - before != window.requests:
        raise SystemExit(f"{contender.name} counts {contender.answered() - before} of {window.requests} requests")
    contender.ask()
    contender.settle()
    return Turn(window, cpu_s / window.requests * 1e6, settle_s)


def check_stored(suite: RunningSuite, workload: Workload, captured: int) -> None:
    """See that monitoring has an event for each request of each contender that captures."""
    if suite.stored(workload.name) != captured:
        raise SystemExit(f"monitoring has {suite.stored(workload.name)} of {captured} events of {workload.name}")
    console.print(f"[green]✓[/] monitoring has the event of each of {captured:,} predictions of {workload.name}")


if __name__ == "__main__":
    main()
