"""Who gathers rows, or reads a file of them, hears its end: by a deletion, a caller that leaves, a shutdown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import psycopg
import pytest

from penstock.api.trainer.v1 import datasets_pb2 as pb
from penstock.api.trainer.v1.datasets_pb2_grpc import DatasetServiceStub
from services.trainer.datasets.rows import reader
from tests.datasets import shelf
from tests.integration.test_dataset_builds import recorded
from tests.monitoring import Monitoring, serve
from tests.postgres import PostgresServer
from tests.services import running_registry
from tests.serving import wait_until

pytestmark = pytest.mark.slow
HANGS = "tests.testdata.children.hangs"


@pytest.fixture(scope="module")
def monitoring(postgres_server: PostgresServer) -> Iterator[Monitoring]:
    with serve(postgres_server.clone("monitoring")) as service:
        yield service


@pytest.fixture(scope="module")
def registry_address(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_registry(postgres_server.clone("registry"), tmp_path_factory.mktemp("registry")) as registry:
        yield registry.address


@pytest.fixture
def reads_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read by a process that never ends."""
    monkeypatch.setattr(reader, "_CHILD", HANGS)


def readers() -> list[psutil.Process]:
    """The processes that read files of rows for this one."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if HANGS in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.usefixtures("reads_for_ever")
@pytest.mark.parametrize("how", ["deleted", "shut down"])
def test_the_reader_of_a_build_ends_with_it(
    postgres_server: PostgresServer, monitoring: Monitoring, registry_address: str, tmp_path: Path, how: str
) -> None:
    recorded(monitoring, "read", 3, labelled=3)
    url = postgres_server.clone("trainer")
    others: dict[str, Any] = {"monitoring_address": monitoring.address, "registry_address": registry_address}
    with shelf(url, tmp_path, **others) as here:
        here.client.datasets.from_traffic("read", "read", window="1h")
        wait_until(lambda: bool(readers()))
        if how == "deleted":
            here.client.datasets.delete("read", 1, force=True)
            wait_until(lambda: here.rows("SELECT state FROM trainer.dataset_builds") == [("CANCELLED",)])
    assert readers() == []
    assert left_in(tmp_path) == []
    if how == "shut down":
        assert builds(url) == [("QUEUED", 0)], "the next trainer gathers them"


def test_a_build_that_waits_for_monitoring_ends_with_its_trainer(
    postgres_server: PostgresServer, monitoring: Monitoring, tmp_path: Path
) -> None:
    recorded(monitoring, "waits", 3, labelled=3)
    url = postgres_server.clone("trainer")
    waiting = "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'monitoring.inferences'::regclass AND NOT granted"
    with psycopg.connect(monitoring.database_url) as locking:
        locking.execute("LOCK TABLE monitoring.inferences IN ACCESS EXCLUSIVE MODE")
        with shelf(url, tmp_path, monitoring_address=monitoring.address) as here:
            here.client.datasets.from_traffic("waits", "waits", window="1h")
            wait_until(lambda: locking.execute(waiting).fetchone() == (True,))
        assert (builds(url), left_in(tmp_path)) == ([("QUEUED", 0)], [])
        assert locking.execute(waiting).fetchone() == (True,), "it did not wait for the answer"


@pytest.mark.usefixtures("reads_for_ever")
def test_the_reader_of_an_upload_ends_when_its_caller_leaves(postgres_server: PostgresServer, tmp_path: Path) -> None:
    header = pb.UploadDatasetHeader(name="left", format=pb.DATASET_FORMAT_CSV)
    sent = [pb.UploadDatasetRequest(header=header), pb.UploadDatasetRequest(chunk=b"width,label\n1,2\n")]
    with (
        shelf(postgres_server.clone("trainer"), tmp_path) as here,
        grpc.insecure_channel(here.address) as channel,
    ):
        call = DatasetServiceStub(channel).UploadDataset.future(iter(sent))
        wait_until(lambda: bool(readers()))
        call.cancel()
        wait_until(lambda: not readers())
        wait_until(lambda: not left_in(tmp_path))
        assert list(here.client.datasets.list("left")) == []


def left_in(folder: Path) -> list[Path]:
    """What whoever gathered rows left behind."""
    return list(folder.glob("penstock-dataset-*"))


def builds(url: str) -> list[tuple[str, int]]:
    """How far builds have come, and in how many attempts that count."""
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT state, attempt FROM trainer.dataset_builds").fetchall()
