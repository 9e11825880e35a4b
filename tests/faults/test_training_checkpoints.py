"""kill -9 at each step of replacing a checkpoint: one is there to go on from, and nothing else is left in the end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from psycopg.types.json import Jsonb

from penstock.ids import uuid7
from services.common.blobs import open_blobs
from services.common.jobs import Concurrency, JobRun, JobStore, NewJob
from services.common.postgres import Database
from services.trainer.runs.folders import CHECKPOINT, Folders
from services.trainer.store import PassingBlobs, RunFiles
from tests.faults.checkpoint_keeper import LEASE_S, POINTS
from tests.outside_workers import LONG_S, ROOT, files_of
from tests.postgres import PostgresServer

pytestmark = pytest.mark.slow
KEPT = {
    "before it is known": b"first",
    "once its bytes are there": b"first",
    "before the change is kept": b"first",
    "before the old bytes go": b"second",
    "once the old bytes are gone": b"second",
}


@pytest.fixture(scope="module")
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.clone("trainer")
    yield url
    postgres_server.drop(url)


@pytest.mark.parametrize("point", POINTS)
def test_a_run_whose_trainer_is_killed_replacing_a_checkpoint_goes_on_from_one(
    database_url: str, tmp_path: Path, point: str
) -> None:
    blob_url, folder = f"file://{tmp_path}/blobs", tmp_path / "checkpoint"
    folder.mkdir()
    with Database(database_url, pool_size=4) as database:
        jobs = JobStore(database, "trainer", "training_runs")
        payload = {"model": "iris", "type": "INITIAL", "recipe": "script", "parameters": Jsonb({})}
        run_id = jobs.create(NewJob(UUID(uuid7()), "ada", payload)).job_id
        keeper = subprocess.run(
            [sys.executable, "-m", "tests.faults.checkpoint_keeper", database_url, blob_url, str(folder), point],
            cwd=ROOT, timeout=LONG_S, check=False,
        )  # fmt: skip
        assert keeper.returncode == -signal.SIGKILL
        with database.transaction() as connection:
            ago = "UPDATE trainer.training_runs SET lease_expire_time = now() - interval '1 s' WHERE job_id = %s"
            connection.execute(ago, [run_id])
        assert jobs.sweep() == 1
        claimed = jobs.claim("rescue", LEASE_S, Concurrency())
        assert claimed is not None
        run, blobs, files = JobRun(jobs, *claimed, LEASE_S), open_blobs(blob_url, prefix="trainer"), RunFiles(database)
        folders = Folders(PassingBlobs(database, blobs), 10_000)
        files.expire(0)
        files.ledger.collect(blobs, 0)
        restored = tmp_path / "restored"
        restored.mkdir()
        assert folders.restore(run, CHECKPOINT, restored)
        assert files_of(restored) == {"state": KEPT[point]}
        (folder / "state").write_text("third")
        folders.keep(run, CHECKPOINT, folder)
        assert len(list(blobs.list())) <= 2, "the newest, and at most what was on its way"
        with run.holding() as connection:
            jobs.complete(connection, run.lease, {})
        files.expire(0)
        files.ledger.collect(blobs, 0)
        assert list(blobs.list()) == []
        with database.transaction() as connection:
            assert connection.execute("SELECT FROM trainer.blobs").fetchall() == []
            assert connection.execute("SELECT FROM trainer.named_blobs").fetchall() == []
