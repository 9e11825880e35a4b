"""Processes on chosen cores, contenders taking turns, and what came of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

Side = TypeVar("Side", bound=Hashable)
Taken = TypeVar("Taken")
DEADLINE_S = 60.0
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("grpcio", "protobuf", "numpy", "onnxruntime", "psycopg")


@dataclass(frozen=True, slots=True)
class Cores:
    """One core for the server that is measured; the rest for all else, the load generator too."""

    server: frozenset[int]
    others: frozenset[int]

    @property
    def all(self) -> frozenset[int]:
        """Every core that we may use."""
        return self.server | self.others


def claim_cores() -> Cores:
    """Keep the first core free for servers: this process and all it starts move to the others.

    Ends the run with a sentence where that cannot be.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit("the benchmarks pin processes to cores, which works on Linux alone")
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise SystemExit("the benchmarks need two cores: one for the server, another for the load")
    cores = Cores(frozenset(allowed[:1]), frozenset(allowed[1:]))
    os.sched_setaffinity(0, cores.others)
    return cores


def pin(pid: int, cores: Iterable[int]) -> None:
    """Move a process to these cores, with every thread that it has; those to come follow their makers."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):  # it ended meanwhile
            os.sched_setaffinity(int(thread.name), cores)


def cpu_seconds(pid: int) -> float:
    """Give the processor time that a process has taken; counted in hundredths of a second."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def memory_growth_bytes(pid: int, work: Callable[[], object]) -> int:
    """Do this, and give the peak of a process' memory meanwhile, above what it held before."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # forgets the peak
    before_bytes = _memory_bytes(pid, "VmRSS")
    work()
    return _memory_bytes(pid, "VmHWM") - before_bytes


def _memory_bytes(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[int]:
    """Run a server for the block; gives its pid."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=dict(environment), stdout=output, stderr=output)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def wait_until(met: Callable[[], bool], otherwise: str, *, interval_s: float = 0.1) -> float:
    """Look until it is so, for a minute at most; gives the seconds it took, or ends the run with `otherwise`."""
    began = time.monotonic()
    while not met():
        if time.monotonic() > began + DEADLINE_S:
            raise SystemExit(otherwise)
        time.sleep(interval_s)
    return time.monotonic() - began


def interleave(sides: Sequence[Side], take: Callable[[Side], Taken], rounds: int) -> dict[Side, list[Taken]]:
    """Let the sides take turns, A B A B …: what disturbs the machine for a while disturbs them alike."""
    taken: dict[Side, list[Taken]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            taken[side].append(take(side))
    return taken


@dataclass(frozen=True, slots=True)
class Ratio:
    """How one side compares to another: the median over the rounds, and the extremes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], base: Sequence[float]) -> Ratio:
        """Divide within each round, since the two were taken side by side."""
        ratios = [value / other for value, other in zip(values, base, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))


def surroundings() -> dict[str, str]:
    """Say what the numbers were taken on."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": sys.version.split()[0],
        **{package: importlib.metadata.version(package) for package in PACKAGES},
        "commit": commit.stdout.strip(),
        "load average": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
