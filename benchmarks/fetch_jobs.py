"""1,000 queued fetches, claimed and finished by four workers, and whether any of them ran twice.

PostgreSQL, the registry, a fetcher that takes requests only and four that work run in processes of their own, on all
cores; the origin is in this one. Each job looks at the same small model and downloads it anew, since nothing shows that
it is the same, and finds the version that the first of them made: what is measured is claiming, reporting and ending.
Run it by `.venv/bin/python -m benchmarks fetch-jobs`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import make_conninfo
from rich.console import Console
from rich.table import Table

from benchmarks.contenders.fetcher import running_fetcher
from benchmarks.contenders.registry import running_registry
from benchmarks.harness import running, surroundings
from examples.models.small import identity
from tests import origins

LONGEST_S = 3_600.0
WORKERS = 4
LOOK_S = 0.2
_LEFT = "SELECT count(*) FROM fetcher.fetch_jobs WHERE end_time IS NULL"
_ENDED = """
SELECT count(*), count(*) FILTER (WHERE state = 'COMPLETED'), count(*) FILTER (WHERE token > 1 OR attempt > 1),
    extract(epoch FROM max(end_time) - min(start_time))::float8,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM end_time - claim_time))::float8,
    percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM end_time - claim_time))::float8
FROM fetcher.fetch_jobs
"""
console = Console()
if not console.is_terminal:
    console = Console(width=120)  # the table's own; a pipe has none
_BY_WORKER = "SELECT count(*) FROM fetcher.fetch_jobs GROUP BY worker_id ORDER BY 1"


@dataclass(frozen=True, slots=True)
class Measured:
    """What the database says of all jobs, in s from claim to end, and how often the origin was asked."""

    jobs: int
    completed: int
    run_twice: int
    seconds: float
    p50_s: float
    p99_s: float
    by_worker: list[int]
    requests: int


def measure(count: int, folder: Path) -> Measured:
    """Queue so many jobs, have four workers do them, and say what the database and the origin saw."""
    with ExitStack() as stack:
        origin = stack.enter_context(origins.serving())
        url = origin.serve("/model.onnx", identity(), etag=None)
        places = [folder / name for name in ("registry", "fetcher")]
        for place in places:
            place.mkdir()
        blobs = {"PENSTOCK_BLOB_URL": f"file://{places[0]}/blobs"}
        registry = stack.enter_context(running_registry(places[0], blobs))
        environment = {
            "PENSTOCK_BLOB_URL": f"file://{folder}/downloads",
            "PENSTOCK_REGISTRY_ADDRESS": registry.address,
            "PENSTOCK_FETCHER_ALLOWED_HOSTS": "127.0.0.1",
            "PENSTOCK_FETCHER_HOST_REQUESTS_PER_SECOND": "100000",
            "PENSTOCK_FETCHER_HOST_BURST": "100000",
            "PENSTOCK_FETCHER_MAX_UNENDED": str(count),
        }
        takes_only = {**environment, "PENSTOCK_FETCHER_WORKER_ENABLED": "false"}
        fetcher = stack.enter_context(running_fetcher(places[1], takes_only))
        for _ in range(count):
            fetcher.client.fetcher.start("url", url, model="fetched", framework="onnx", max_attempts=1)
        info = fetcher.database.info
        settings = {
            **os.environ,
            **environment,
            "PENSTOCK_DATABASE_URL": make_conninfo(**info.get_parameters(), password=info.password),
            "PENSTOCK_PORT": "0",
            "PENSTOCK_METRICS_PORT": "0",
        }
        for number in range(WORKERS):
            command, log = [sys.executable, "-m", "services.fetcher"], folder / f"worker-{number}.log"
            stack.enter_context(running(command, settings, log))
        until = time.monotonic() + LONGEST_S
        while fetcher.database.execute(_LEFT).fetchone() != (0,):
            if time.monotonic() > until:
                raise SystemExit(f"jobs are left; see the logs in {folder}")
            time.sleep(LOOK_S)
        ((jobs, completed, run_twice, seconds, p50_s, p99_s),) = fetcher.database.execute(_ENDED).fetchall()
        by_worker = [done for (done,) in fetcher.database.execute(_BY_WORKER).fetchall()]
        return Measured(jobs, completed, run_twice, seconds, p50_s, p99_s, by_worker, len(origin.asked))


def main() -> None:
    """Measure, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000, help="how many are queued (default: 1,000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="penstock-fetch-jobs-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        seen = measure(options.jobs, folder)
    table = Table("what", "seen", title=f"{options.jobs:,} fetches by {WORKERS} workers of 3")
    rows = {
        "completed": f"{seen.completed:,} of {seen.jobs:,}",
        "begun more than once": f"{seen.run_twice:,}",
        "requests at the origin, two a job": f"{seen.requests:,}",
        "from the first claim to the last end": f"{seen.seconds:.1f} s, {seen.jobs / seen.seconds:.1f} jobs/s",
        "from claim to end, p50 and p99": f"{seen.p50_s * 1000:.0f} ms, {seen.p99_s * 1000:.0f} ms",
        "jobs of each worker": ", ".join(f"{count:,}" for count in seen.by_worker),
    }
    for what, value in rows.items():
        table.add_row(what, value)
    console.print(table)
    for what, value in surroundings().items():
        console.print(f"{what}: {value}")


if __name__ == "__main__":
    main()
