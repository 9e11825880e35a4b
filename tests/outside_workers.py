"""Runs that are trained elsewhere: the service that workers speak to, and a trainer that follows them, here."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any
from uuid import UUID

import pytest
from psycopg.types.json import Jsonb
from pydantic import SecretStr

import penstock
from penstock import errors
from penstock.api.trainer.v1 import worker_pb2 as pb
from penstock.ids import uuid7
from services.common.blobs import open_blobs
from services.common.jobs import Backoff, Job, JobRun, JobState, JobStore, JobWorkers, NewJob, WorkerLimits
from services.common.keys import KeyRing
from services.common.metrics import MetricsServer
from services.common.postgres import Database
from services.common.server import Server
from services.trainer.parts import Parts
from services.trainer.runs.models import ExecutorName
from services.trainer.settings import TrainerSettings
from services.trainer.task import CheckpointWritten, Epoch, Event, Log, Outcome, RunFolder, Task
from services.trainer.workers.assembly import Outside, open_outside
from tests.postgres import LOCK_TIMEOUT_MS
from tests.registry import wait_until

ROOT = Path(__file__).resolve().parents[1]
LONG_S = 60.0
ONNX = pb.TrainingOutcome(framework="ONNX", label_column="label", test_metrics={"accuracy": 0.75})
INPUTS = {"data/train.parquet": b"rows to learn from", "parent/model.onnx": b"a parent", "checkpoint/state": b"one"}

SCRIPT = dedent(
    """
    import time
    from services.trainer.task import Column, Outcome, Part

    def train(context):
        begun = context.checkpoint / "begun"
        print("from a checkpoint" if begun.exists() else "from nothing", flush=True)
        for number in (1, 2):
            context.report(number, {"loss": 1 / number}, total=2)
        begun.write_text("yes")
        context.save_checkpoint(2)
        while context.parameters.get("hang"):
            time.sleep(0.05)
        if context.parameters.get("sour"):
            raise ValueError("these rows taste bad")
        (context.artifact / "model.onnx").write_bytes(b"a model")
        return Outcome("ONNX", features=[Column("x", "FP32")], metrics={Part.TEST: {"accuracy": 0.5}})
    """
)


@dataclass
class Told:
    """What a run told its trainer, and what it left there."""

    epochs: list[Epoch] = field(default_factory=list)
    log: bytearray = field(default_factory=bytearray)
    checkpoints: list[tuple[int, dict[str, bytes]]] = field(default_factory=list)
    outcome: Outcome | None = None
    artifact: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Elsewhere:
    """All of it. `told`: by run."""

    address: str
    jobs: JobStore
    database: Database
    outside: Outside
    client: penstock.Client
    folder: Path
    told: dict[UUID, Told] = field(default_factory=dict)
    inputs: Mapping[str, bytes] = field(default_factory=lambda: INPUTS)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, executor: ExecutorName = ExecutorName.REMOTE, **more: Any) -> UUID:
        """Have a run of a script wait for its turn."""
        run_id = UUID(uuid7())
        self.told[run_id] = Told()
        payload = {
            "model": "iris", "type": "INITIAL", "executor": executor.value, "recipe": "script",
            "parameters": Jsonb(more),
        }  # fmt: skip
        self.jobs.create(NewJob(run_id, "ada", payload, max_attempts=3))
        return run_id

    def claimed(self, *labels: str) -> pb.ClaimTrainingTaskResponse:
        """Ask for a run until one is given."""

        def ask() -> pb.ClaimTrainingTaskResponse | None:
            answer = self.client.training_worker.claim("worker", labels)
            return answer if answer.run_token else None

        return wait_until(ask)

    def begun(self, **more: Any) -> tuple[UUID, str]:
        """Have a run whose worker is the test; gives its token, too."""
        run_id = self.start(**more)
        claimed = self.claimed()
        assert claimed.task.run_id == str(run_id)
        return run_id, claimed.run_token

    def ended(self, run_id: UUID) -> Job:
        """Wait until a run has ended."""

        def look() -> Job | None:
            job = self.jobs.get(run_id)
            return job if job.ended else None

        return wait_until(look)

    def work(self, run: JobRun) -> Mapping[str, Any]:
        """Do a run as the trainer does, as far as outside workers go."""
        told, payload = self.told[run.job.job_id], run.job.payload
        with tempfile.TemporaryDirectory(dir=self.folder) as path:
            folder = RunFolder(Path(path))
            folder.make()
            kept = {
                f"checkpoint/{name}": content for _, files in told.checkpoints[-1:] for name, content in files.items()
            }
            for name, content in {**self.inputs, **kept}.items():
                (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
                (folder.path / name).write_bytes(content)
            parameters = dict(payload["parameters"])
            resources = parameters.pop("resources", {})
            task = Task(str(run.job.job_id), "iris", "script", parameters, attempt=run.job.attempt, resources=resources)

            def tell(event: Event) -> None:
                match event:
                    case Epoch():
                        told.epochs.append(event)
                    case Log():
                        told.log += event.chunk
                    case CheckpointWritten():
                        told.checkpoints.append((event.epoch, files_of(folder.checkpoint)))

            executor = self.outside.executors[ExecutorName(payload["executor"])]
            told.outcome = executor.execute(task, folder, tell, run)
            told.artifact = files_of(folder.artifact)
        return {}

    @contextmanager
    def trainer(self, *, lease_s: float = LONG_S, slots: int = 4) -> Iterator[JobWorkers]:
        """Run another trainer's workers on the same database."""
        limits = WorkerLimits(slots=slots, lease_s=lease_s, poll_s=0.2, backoff=Backoff(base_s=0.01))
        workers = JobWorkers(self.jobs, self.work, limits)
        workers.open()
        try:
            yield workers
        finally:
            workers.close(LONG_S)

    def fall_silent(self, run_id: UUID) -> None:
        """Have nothing been heard of a run's worker for an hour."""
        with self.database.transaction() as connection:
            ago = "UPDATE trainer.outside_tasks SET heard_time = now() - interval '1 hour' WHERE run_id = %s"
            connection.execute(ago, [run_id])

    def worker(self, **settings: str) -> subprocess.Popen[bytes]:
        """Start a worker's process."""
        variables = {"PENSTOCK_TRAINER_ADDRESS": self.address, "PENSTOCK_WORKER_POLL_MS": "50", **settings}
        log = self.folder / f"worker-{uuid7()}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.trainer.worker"],
                cwd=ROOT, env={**os.environ, **variables}, stdout=out, stderr=out,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def end_workers(self) -> None:
        """Kill the processes that a test left behind."""
        for process in self.processes:
            process.kill()
            process.wait(LONG_S)

    def logs(self) -> str:
        """Give what workers' processes said, for a test that failed."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("worker-*.log")))


def files_of(folder: Path) -> dict[str, bytes]:
    """Read a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hand_in(client: penstock.Client, token: str, folder: Path, files: Mapping[str, bytes], **more: Any) -> int:
    """Upload some bytes as files."""
    paths = {}
    for name, content in files.items():
        paths[name] = folder / uuid7()
        paths[name].write_bytes(content)
    return client.training_worker.upload(token, more.pop("kind", "ARTIFACT"), paths, **more)


def finish(place: Elsewhere, token: str, folder: Path) -> None:
    """Hand in a model, and be done."""
    hand_in(place.client, token, folder, {"model.onnx": b"a model"})
    place.client.training_worker.complete(token, ONNX)


def refused(reason: str, kind: type[errors.PenstockError] = errors.PermissionDenied) -> pytest.RaisesExc:
    """Expect a refusal."""
    return pytest.raises(kind, check=lambda error: error.reason == reason)


@contextmanager
def elsewhere(
    database_url: str, folder: Path, *, trains: bool = True, keys: Path | None = None, **settings: Any
) -> Iterator[Elsewhere]:
    """Serve, and, where it `trains`, follow runs."""
    with ExitStack() as stack:
        read = TrainerSettings(
            metrics_port=0, database_url=SecretStr(database_url), blob_url=f"file://{folder}/blobs",
            database_lock_timeout_ms=LOCK_TIMEOUT_MS, keys_file=keys, **{"port": 0, **settings},
        )  # fmt: skip
        database = stack.enter_context(Database.from_settings(read, name="test-trainer"))
        blobs = open_blobs(read.blob_url, prefix="trainer")
        stack.callback(blobs.close)
        metrics = MetricsServer(read.host, 0)
        parts = Parts(read, database, blobs, no_client, metrics.registry, stack, folder)
        outside = open_outside(parts)

        def ended(connection: Any, job: Job) -> None:
            outside.ended(connection, job.job_id)

        jobs = JobStore(database, "trainer", "training_runs", on_end=ended)
        ring = KeyRing(keys)
        ring.open()
        server = Server(read, outside.services, keys=ring, metrics=metrics)
        address = f"127.0.0.1:{server.open()}"
        stack.callback(server.close)
        client = stack.enter_context(penstock.Client(trainer=address, token="" if keys is None else "operator"))
        place = Elsewhere(address, jobs, database, outside, client, folder)
        stack.callback(place.end_workers)
        if trains:
            stack.enter_context(place.trainer())
        yield place


def no_client() -> penstock.Client:
    """Stand where no other service is asked."""
    raise AssertionError("nobody else is asked")


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    wait_until(lambda: condition() or None)


def in_background(do: Callable[[], object]) -> threading.Thread:
    """Do something on a thread of its own."""
    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    return thread


def state_of(place: Elsewhere, run_id: UUID) -> JobState:
    """Say how far a run has come."""
    return place.jobs.get(run_id).state
