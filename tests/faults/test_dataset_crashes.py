"""kill -9 of the trainer while it makes a version of a dataset: a build goes on to one, an upload leaves none."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from penstock.api.trainer.v1 import datasets_pb2 as pb
from penstock.api.trainer.v1.datasets_pb2_grpc import DatasetServiceStub
from penstock.ids import uuid7
from tests.faults.test_training_crashes import TrainerProcess, working
from tests.holding import held
from tests.integration.test_dataset_builds import recorded
from tests.monitoring import connect
from tests.postgres import PostgresServer
from tests.serving import wait_until
from tests.training import TrainingPlace, training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
CSV = b"width,label\n" + b"".join(b"%d,%d\n" % (number, number % 2) for number in range(20_000))
CALL_TIMEOUT_S = 120
ROWS = 5
NOW = datetime.now(UTC)
FINISHING = "UPDATE OF ready_time ON trainer.dataset_versions"
STEPS = {"keeping": "INSERT ON trainer.blobs", "finishing": FINISHING}


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingPlace]:
    """All services but a trainer that works: those are processes, which a test kills."""
    folder = tmp_path_factory.mktemp("trainer")
    with training(postgres_server, folder, trainer_worker_enabled=False, poll_interval_ms=200) as place:
        yield place


@pytest.mark.parametrize(
    ("source", "step"), [("traffic", "keeping"), ("traffic", "finishing"), ("features", "keeping")]
)
def test_a_build_whose_trainer_is_killed_makes_one_version_all_the_same(
    place: TrainingPlace, source: str, step: str
) -> None:
    name, datasets = f"{source}-{step}", place.client.datasets
    begin = _of_traffic if source == "traffic" else _of_features
    begins = begin(place, name)
    with held(place.database_url, STEPS[step]) as until_held, working(place):
        made = begins()
        until_held()
    assert datasets.get(name, made.version).state == pb.DATASET_STATE_BUILDING
    with place.replica(trainer_worker_enabled=True):
        assert datasets.wait(name, made.version).row_count == ROWS
    assert [(each.version, each.state) for each in datasets.list(name)] == [(1, pb.DATASET_STATE_READY)]
    rows = list(datasets.preview(name))
    assert len(rows) == ROWS
    assert source == "traffic" or [row["visits.count"] for row in rows] == list(range(ROWS))
    attempts = """
        SELECT attempt, builds.state FROM trainer.dataset_builds builds JOIN trainer.dataset_versions USING (version_id)
        WHERE name = %s
    """
    assert place.rows(attempts, name) == [(2, "COMPLETED")]


def _of_traffic(place: TrainingPlace, name: str) -> Callable[[], pb.Dataset]:
    """Record traffic; gives what begins a build of it."""
    with connect("", int(place.addresses["monitoring"].rpartition(":")[2])) as monitoring:
        recorded(monitoring, name, ROWS, labelled=ROWS)
    return lambda: place.client.datasets.from_traffic(name, name, window="1h")


def _of_features(place: TrainingPlace, name: str) -> Callable[[], pb.Dataset]:
    """Write features of users, and upload rows about them; gives what begins a build of both."""
    users, early = [f"user-{number}" for number in range(ROWS)], NOW - timedelta(days=1)
    client, rows, folder = place.client, f"{name}-rows", place.settings.trainer_work_folder
    assert folder is not None
    if "visits" not in {view.name for view in client.features.list_views()}:
        client.features.create_view("visits", entity="user", features={"count": "INT64"})
        times = [early] * ROWS
        client.features.load("visits", users, {"count": list(range(ROWS))}, event_times=times, create_times=times)
    path = folder / f"{rows}.csv"
    path.write_text("user,at,label\n" + "".join(f"{user},{NOW.isoformat()},0\n" for user in users))
    client.datasets.upload(rows, path)
    return lambda: client.datasets.from_features(name, rows, ["visits"], key_column="user", time_column="at")


@pytest.mark.parametrize("step", ["receiving", "finishing"])
def test_an_upload_whose_trainer_is_killed_leaves_no_version(place: TrainingPlace, step: str) -> None:
    name = f"sent-{step}"
    header = pb.UploadDatasetHeader(name=name, format=pb.DATASET_FORMAT_CSV, request_id=uuid7())
    with working(place) as trainer:
        kill = _killed_while_receiving if step == "receiving" else _killed_while_finishing
        kill(place, trainer, header)
    assert list(place.client.datasets.list(name)) == []
    assert place.rows("SELECT FROM trainer.dataset_versions WHERE name = %s", name) == []
    again = _upload(place.addresses["trainer"], header, iter([CSV]))
    assert (again.dataset.version, again.dataset.row_count, again.existed) == (1, 20_000, False)


def _killed_while_receiving(place: TrainingPlace, trainer: TrainerProcess, header: pb.UploadDatasetHeader) -> None:
    folder = place.settings.trainer_work_folder
    assert folder is not None

    def chunks() -> Iterator[bytes]:
        yield CSV[: len(CSV) // 2]
        wait_until(lambda: _received_bytes(folder) > 0, timeout_s=CALL_TIMEOUT_S)
        trainer.kill()

    with pytest.raises(grpc.RpcError):
        _upload(trainer.address, header, chunks())
    assert trainer.process.wait(60) == -signal.SIGKILL


def _killed_while_finishing(place: TrainingPlace, trainer: TrainerProcess, header: pb.UploadDatasetHeader) -> None:
    with held(place.database_url, FINISHING) as until_held, ThreadPoolExecutor(1) as thread:
        call = thread.submit(_upload, trainer.address, header, iter([CSV]))
        until_held()
        trainer.kill()
        with pytest.raises(grpc.RpcError):
            call.result(CALL_TIMEOUT_S)


def _received_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("penstock-dataset-*/sent"))


def _upload(address: str, header: pb.UploadDatasetHeader, chunks: Iterator[bytes]) -> pb.UploadDatasetResponse:
    def requests() -> Iterator[pb.UploadDatasetRequest]:
        yield pb.UploadDatasetRequest(header=header)
        for chunk in chunks:
            yield pb.UploadDatasetRequest(chunk=chunk)

    with grpc.insecure_channel(address) as channel:
        upload = DatasetServiceStub(channel).UploadDataset
        return upload(requests(), timeout=CALL_TIMEOUT_S, wait_for_ready=True)
