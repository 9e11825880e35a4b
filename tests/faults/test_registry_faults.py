"""The registry when its process is killed, and when its database goes away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from psycopg import sql

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from services.common.postgres import Database
from services.registry import convert
from services.registry.__main__ import build
from services.registry.models import Framework, Lease, Stage
from services.registry.servicer import NAME
from services.registry.store import Store
from tests import registry
from tests.postgres import PostgresServer
from tests.testdata import models

pytestmark = pytest.mark.slow
READY, FAILED = pb.VERSION_STATE_READY, pb.VERSION_STATE_FAILED


@contextmanager
def running(database_url: str, folder: Path, **more: Any) -> Iterator[tuple[registry.RegistryProcess, Any]]:
    process = registry.RegistryProcess(database_url, folder, **more)
    try:
        with grpc.insecure_channel(process.address()) as channel:
            yield process, RegistryServiceStub(channel)
    finally:
        process.end(signal.SIGKILL)


@pytest.mark.parametrize(("crash_count", "state", "reason"), [(1, READY, ""), (3, FAILED, "VALIDATOR_CRASHED")])
def test_a_validation_whose_registry_is_killed_is_taken_over_by_another(
    clone_database: Callable[[str], str], tmp_path: Path, crash_count: int, state: int, reason: str
) -> None:
    """And one that has ended three registries is not tried a fourth time."""
    database_url = clone_database("registry")
    with psycopg.connect(database_url, autocommit=True) as database:
        with running(database_url, tmp_path, validation_lease_ms=500) as (process, stub):
            stub.RegisterVersion(registry.upload(models.linear()), timeout=registry.DEADLINE_S)
            with database.transaction():
                # While this lock is held, no validation can conclude.
                database.execute("SELECT 1 FROM registry.models FOR UPDATE")
                claimed = "SELECT attempt FROM registry.validations WHERE attempt > 0"
                registry.wait_until(lambda: database.execute(claimed).fetchone())
                assert process.end(signal.SIGKILL) == -signal.SIGKILL
        assert database.execute("SELECT state FROM registry.versions").fetchall() == [("VALIDATING",)]
        database.execute("UPDATE registry.validations SET crash_count = %s", [crash_count])
        with running(database_url, tmp_path) as (_, stub):
            taken_over = registry.settled(stub, "iris", "1")
    assert (taken_over.state, taken_over.failure_reason) == (state, reason)


def test_killed_in_mid_validation_its_copy_of_the_model_goes_with_the_next_start(
    clone_database: Callable[[str], str], tmp_path: Path
) -> None:
    copies, database_url = tmp_path / "copies", clone_database("registry")
    with running(database_url, tmp_path, validation_dir=copies) as (process, stub):
        stub.RegisterVersion(registry.upload(models.unending()), timeout=registry.DEADLINE_S)
        threads = Path(f"/proc/{process.process.pid}/task")
        registry.wait_until(lambda: "".join(path.read_text() for path in threads.glob("*/children")) or None)
        (held,) = copies.glob("*/files/model.onnx")
        assert held.parents[1].stat().st_mode & 0o777 == 0o700, "nobody else comes to it"
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
    with running(database_url, tmp_path, validation_dir=copies):
        assert not held.exists()


def test_killed_between_the_bytes_and_the_rows_it_leaves_no_row_and_the_upload_can_be_sent_again(
    clone_database: Callable[[str], str], tmp_path: Path
) -> None:
    database_url = clone_database("registry")
    with running(database_url, tmp_path) as (process, stub), registry.models_locked(database_url) as wait_for:
        cut = stub.RegisterVersion.future(registry.upload(models.linear()), timeout=registry.DEADLINE_S)
        wait_for(1)
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
    assert cut.exception() is not None
    stored = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    assert len(stored) == 1  # whole, and of nobody: collecting it is for later
    with running(database_url, tmp_path) as (_, stub):
        assert not stub.ListModels(pb.ListModelsRequest()).models
        assert registry.register(stub, models.linear()).state == READY
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == stored


def test_sigterm_ends_the_process_in_order_and_gives_its_validation_back(
    clone_database: Callable[[str], str], tmp_path: Path
) -> None:
    database_url = clone_database("registry")
    with psycopg.connect(database_url, autocommit=True) as database:
        with running(database_url, tmp_path, validation_lease_ms=600_000) as (process, stub):
            stub.RegisterVersion(registry.upload(models.unending()), timeout=registry.DEADLINE_S)
            held = "SELECT crash_count, lease_expire_time <= clock_timestamp() FROM registry.validations"
            registry.wait_until(lambda: (database.execute(held).fetchone() == (1, False)) or None)
            assert process.end(signal.SIGTERM) == 0, process.log.read_text()
        assert database.execute(held).fetchone() == (0, True)


def test_who_lost_a_lease_can_neither_finish_nor_lengthen_nor_give_back(clone_database: Callable[[str], str]) -> None:
    with Database(clone_database("registry")) as database:
        store = Store(database)
        with store.write() as tables:
            tables.models.insert("iris")
            model = tables.models.get("iris")
            new, _ = convert.upload(registry.upload(b"model"))
            version_id = tables.versions.insert(
                model,
                new,
                deployment_number=1,
                parent_deployment_number=0,
                stage=Stage.DEVELOPMENT,
                created_by="ada",
                files=(),
            )
            tables.validations.insert(version_id)

        def claim(lease_s: float) -> Lease | None:
            with store.write() as tables:
                return tables.validations.claim(lease_s, tuple(Framework))

        lost, held = claim(0.0), claim(60.0)
        assert lost is not None
        assert held is not None
        assert (lost.attempt, held.attempt, held.crash_count) == (1, 2, 2)
        assert claim(60.0) is None
        with store.write() as tables:
            tables.validations.renew([lost], 0.0)
            tables.validations.postpone(lost, 0.0)
            assert not tables.validations.finish(lost)
        assert claim(60.0) is None
        with store.write() as tables:
            assert tables.validations.finish(held)
            assert not tables.validations.finish(held)


def test_a_blob_store_that_is_away_fails_no_version_and_its_validation_waits(
    clone_database: Callable[[str], str], tmp_path: Path
) -> None:
    blobs, away = tmp_path / "blobs", tmp_path / "away"
    database_url = clone_database("registry")
    with (
        registry.registry(registry.settings_for(database_url, tmp_path)) as stub,
        psycopg.connect(database_url, autocommit=True) as database,
    ):
        assert registry.register(stub, models.garbage()).failure_reason == "NOT_ONNX"
        blobs.rename(away)
        stub.RevalidateVersion(pb.RevalidateVersionRequest(model="iris", version="1"))
        postponed = "SELECT attempt, crash_count FROM registry.validations WHERE attempt > 0 AND crash_count = 0"
        registry.wait_until(lambda: database.execute(postponed).fetchone())
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.DownloadFile(pb.DownloadFileRequest(model="iris", version="1")))
        assert registry.refusal(refused.value)[0] == grpc.StatusCode.UNAVAILABLE
        away.rename(blobs)
        assert registry.settled(stub, "iris", "1").failure_reason == "NOT_ONNX"


def test_postgresql_stopped_and_started_again_under_load(own_postgres_server: PostgresServer, tmp_path: Path) -> None:
    database_url = own_postgres_server.clone("registry")
    with psycopg.connect(database_url, autocommit=True) as database:
        # The server of the tests forgets the last moments of a crash for speed; here nothing answered may be lost.
        name = sql.Identifier(database_url.rpartition("/")[2])
        database.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = on").format(name))
    with ExitStack() as stack:
        server = build(registry.settings_for(database_url, tmp_path, health_interval_ms=100), stack)
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.open()}"))
        stack.callback(server.close)
        stub, health = RegistryServiceStub(channel), health_pb2_grpc.HealthStub(channel)
        registry.register(stub, models.linear())
        load = Load(stub)
        load.start()
        load.wait_for_successes()

        own_postgres_server.stop()
        watch_health(health, health_pb2.HealthCheckResponse.NOT_SERVING)
        registry.wait_until(lambda: load.refusals or None)
        own_postgres_server.start()
        watch_health(health, health_pb2.HealthCheckResponse.SERVING)

        load.wait_for_successes()
        load.stop()
        assert set(load.refusals) == {(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")}
        moves = stub.ListTransitions(pb.ListTransitionsRequest(model="iris", page_size=1_000)).transitions
        assert load.promoted_times <= {move.promoted_time.ToNanoseconds() for move in moves}
        assert registry.register(stub, models.linear(), version="2").state == READY


def watch_health(health: health_pb2_grpc.HealthStub, status: int) -> None:
    request = health_pb2.HealthCheckRequest(service=NAME)
    registry.wait_until(lambda: (health.Check(request, timeout=registry.DEADLINE_S).status == status) or None)


class Load:
    """Two callers who move a version back and forth and read it, and keep what they were told."""

    def __init__(self, stub: RegistryServiceStub) -> None:
        self._stub = stub
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._move), threading.Thread(target=self._read)]
        self.successes = 0
        self.refusals: list[tuple[grpc.StatusCode, str]] = []
        self.promoted_times: set[int] = set()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def wait_for_successes(self) -> None:
        enough = self.successes + 20
        registry.wait_until(lambda: (self.successes >= enough) or None)

    def _move(self) -> None:
        stage = pb.STAGE_DEVELOPMENT
        while not self._stopping.is_set():
            try:
                # A move that was cut off may have happened all the same, so each begins with a look.
                found = self._stub.GetVersion(pb.GetVersionRequest(model="iris", version="1"), timeout=60).version
                stage = pb.STAGE_CANDIDATE if found.stage == pb.STAGE_DEVELOPMENT else pb.STAGE_DEVELOPMENT
                moved = registry.promote(self._stub, "1", stage)
                self.promoted_times.add(moved.promoted_time.ToNanoseconds())
                self.successes += 1
            except grpc.RpcError as error:
                self.refusals.append(registry.refusal(error)[:2])

    def _read(self) -> None:
        while not self._stopping.is_set():
            try:
                self._stub.ListVersions(pb.ListVersionsRequest(model="iris"), timeout=60)
            except grpc.RpcError as error:
                self.refusals.append(registry.refusal(error)[:2])
