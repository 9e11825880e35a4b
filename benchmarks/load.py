"""Load from h2load, which is not Python and costs a few µs a request where a Python client costs hundreds.

h2load knows HTTP and no gRPC: it sees the HTTP status, 200 even for a failed RPC, and no `grpc-status`. So the caller
says how many bytes a right answer has, and every answer must have brought them; a failed RPC brings none.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TIMEOUT_S = 300.0
DATA_BYTES = re.compile(r"\((\d+)\) data$", re.MULTILINE)
SUCCEEDED = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout$", re.MULTILINE)
GRPC_HEADERS = {"content-type": "application/grpc", "te": "trailers"}
GRPC_PREFIX = struct.Struct(">BI")
"""What stands before each message: not compressed, its length."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request as h2load repeats it. `answer_bytes`: the size of a right answer's body."""

    url: str
    body: bytes
    headers: Mapping[str, str]
    answer_bytes: int
    http1: bool = False

    @classmethod
    def grpc(cls, url: str, message: bytes, metadata: Mapping[str, str], response_bytes: int) -> Call:
        """Describe a unary RPC; `response_bytes` is the size of a right answer's message."""
        body = GRPC_PREFIX.pack(0, len(message)) + message
        return cls(url, body, {**GRPC_HEADERS, **metadata}, GRPC_PREFIX.size + response_bytes)

    @classmethod
    def json(cls, url: str, body: bytes, answer_bytes: int) -> Call:
        """Describe a POST of JSON over HTTP/1.1."""
        return cls(url, body, {"content-type": "application/json"}, answer_bytes, http1=True)


@dataclass(frozen=True, slots=True)
class Window:
    """What one measured stretch of load gave."""

    requests: int
    rate: float
    """Requests a second, from the first one's start to the last one's end."""
    p50_us: float
    p99_us: float


def require_h2load() -> None:
    """End with a sentence where h2load is missing."""
    if shutil.which("h2load") is None:
        raise SystemExit(
            "h2load, the load generator, is not installed: `apt-get install nghttp2-client` on Debian and Ubuntu, "
            "`dnf install nghttp2` on Fedora, `brew install nghttp2` on macOS"
        )


def send(call: Call, *, requests: int, concurrency: int, in_flight: int = 1, rate: float | None = None) -> Window:
    """Send `requests`, from `concurrency` connections with `in_flight` each; at a `rate` in all, or as fast as may be.

    Ends the run with a sentence if any answer is missing or is not as long as a right one.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-load-") as name:
        body, log = Path(name, "request.bin"), Path(name, "requests.tsv")
        body.write_bytes(call.body)
        command = ["h2load", f"-n{requests}", f"-c{concurrency}", f"-m{in_flight}", "-t1"]
        command += [f"-d{body}", f"--log-file={log}"]
        command += ["--h1"] if call.http1 else []
        command += [f"--rps={rate / concurrency:g}"] if rate else []
        command += [f"-H{header}: {value}" for header, value in call.headers.items()]
        command.append(call.url)
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        _check(done, requests, call.answer_bytes)
        return _window(log)


def _check(done: subprocess.CompletedProcess[str], requests: int, answer_bytes: int) -> None:
    counts, data = SUCCEEDED.search(done.stdout), DATA_BYTES.search(done.stdout)
    if done.returncode or counts is None or data is None:
        raise SystemExit(f"h2load failed ({done.returncode}):\n{done.stdout}{done.stderr}")
    if [int(count) for count in counts.groups()] != [requests, 0, 0, 0]:
        raise SystemExit(f"not every request was answered:\n{done.stdout}")
    if int(data[1]) != requests * answer_bytes:
        raise SystemExit(f"{data[1]} bytes were answered where {requests * answer_bytes} are right: some calls failed")


def _window(log: Path) -> Window:
    """Read h2load's log: a line a request, start in µs since the epoch, HTTP status, duration in µs."""
    starts, _, durations = np.loadtxt(log, dtype=np.int64, ndmin=2).T
    seconds = float((starts + durations).max() - starts.min()) / 1e6
    p50_us, p99_us = (float(value) for value in np.percentile(durations, [50, 99]))
    return Window(len(starts), len(starts) / seconds, p50_us, p99_us)
