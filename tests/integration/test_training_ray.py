"""Runs whose workers are jobs of a real Ray: they train, are followed, stopped, and begun anew where they are lost."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest

from penstock.api.trainer.v1 import training_pb2 as pb
from penstock.cli.embedded.ports import free_port
from services.common.jobs import JobState
from services.trainer.executing.cluster_api import ClusterApi
from services.trainer.executing.outside import Standing, Submission
from services.trainer.executing.ray import RayPlace
from services.trainer.executing.resources import Resources
from services.trainer.faults import ExecutorUnavailable, TrainingFailed
from services.trainer.runs.models import ExecutorName
from services.trainer.task import Task
from tests.outside_workers import SCRIPT, Elsewhere, elsewhere, wait_for
from tests.postgres import PostgresServer
from tests.ray_cluster import Ray, ray_cluster
from tests.training import training

pytestmark = pytest.mark.slow
RAY = ExecutorName.RAY


@pytest.fixture(scope="module")
def ray() -> Iterator[Ray]:
    with ray_cluster() as found:
        yield found


@pytest.fixture(scope="module")
def place(ray: Ray, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    port = free_port()
    settings = {"port": port, "trainer_worker_address": f"127.0.0.1:{port}", **settings_of(ray)}
    folder = tmp_path_factory.mktemp("elsewhere")
    with elsewhere(postgres_server.clone("trainer"), folder, trains=False, **settings) as found:
        yield found


def settings_of(ray: Ray) -> dict[str, Any]:
    """Have a trainer submit to it."""
    return {
        "trainer_ray_address": ray.address,
        "trainer_ray_entrypoint": f"{sys.executable} -m services.trainer.worker",
    }


def submissions(ray: Ray, run_id: UUID) -> list[str]:
    return sorted(name for name in ray.jobs() if str(run_id) in name)


def workers(place: Elsewhere) -> list[psutil.Process]:
    """Find the workers' processes that speak to this trainer."""
    found = []
    for process in psutil.process_iter():
        try:
            if "services.trainer.worker" in process.cmdline() and place.address in process.environ().values():
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_run_is_trained_as_a_job_of_ray(place: Elsewhere, ray: Ray) -> None:
    with place.trainer():
        run_id = place.start(RAY, code=SCRIPT, resources={"cpus": 0.5})
        job = place.ended(run_id)
    told = place.told[run_id]
    assert job.state is JobState.COMPLETED, (job.error, bytes(told.log))
    assert [epoch.number for epoch in told.epochs] == [1, 2]
    assert b"from nothing" in told.log
    assert told.artifact == {"model.onnx": b"a model"}
    (name,) = submissions(ray, run_id)
    wait_for(lambda: ray.jobs()[name] == "SUCCEEDED")


def test_what_a_job_of_ray_made_is_registered_judged_and_served(
    ray: Ray, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    with training(postgres_server, tmp_path, **settings_of(ray)) as all_services:
        all_services.upload_flowers(tmp_path)
        run = all_services.train(
            "flowers", recipe="sklearn", data_source="flowers", executor="ray",
            parameters={"estimator": "LogisticRegression", "resources": {"cpus": 0.5}},
        )  # fmt: skip
        assert run.state == pb.TRAINING_RUN_STATE_COMPLETED, (run.reason, run.message)
        assert run.executor == pb.TRAINING_EXECUTOR_RAY
        assert run.validation_passed, run.shortfalls
        version = all_services.client.registry.get_version("flowers", run.new_version)
        assert version.training_run_id == run.id
        (evaluation,) = all_services.client.registry.evaluations("flowers", run.new_version)
        assert (evaluation.id, evaluation.passed) == (run.evaluation_id, True)
        row = dict.fromkeys(run.feature_columns, 0.0)
        assert all_services.client.inference.predict("flowers", row, version=run.new_version).outputs["label"].size == 1
    assert len(submissions(ray, UUID(run.id))) == 1


def test_a_job_goes_on_while_trainers_change_and_is_begun_anew_only_where_its_worker_is_lost(
    place: Elsewhere, ray: Ray
) -> None:
    with place.trainer():
        run_id = place.start(RAY, code=SCRIPT, hang=True)
        wait_for(lambda: bool(place.told[run_id].checkpoints))
    assert len(workers(place)) == 1
    with place.trainer():
        wait_for(lambda: place.jobs.get(run_id).state is JobState.RUNNING)
        assert len(submissions(ray, run_id)) == 1
        (worker,) = workers(place)
        worker.send_signal(signal.SIGKILL)
        wait_for(lambda: b"from a checkpoint" in place.told[run_id].log)
        assert len(submissions(ray, run_id)) == 2
        assert place.jobs.get(run_id).attempt == 2
        assert b"Running entrypoint for job" in place.told[run_id].log  # of the first, as Ray kept it
        place.jobs.cancel(run_id)
        assert place.ended(run_id).state is JobState.CANCELLED
    wait_for(lambda: not workers(place))
    wait_for(lambda: ray.jobs()[submissions(ray, run_id)[-1]] in ("STOPPED", "SUCCEEDED"))


def submission(name: str) -> Submission:
    task = Task("run", "iris", "script", {})
    return Submission(name, "a-token", task, Resources(cpus=0.5), {"PENSTOCK_RUN_TOKEN": "a-token"})


def test_the_same_submission_twice_is_one_and_what_ray_refuses_fails(ray: Ray) -> None:
    api = ClusterApi(ray.address, lambda: "")
    sleeps = RayPlace(api, "sleep 600")
    assert sleeps.standing("penstock-none-1")[0] is Standing.UNKNOWN
    sleeps.stop("penstock-none-1")
    assert sleeps.log_tail("penstock-none-1") == b""
    for _ in range(2):
        sleeps.submit(submission("penstock-twice-1"))
    assert sleeps.standing("penstock-twice-1")[0] is Standing.GOING
    sleeps.stop("penstock-twice-1")
    wait_for(lambda: sleeps.standing("penstock-twice-1")[0] is Standing.ENDED)
    assert sleeps.standing("penstock-twice-1")[1] == "Ray says STOPPED"
    refused = RayPlace(api, 5)  # type: ignore[arg-type] # as no configuration of ours can have it
    with pytest.raises(TrainingFailed, match="Ray does not take the run: 400") as raised:
        refused.submit(submission("penstock-refused-1"))
    assert "a-token" not in str(raised.value)


def test_a_ray_that_does_not_answer_is_tried_again_later() -> None:
    with pytest.raises(ExecutorUnavailable, match="does not answer"):
        RayPlace(ClusterApi("http://127.0.0.1:1", lambda: ""), "sleep 600").submit(submission("penstock-none-1"))
