"""Runs whose workers are Jobs of Kubernetes, as the stand-in of `tests/kubernetes_api.py` has them."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from penstock.cli.embedded.ports import free_port
from services.common.errors import FailedPrecondition
from services.common.jobs import JobState
from services.trainer.executing.cluster_api import ClusterApi
from services.trainer.executing.kubernetes import KubernetesPlace, ServiceAccount, in_cluster_address
from services.trainer.executing.outside import Standing, Submission
from services.trainer.executing.resources import Resources
from services.trainer.faults import ExecutorUnavailable, TrainingFailed
from services.trainer.runs.models import ExecutorName
from services.trainer.task import Task
from tests.kubernetes_api import Cluster, cluster_api
from tests.outside_workers import SCRIPT, Elsewhere, elsewhere, wait_for
from tests.postgres import PostgresServer

KUBERNETES = ExecutorName.KUBERNETES


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_api(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_api(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture(scope="module")
def place(
    shared: Cluster, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Elsewhere]:
    port = free_port()
    settings: dict[str, Any] = {
        "port": port,
        "trainer_worker_address": f"127.0.0.1:{port}",
        "trainer_kubernetes_image": "registry.example/penstock-trainer:1",
        "trainer_kubernetes_address": shared.address,
        "trainer_kubernetes_credentials": shared.credentials(),
        "trainer_outside_environment": {"PENSTOCK_WORKER_THREADS": "1"},
    }
    folder = tmp_path_factory.mktemp("elsewhere")
    with elsewhere(postgres_server.clone("trainer"), folder, trains=False, **settings) as found:
        yield found


def place_of(cluster: Cluster, **more: Any) -> KubernetesPlace:
    account = ServiceAccount(cluster.credentials())
    api = ClusterApi(cluster.address, account.token, account.ca_file)
    return KubernetesPlace(api, account.namespace(), **{"image": "penstock", **more})


def submission(name: str = "penstock-run-1", **resources: Any) -> Submission:
    environment = {"PENSTOCK_RUN_TOKEN": "nobody's", "PENSTOCK_TRAINER_ADDRESS": "127.0.0.1:1"}
    environment |= {"PENSTOCK_WORKER_PATIENCE_MS": "1"}
    task = Task("0193", "iris", "script", {}, memory_limit_bytes=1024**3)
    return Submission(name, "nobody's", task, Resources(**resources), environment)


def names(cluster: Cluster, run_id: UUID) -> list[str]:
    return sorted(name for name in cluster.jobs if str(run_id) in name)


@pytest.mark.slow
def test_a_run_is_trained_as_a_job_and_its_token_is_in_a_secret_alone(place: Elsewhere, shared: Cluster) -> None:
    with place.trainer():
        run_id = place.start(KUBERNETES, code=SCRIPT)
        job = place.ended(run_id)
    told = place.told[run_id]
    assert job.state is JobState.COMPLETED, (job.error, bytes(told.log))
    assert [epoch.number for epoch in told.epochs] == [1, 2]
    assert told.artifact == {"model.onnx": b"a model"}
    (name,) = names(shared, run_id)
    secret = shared.secrets[name]["data"]["PENSTOCK_RUN_TOKEN"]
    assert secret not in json.dumps(shared.jobs)
    wait_for(lambda: shared.job(name)[1]["status"].get("conditions") is not None)
    assert shared.job(name)[1]["status"]["conditions"][-1]["type"] == "Complete"


@pytest.mark.slow
def test_a_job_goes_on_while_trainers_change_is_begun_anew_where_it_is_lost_and_deleted_at_a_cancel(
    place: Elsewhere, shared: Cluster
) -> None:
    with place.trainer():
        run_id = place.start(KUBERNETES, code=SCRIPT, hang=True)
        wait_for(lambda: bool(place.told[run_id].checkpoints))
    (first,) = names(shared, run_id)
    shared.broken = 1  # who comes next cannot ask how it stands, and follows it all the same
    with place.trainer():
        wait_for(lambda: shared.broken == 0)
        wait_for(lambda: place.jobs.get(run_id).state is JobState.RUNNING)
        assert names(shared, run_id) == [first]
        shared.processes[first].send_signal(signal.SIGKILL)
        wait_for(lambda: b"from a checkpoint" in place.told[run_id].log)
        assert place.jobs.get(run_id).attempt == 2
        assert first not in shared.jobs
        (second,) = names(shared, run_id)
        assert second == first.removesuffix("1") + "2"
        assert b'"event": "training"' in place.told[run_id].log  # of the first's pod
        place.jobs.cancel(run_id)
        assert place.ended(run_id).state is JobState.CANCELLED
    assert names(shared, run_id) == []
    assert second not in shared.secrets
    shared.processes[second].wait(60)


def test_a_job_asks_for_what_the_run_asks_for(cluster: Cluster) -> None:
    pod = {"nodeSelector": {"gpu": "a100"}, "containers": [{"name": "other"}], "restartPolicy": "Always"}
    place = place_of(cluster, service_account="trains", pod=pod)
    place.submit(submission(cpus=2.5, gpus=1.5, memory_bytes=2**31))
    place.submit(submission("penstock-run-2"))
    job = cluster.jobs["penstock-run-1"]
    found = job["spec"]["template"]["spec"]
    (container,) = found["containers"]
    assert (found["nodeSelector"], found["restartPolicy"], found["serviceAccountName"]) == (
        {"gpu": "a100"}, "Never", "trains"
    )  # fmt: skip
    assert found["automountServiceAccountToken"] is False
    assert container["resources"] == {
        "requests": {"cpu": "2.5", "memory": "2147483648"},
        "limits": {"memory": "2147483648", "nvidia.com/gpu": "2"},
    }
    (second,) = cluster.jobs["penstock-run-2"]["spec"]["template"]["spec"]["containers"]
    assert second["resources"]["limits"] == {"memory": str(1024**3 + 512 * 1024**2)}
    assert (job["spec"]["backoffLimit"], job["metadata"]["labels"]["penstock/run"]) == (0, "0193")


def test_the_same_submission_twice_is_one_also_where_answers_are_lost(cluster: Cluster) -> None:
    place = place_of(cluster)
    cluster.lost = 1
    with pytest.raises(ExecutorUnavailable, match="does not answer"):
        place.submit(submission())
    place.submit(submission())
    place.submit(submission())
    assert (list(cluster.jobs), list(cluster.secrets), len(cluster.processes)) == (
        ["penstock-run-1"], ["penstock-run-1"], 1
    )  # fmt: skip
    place.stop("penstock-run-1")
    place.stop("penstock-run-1")
    assert place.standing("penstock-run-1")[0] is Standing.UNKNOWN
    assert (cluster.jobs, cluster.secrets) == ({}, {})


def test_a_cluster_that_is_away_is_tried_again_and_one_that_refuses_fails_the_run(cluster: Cluster) -> None:
    place = place_of(cluster)
    cluster.broken = 2
    with pytest.raises(ExecutorUnavailable, match="the apiserver starts"):
        place.submit(submission())
    with pytest.raises(ExecutorUnavailable, match="503"):
        place.standing("penstock-run-1")
    with pytest.raises(TrainingFailed, match="exceeded quota"):
        place_of(cluster, image="forbidden").submit(submission())
    with pytest.raises(TrainingFailed, match="is invalid"):
        place.submit(submission("Not-A-Name"))
    cluster.credentials(token="another")  # read again with each call
    with pytest.raises(ExecutorUnavailable, match="Unauthorized"):
        place.standing("penstock-run-1")
    cluster.credentials()
    assert place.standing("penstock-run-1")[0] is Standing.UNKNOWN
    assert place.log_tail("penstock-run-1") == b""


def test_without_an_address_nothing_is_configured(
    postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres_server.url()
    for settings, reason in (
        ({"trainer_kubernetes_image": "penstock"}, "KUBERNETES_ADDRESS_REQUIRED"),
        ({"trainer_ray_address": "http://127.0.0.1:1"}, "WORKER_ADDRESS_REQUIRED"),
    ):
        given: dict[str, Any] = settings
        with pytest.raises(FailedPrecondition) as raised, elsewhere(url, tmp_path, trains=False, **given):
            pass
        assert raised.value.reason == reason
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    assert in_cluster_address() == "https://[fd00::1]:443"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    assert in_cluster_address() == "https://10.0.0.1:6443"
