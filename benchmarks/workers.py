"""Predictions a second of one worker and of one for each core, by the number of connections, pinned and not.

The kernel deals connections to workers, not requests: with one connection a second worker is idle, with two they may
both be one worker's. The requests in flight are the same however many connections share them. The load generator has
no core of its own here: where the workers take all, it takes its share of each.
Run it by `.venv/bin/python -m benchmarks workers`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.contenders.suite import running_suite
from benchmarks.harness import interleave, surroundings
from benchmarks.load import Window, require_h2load, send
from benchmarks.workloads import WORKLOADS

LEAST_REQUESTS = 200
console = Console()
if not console.is_terminal:
    console = Console(width=120)


def services() -> dict[str, Mapping[str, str]]:
    """Name what is compared, each with its settings."""
    count = str(len(os.sched_getaffinity(0)))
    return {
        "1 worker": {"PENSTOCK_INFERENCE_WORKERS": "1"},
        f"{count} workers": {"PENSTOCK_INFERENCE_WORKERS": count, "PENSTOCK_INFERENCE_PINNED": "never"},
        f"{count} workers, pinned": {"PENSTOCK_INFERENCE_WORKERS": count, "PENSTOCK_INFERENCE_PINNED": "always"},
    }


def main() -> None:
    """Measure, and show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=WORKLOADS, default="iris")
    parser.add_argument("--rounds", type=int, default=5, help="windows of each service with each number of connections")
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long a window lasts")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--in-flight", type=int, default=32, help="requests in flight, over all connections")
    options = parser.parse_args()
    require_h2load()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name, ExitStack() as stack:
        Path(name).chmod(0o711)  # as root, PostgreSQL's own user passes through
        workload = WORKLOADS[options.model]()
        suite = stack.enter_context(running_suite(Path(name), [workload]))
        running = {
            service: stack.enter_context(suite.server(service, workload, changes))
            for service, changes in services().items()
        }

        def take(side: tuple[str, int]) -> Window:
            service, connections = side
            call, in_flight = running[service].ask(), max(1, options.in_flight // connections)
            warm = send(call, requests=LEAST_REQUESTS, concurrency=connections, in_flight=in_flight)
            requests = max(LEAST_REQUESTS, int(warm.rate * options.seconds))
            window = send(call, requests=requests, concurrency=connections, in_flight=in_flight)
            running[service].settle()
            return window

        sides = [(service, connections) for connections in options.connections for service in running]
        taken = interleave(sides, take, options.rounds)
    console.print(as_table(options.model, taken))
    for fact, said in surroundings().items():
        console.print(f"[dim]{fact}: {said}[/]")


def as_table(model: str, taken: Mapping[tuple[str, int], list[Window]]) -> Table:
    """Lay out medians, with the lowest and the highest rate."""
    table = Table(title=f"{model}: predictions a second")
    for heading in ("connections", "service", "requests/s", "low, high", "p50 µs", "p99 µs"):
        table.add_column(heading, justify="left" if heading == "service" else "right", no_wrap=True)
    for (service, connections), windows in taken.items():
        rates = [window.rate for window in windows]
        table.add_row(
            str(connections),
            service,
            f"{statistics.median(rates):,.0f}",
            f"{min(rates):,.0f}, {max(rates):,.0f}",
            f"{statistics.median(window.p50_us for window in windows):,.0f}",
            f"{statistics.median(window.p99_us for window in windows):,.0f}",
        )
    return table


if __name__ == "__main__":
    main()
