"""kill -9 of the trainer while a run is trained elsewhere: its worker goes on with the same token, and is followed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.api.trainer.v1 import training_pb2 as pb
from penstock.api.trainer.v1 import worker_pb2
from penstock.cli.embedded.ports import free_port
from tests.integration.test_training_runs import wines
from tests.outside_workers import LONG_S
from tests.postgres import PostgresServer
from tests.registry import wait_until
from tests.training import TrainingPlace, training

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingPlace]:
    """All services; the trainer takes requests and hears workers, and those that follow runs are processes."""
    folder = tmp_path_factory.mktemp("trainer")
    with training(postgres_server, folder, trainer_worker_enabled=False) as place:
        place.client.datasets.upload("wines", wines(folder))
        yield place


@contextmanager
def follower(place: TrainingPlace) -> Iterator[subprocess.Popen[bytes]]:
    """Run a trainer in a process of its own, and kill it in the end."""
    settings = place.settings
    said = {
        "database_url": place.database_url, "blob_url": settings.blob_url, "port": free_port(), "metrics_port": 0,
        "registry_address": settings.registry_address, "inference_address": settings.inference_address,
        "monitoring_address": settings.monitoring_address, "trainer_lease_ms": 3_000, "poll_interval_ms": 200,
    }  # fmt: skip
    environment = {**os.environ, **{f"PENSTOCK_{name.upper()}": str(value) for name, value in said.items()}}
    process = subprocess.Popen(
        [sys.executable, "-m", "services.trainer"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(LONG_S)


def test_a_worker_outlives_the_trainer_that_followed_it(place: TrainingPlace) -> None:
    created = place.client.training.create_run(
        "wines",
        recipe="sklearn",
        parameters={"estimator": "LogisticRegression", "resources": {"labels": ["scikit-learn"]}},
        data_source="wines",
        executor="REMOTE",
    )
    with follower(place):

        def ask() -> worker_pb2.ClaimTrainingTaskResponse | None:
            claimed = place.client.training_worker.claim("elsewhere", ["scikit-learn"])
            return claimed if claimed.run_token else None

        claimed = wait_until(ask, 150.0)  # a trainer starts first, beside whatever else goes on
        assert claimed.task.run_id == created.id
        assert [file.path for file in claimed.task.inputs] == [
            "data/test.parquet", "data/train.parquet", "data/validation.parquet"
        ]  # fmt: skip
    variables = {"PENSTOCK_TRAINER_ADDRESS": place.addresses["trainer"], "PENSTOCK_RUN_TOKEN": claimed.run_token}
    worker = subprocess.run(
        [sys.executable, "-m", "services.trainer.worker"],
        env={**os.environ, **variables}, capture_output=True, timeout=240, check=False,
    )  # fmt: skip
    assert worker.returncode == 0, worker.stderr.decode()
    with follower(place):
        run = place.client.training.wait_run(created.id)
    detail = place.rows("SELECT error_detail FROM trainer.training_runs")
    assert run.state == pb.TRAINING_RUN_STATE_COMPLETED, (run.message, detail)
    assert (run.attempt, run.executor, run.new_version) == (2, pb.TRAINING_EXECUTOR_REMOTE, "1.0.0")
    assert run.validation_passed
    assert run.test_metrics["accuracy"] > 0.7
    version = place.client.registry.get_version("wines", "1.0.0")
    assert (version.stage, version.training_run_id) == (registry.STAGE_CANDIDATE, created.id)
