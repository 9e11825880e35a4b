"""Hours in minutes: fifty models where ten have room, asked for as Zipf would, and what the process holds meanwhile.

Every request must be answered, no model may load twice at once, and memory, threads and open files must not grow once
all is warm: the table has their slopes. Run it by `.venv/bin/python -m benchmarks endurance --minutes 30`.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from onnx import helper, numpy_helper
from rich.console import Console
from rich.table import Table

import penstock
from benchmarks.contenders.suite import running_suite
from benchmarks.harness import claim_cores
from benchmarks.workloads import Workload
from examples.models.small import FP32, model, value

MODELS, ROOM, WIDTH = 50, 10, 2048
CLIENTS = 8
ZIPF_EXPONENT = 1.1
SAMPLE_INTERVAL_S = 1.0
MEBIBYTE = 2**20
console = Console()


@dataclass(frozen=True, slots=True)
class Sample:
    """What the server held at a moment, in seconds since the start."""

    at_s: float
    resident_bytes: int
    threads: int
    open_files: int
    session_bytes: int
    sessions: int


def main() -> None:
    """Run, and show what was held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    claim_cores()
    workloads = [dense(number) for number in range(MODELS)]
    budget_bytes = ROOM * measured_bytes(workloads[0])
    settings = {"PENSTOCK_INFERENCE_WORKERS": "1", "PENSTOCK_SESSION_BUDGET_BYTES": str(budget_bytes)}
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        Path(name).chmod(0o711)  # as root, PostgreSQL's own user passes through
        with (
            running_suite(Path(name), workloads) as suite,
            suite.server("Penstock", workloads[0], settings) as server,
            suite.client(server) as client,
        ):
            before = server.resident_bytes - measured_bytes(workloads[0])
            asked, samples = run(client, workloads, server.processes, options.minutes * 60)
            loads = int(server.counts()["penstock_session_loads_total"])
    show(asked, loads, samples, before, budget_bytes)


def dense(number: int) -> Workload:
    """Give a model of 16 MiB with weights of its own: one dense layer of 2,048 by 2,048."""
    weights = np.random.default_rng(number).standard_normal((WIDTH, WIDTH), dtype=np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    content = model(
        nodes, [value("x", FP32, WIDTH)], [value("y", FP32, WIDTH)], [numpy_helper.from_array(weights, "w")]
    )
    row = np.full((1, WIDTH), 0.5, np.float32)
    return Workload(f"dense-{number:02d}", content, {"x": row}, {"y": row @ weights})


def measured_bytes(workload: Workload) -> int:
    """Guess what a loaded one takes: its weights, and an arena for a row."""
    return int(len(workload.onnx) * 1.25)


def run(
    client: penstock.Client, workloads: Sequence[Workload], processes: Sequence[psutil.Process], seconds: float
) -> tuple[int, list[Sample]]:
    """Ask from several threads until the time is up; ends the run with a sentence where an answer is wrong."""
    began = time.monotonic()
    shares = np.arange(1, MODELS + 1, dtype=np.float64) ** -ZIPF_EXPONENT
    samples: list[Sample] = []
    done = threading.Event()

    def ask(seed: int) -> int:
        random, count = np.random.default_rng(seed), 0
        while time.monotonic() - began < seconds:
            workload = workloads[int(random.choice(MODELS, p=shares / shares.sum()))]
            answer = client.inference.predict(workload.name, tensors=workload.inputs)
            workload.check("Penstock", answer.outputs)
            count += 1
        return count

    def watch() -> None:
        while not done.wait(SAMPLE_INTERVAL_S):
            samples.append(_sample(time.monotonic() - began, client, processes))

    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        watching = pool.submit(watch)
        try:
            asked = sum(pool.map(ask, range(CLIENTS)))
        finally:
            done.set()
        watching.result()
    return asked, samples


def _sample(at_s: float, client: penstock.Client, processes: Sequence[psutil.Process]) -> Sample:
    loaded = client.inference.sessions()
    return Sample(
        at_s,
        sum(process.memory_info().rss for process in processes),
        sum(process.num_threads() for process in processes),
        sum(process.num_fds() for process in processes),
        loaded.used_bytes,
        len(loaded.sessions),
    )


def show(asked: int, loads: int, samples: Sequence[Sample], before_bytes: int, budget_bytes: int) -> None:
    """Show what was held, at the most and as a slope over the later two thirds."""
    warm = [sample for sample in samples if sample.at_s > samples[-1].at_s / 3]
    peak = max(sample.resident_bytes for sample in samples)
    console.print(
        f"{asked:,} requests, all answered right; {loads:,} loads. The process held {before_bytes / MEBIBYTE:,.0f} MiB "
        f"without models and {peak / MEBIBYTE:,.0f} MiB at the most: models took "
        f"{(peak - before_bytes) / budget_bytes:.2f} x their budget of {budget_bytes / MEBIBYTE:,.0f} MiB."
    )
    table = Table("what", "at the most", "slope per hour")
    columns: dict[str, Callable[[Sample], float]] = {
        "memory, MiB": lambda sample: sample.resident_bytes / MEBIBYTE,
        "sessions, MiB": lambda sample: sample.session_bytes / MEBIBYTE,
        "sessions": lambda sample: sample.sessions,
        "threads": lambda sample: sample.threads,
        "open files": lambda sample: sample.open_files,
    }
    hours = [sample.at_s / 3600 for sample in warm]
    for name, read in columns.items():
        slope = float(np.polyfit(hours, [read(sample) for sample in warm], 1)[0])
        table.add_row(name, f"{max(map(read, samples)):,.0f}", f"{slope:+,.1f}")
    console.print(table)
