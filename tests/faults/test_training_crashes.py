"""kill -9 of the trainer at each step of a run: whoever comes next goes on, and one version comes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import psycopg
import pytest
from psycopg import sql

from penstock.api.trainer.v1 import training_pb2 as pb
from penstock.cli.embedded.ports import free_port
from tests.integration.test_training_runs import wines
from tests.postgres import PostgresServer
from tests.serving import wait_until
from tests.training import TrainingPlace, training

pytestmark = pytest.mark.slow
SKLEARN: dict[str, Any] = {
    "recipe": "sklearn", "parameters": {"estimator": "LogisticRegression"}, "data_source": "wines",
}  # fmt: skip
COUNTS = """
def train(context):
    kept = context.checkpoint / "epoch"
    first = int(kept.read_text()) + 1 if kept.exists() else 1
    print("begins with", first)
    for epoch in range(first, 5):
        context.report(epoch, {"loss": 1.0 / epoch}, total=4)
        kept.write_text(str(epoch))
        context.save_checkpoint(epoch)
        if first == 1 and epoch == 2:
            time.sleep(600)
    raise ValueError("done")
"""


# A run that says what it is at waits for a lock that the test has: so it is killed where it begins with that.
HOLD = """
CREATE OR REPLACE FUNCTION trainer.held() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF starts_with(NEW.message, {point}) AND OLD.message <> NEW.message THEN
        PERFORM pg_advisory_xact_lock(4711);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER held BEFORE UPDATE ON trainer.training_runs FOR EACH ROW EXECUTE FUNCTION trainer.held();
"""
WAITING = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingPlace]:
    """All services but a trainer that works: those are processes, which a test kills."""
    folder = tmp_path_factory.mktemp("trainer")
    with training(postgres_server, folder, trainer_worker_enabled=False, trainer_scripts_enabled=True) as place:
        place.client.datasets.upload("wines", wines(folder))
        yield place


class TrainerProcess:
    """A trainer in a process of its own, on the place's database."""

    def __init__(self, place: TrainingPlace) -> None:
        settings = place.settings
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        said = {
            "database_url": place.database_url, "blob_url": settings.blob_url, "port": port, "metrics_port": 0,
            "registry_address": settings.registry_address, "inference_address": settings.inference_address,
            "monitoring_address": settings.monitoring_address, "trainer_lease_ms": 3_000, "poll_interval_ms": 200,
            "trainer_work_folder": settings.trainer_work_folder, "trainer_scripts_enabled": "true",
        }  # fmt: skip
        environment = {**os.environ, **{f"PENSTOCK_{name.upper()}": str(value) for name, value in said.items()}}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.trainer"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def children(self) -> list[psutil.Process]:
        """Its recipes' processes."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """End it as a power cut would; what it started ends with it."""
        children = self.children()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)
        wait_until(lambda: not any(_runs(child) for child in children))


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def working(place: TrainingPlace) -> Iterator[TrainerProcess]:
    """Have a trainer work for the block."""
    trainer = TrainerProcess(place)
    try:
        yield trainer
    finally:
        trainer.kill()


@contextmanager
def held(place: TrainingPlace, point: str) -> Iterator[Callable[[], None]]:
    """Hold every run that is about to say that it is at something, for the block; gives what waits for one."""
    with psycopg.connect(place.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL(HOLD).format(point=sql.Literal(point)))
        connection.execute("SELECT pg_advisory_lock(4711)")
        try:
            yield lambda: wait_until(lambda: connection.execute(WAITING).fetchone() == (1,), timeout_s=120)
        finally:
            connection.execute("SELECT pg_advisory_unlock(4711)")
            connection.execute("DROP TRIGGER held ON trainer.training_runs")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "point", ["gathering rows", "training", "registering", "making a reference profile", "validating version"]
)
def test_a_run_whose_trainer_is_killed_makes_one_version_all_the_same(place: TrainingPlace, point: str) -> None:
    model = f"killed-at-{point.replace(' ', '-')}"
    with held(place, point) as until_held, working(place):
        run = place.client.training.create_run(model, **SKLEARN)
        until_held()
    assert place.client.training.get_run(run.id).state in (
        pb.TRAINING_RUN_STATE_RUNNING,
        pb.TRAINING_RUN_STATE_VALIDATING,
    )
    with working(place):
        ended = place.client.training.wait_run(run.id)
    assert ended.state == pb.TRAINING_RUN_STATE_COMPLETED, ended.message
    assert (ended.attempt, ended.validation_passed) == (2, True)
    (version,) = place.client.registry.list_versions(model)
    assert (version.version, version.training_run_id) == (ended.new_version, run.id)
    assert len(list(place.client.registry.evaluations(model, version.version))) == 1
    assert [each.id for each in place.client.monitoring.profiles.list(model=model)] == [ended.profile_id]


def test_a_run_that_waits_when_the_trainer_dies_is_done_by_the_next(place: TrainingPlace) -> None:
    with working(place):
        pass
    run = place.client.training.create_run("waited", **SKLEARN)
    with working(place):
        assert place.client.training.wait_run(run.id).attempt == 1


@pytest.mark.timeout(300)
def test_a_rescued_run_goes_on_from_its_last_checkpoint(place: TrainingPlace) -> None:
    client = place.client.training
    run = client.create_run("resumed", recipe="script", parameters={"code": COUNTS})
    kept = "SELECT FROM trainer.named_blobs WHERE owner_id = %s AND name = 'checkpoint'"
    with working(place):
        wait_until(lambda: bool(place.rows(kept, run.id)) and client.get_run(run.id).done_epochs == 2)
    with working(place):
        ended = client.wait_run(run.id)
        folder = place.settings.trainer_work_folder
        assert folder is not None
        assert len(list(folder.glob("penstock-trainer-*"))) == 2, (
            "the place's own and this one's; the killed one's went"
        )
    assert (ended.attempt, ended.done_epochs) == (2, 4), ended.message
    assert "done" in ended.message
    told = {epoch.number: epoch.attempt for epoch in client.epochs(run.id)}
    assert told == {1: 1, 2: 1, 3: 2, 4: 2} or told == {1: 1, 2: 2, 3: 2, 4: 2}, "at most the last is told again"
    log = b"".join(piece.chunk for piece in client.log(run.id)).decode()
    assert "begins with 1" in log
    assert "begins with 2" in log or "begins with 3" in log


@pytest.mark.timeout(300)
def test_a_recipe_whose_process_crashes_fails_its_run_and_nothing_else(place: TrainingPlace) -> None:
    run = place.client.training.create_run("struck", recipe="script", parameters={"code": COUNTS})
    with working(place) as trainer:
        wait_until(lambda: place.client.training.get_run(run.id).done_epochs == 2)
        for child in trainer.children():
            child.send_signal(signal.SIGSEGV)
        ended = place.client.training.wait_run(run.id)
        assert (ended.state, ended.reason) == (pb.TRAINING_RUN_STATE_FAILED, "TRAINING_FAILED")
        assert trainer.process.poll() is None, "the trainer itself lives on"
