"""kill -9 of the trainer while a dataset is sent to it: no version is left, and sent again it is the first."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import psycopg
import pytest
from psycopg import sql

from penstock.api.trainer.v1 import datasets_pb2 as pb
from penstock.api.trainer.v1.datasets_pb2_grpc import DatasetServiceStub
from penstock.ids import uuid7
from tests.faults.test_training_crashes import WAITING, TrainerProcess, working
from tests.postgres import PostgresServer
from tests.serving import wait_until
from tests.training import TrainingPlace, training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
CSV = b"width,label\n" + b"".join(b"%d,%d\n" % (number, number % 2) for number in range(20_000))
CALL_TIMEOUT_S = 120

# Whoever is about to take the step waits for a lock that the test has: so it is killed right there.
HOLD = """
CREATE OR REPLACE FUNCTION trainer.held_dataset() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(4711);
    RETURN NEW;
END $$;
CREATE TRIGGER held_dataset BEFORE {step} FOR EACH ROW EXECUTE FUNCTION trainer.held_dataset();
"""
STEPS = {
    "finishing": ("dataset_versions", "UPDATE OF ready_time ON trainer.dataset_versions"),
}


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingPlace]:
    """All services but a trainer that works: those are processes, which a test kills."""
    folder = tmp_path_factory.mktemp("trainer")
    with training(postgres_server, folder, trainer_worker_enabled=False, poll_interval_ms=200) as place:
        yield place


@contextmanager
def held(place: TrainingPlace, step: str) -> Iterator[Callable[[], None]]:
    """Hold whoever is about to take a step, for the block; gives what waits for one."""
    table, when = STEPS[step]
    with psycopg.connect(place.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL(HOLD.replace("{step}", when)))
        connection.execute("SELECT pg_advisory_lock(4711)")
        try:
            yield lambda: wait_until(lambda: connection.execute(WAITING).fetchone() == (1,), timeout_s=120)
        finally:
            connection.execute("SELECT pg_advisory_unlock(4711)")
            connection.execute(sql.SQL("DROP TRIGGER held_dataset ON trainer.{}").format(sql.Identifier(table)))


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
    with held(place, "finishing") as until_held, ThreadPoolExecutor(1) as thread:
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
