"""The servers beside ours: the bare handler, MLServer, FastAPI; and ONNX Runtime without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from benchmarks.contenders.contender import Contender, GrpcDoor, JsonDoor
from benchmarks.contenders.environments import environment
from benchmarks.harness import running, wait_until
from benchmarks.load import Call
from benchmarks.workloads import Workload
from penstock.cli.embedded.ports import free_port

FOREIGN = Path(__file__).parent / "foreign"


@contextmanager
def bare(folder: Path, workload: Workload, name: str, *, threads: int) -> Iterator[Contender]:
    """Run one bare handler."""
    port = free_port()
    command = [*_bare(folder, workload), str(port), str(threads)]
    door = GrpcDoor(name, f"127.0.0.1:{port}", workload)
    with started(name, command, os.environ, folder / f"bare-{port}.log", door.ask) as contender:
        yield contender


@contextmanager
def bare_pair(folder: Path, workload: Workload, name: str, cores: Sequence[int]) -> Iterator[Contender]:
    """Run a bare handler on each core, all on one port."""
    port = free_port()
    door = GrpcDoor(name, f"127.0.0.1:{port}", workload)
    with ExitStack() as stack:
        began = time.monotonic()
        pids = [
            stack.enter_context(
                running(
                    [*_bare(folder, workload), str(port), "1", str(core)],
                    os.environ,
                    folder / f"bare-{port}-{core}.log",
                )
            )
            for core in cores
        ]
        wait_for_answer(name, door.ask)
        yield Contender(name, pids, door.ask, time.monotonic() - began, pins_itself=True)


def _bare(folder: Path, workload: Workload) -> list[str]:
    return [sys.executable, "-m", "benchmarks.contenders.bare", str(model_file(folder, workload))]


@contextmanager
def fastapi(folder: Path, workload: Workload, name: str, *, threads: int, workers: int) -> Iterator[Contender]:
    """Run uvicorn with so many workers."""
    port = free_port()
    settings = {
        **os.environ,
        "MODEL": str(model_file(folder, workload)),
        "MODEL_THREADS": str(threads),
        "PYTHONPATH": str(FOREIGN),
    }
    command = [str(environment("fastapi") / "uvicorn"), "fastapi_app:app", f"--port={port}", f"--workers={workers}"]
    command += ["--no-access-log", "--log-level=warning"]
    door = JsonDoor(name, f"http://127.0.0.1:{port}/predict", workload)
    with started(name, command, settings, folder / f"fastapi-{port}.log", door.ask) as contender:
        yield contender


@contextmanager
def mlserver(
    folder: Path, workload: Workload, name: str, *, threads: int, max_batch_size: int = 0
) -> Iterator[Contender]:
    """Run MLServer in one process, which is its fastest way on one core; with a batch size, its adaptive batching."""
    port, home = free_port(), folder / f"mlserver-{free_port()}"
    home.mkdir()
    server = {"debug": False, "parallel_workers": 0, "host": "127.0.0.1", "grpc_port": port}
    server |= {"http_port": free_port(), "metrics_port": free_port(), "metrics_endpoint": None}
    server |= {"grpc_max_message_length": 2**26}
    model: dict[str, object] = {"name": workload.name, "implementation": "mlserver_runtime.OnnxModel"}
    if max_batch_size:
        model |= {"max_batch_size": max_batch_size, "max_batch_time": 0.005}
    (home / "settings.json").write_text(json.dumps(server))
    (home / "model-settings.json").write_text(json.dumps(model))
    settings = {
        **os.environ,
        "MODEL": str(model_file(folder, workload)),
        "MODEL_THREADS": str(threads),
        "PYTHONPATH": str(FOREIGN),
    }
    door = GrpcDoor(name, f"127.0.0.1:{port}", workload)
    command = [str(environment("mlserver") / "mlserver"), "start", str(home)]
    with started(name, command, settings, home / "log", door.ask) as contender:
        yield contender


@contextmanager
def started(
    name: str, command: Sequence[str], settings: Mapping[str, str], log: Path, ask: Callable[[], Call]
) -> Iterator[Contender]:
    """Run a server, and time it to its first right answer."""
    began = time.monotonic()
    with running(command, settings, log) as pid:
        wait_for_answer(f"{name} (see {log})", ask)
        yield Contender(name, [pid], ask, time.monotonic() - began)


def wait_for_answer(name: str, ask: Callable[[], Call]) -> None:
    """Ask until there is an answer. A wrong one ends the run."""

    def answers() -> bool:
        try:
            ask()
        except OSError:  # nobody listens yet
            return False
        except Exception as error:  # grpc's errors have names of their own
            if type(error).__module__.startswith("grpc"):
                return False
            raise
        return True

    wait_until(answers, f"{name} gives no answer", interval_s=0.02)


def in_process(
    folder: Path, workload: Workload, cores: Sequence[int], threads: int, seconds: float
) -> dict[int, float]:
    """Measure ONNX Runtime alone on these cores: rows a second by batch size."""
    inputs = folder / f"{workload.name}.npz"
    if not inputs.exists():
        np.savez(inputs, allow_pickle=False, **workload.inputs)
    command = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, "-m", "benchmarks.contenders.in_process"]
    command += [str(model_file(folder, workload)), str(inputs), str(threads), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"ONNX Runtime in-process failed:\n{done.stderr}")
    return {int(size): rate for size, rate in json.loads(done.stdout).items()}


def model_file(folder: Path, workload: Workload) -> Path:
    """Give the model's file, which is written if it is not there."""
    file = folder / f"{workload.name}.onnx"
    if not file.exists():
        file.write_bytes(workload.onnx)
    return file
