"""A real Ray, of one machine, in the environment that `.ci/ray` makes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.embedded.ports import free_port
from tests.registry import wait_until

RAY = Path(__file__).resolve().parents[1] / ".tools" / "ray" / "bin" / "ray"
LACKING = "Ray is not here: `.ci/ray` brings it"
START_S = 200.0
"""A quarter of a minute where nothing else goes on."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}


@dataclass(frozen=True)
class Ray:
    """A cluster that runs."""

    address: str
    log: Path

    def jobs(self) -> dict[str, str]:
        """Give the status of each job by its submission's name."""
        return {job["submission_id"]: job["status"] for job in self.ask("/api/jobs/")}

    def ask(self, path: str) -> Any:
        """Ask its dashboard."""
        with urllib.request.urlopen(self.address + path, timeout=60) as answer:
            return json.load(answer)


@contextmanager
def ray_cluster() -> Iterator[Ray]:
    """Run one, and end all that it has started."""
    if not RAY.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(LACKING)
        pytest.skip(LACKING)
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # names of sockets must be short
    port = free_port()
    command = [
        str(RAY), "start", "--head", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1", "--num-cpus=4",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={port}", f"--port={free_port()}",
        f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}",
        "--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=80000000", f"--temp-dir={folder}/t",
    ]  # fmt: skip
    ray = Ray(f"http://127.0.0.1:{port}", folder / "log")
    with ray.log.open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **QUIET}, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: _answers(ray, process), START_S)
        yield ray
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(ray: Ray, process: subprocess.Popen[bytes]) -> bool | None:
    assert process.poll() is None, ray.log.read_text()
    with suppress(urllib.error.URLError, OSError):
        return bool(ray.ask("/api/version")) or None
    return None
