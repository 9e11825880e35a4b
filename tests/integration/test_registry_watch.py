"""Following every version: nothing is missed, whatever happens to the stream."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from prometheus_client import CollectorRegistry

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from penstock.api.tensors.v1 import tensors_pb2
from services.common.blobs import FileBlobStore
from services.common.postgres import Database
from services.registry.garbage import Garbage
from services.registry.housekeeping import Housekeeping
from services.registry.metrics import RegistryMetrics
from services.registry.store import Store
from tests import registry
from tests.testdata import models


@pytest.fixture
def database_url(clone_database: Callable[[str], str]) -> str:
    return clone_database("registry")


@pytest.fixture
def stub(database_url: str, tmp_path: Path) -> Iterator[RegistryServiceStub]:
    settings = registry.settings_for(database_url, tmp_path, watch_bookmark_ms=100)
    with registry.registry(settings) as opened:
        yield opened


def watch(stub: RegistryServiceStub, after: int = 0) -> Any:
    return stub.WatchModels(pb.WatchModelsRequest(after_revision=after), timeout=registry.DEADLINE_S)


def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    code, reason, _ = registry.refusal(caught.value)
    return code, reason


class Replica:
    """What a watcher holds, and how far it has come."""

    def __init__(self) -> None:
        self.revision = 0
        self.versions: dict[tuple[str, str], pb.ModelVersion] = {}

    def take(self, message: pb.WatchModelsResponse) -> None:
        """Take a message in; it must lead forward, and leave at most one version of each model live."""
        event = message.WhichOneof("event")
        assert message.revision > self.revision if event == "change" else message.revision >= self.revision
        self.revision = message.revision
        for version in (*message.snapshot.versions, *message.change.versions):
            self.versions[version.model, version.version] = version
        live = [version.model for version in self.versions.values() if version.stage == pb.STAGE_PRODUCTION]
        assert len(live) == len(set(live)), "two versions of one model live at once"


def listed(stub: RegistryServiceStub) -> dict[tuple[str, str], pb.ModelVersion]:
    return {
        (version.model, version.version): version
        for model in stub.ListModels(pb.ListModelsRequest()).models
        for version in stub.ListVersions(pb.ListVersionsRequest(model=model.name)).versions
    }


def test_an_empty_registry_gives_an_empty_snapshot_and_signs_of_life(stub: RegistryServiceStub) -> None:
    call = watch(stub)
    first, second = next(call), next(call)
    assert first.snapshot.complete
    assert (first.revision, list(first.snapshot.versions)) == (0, [])
    assert second.WhichOneof("event") == "bookmark"
    call.cancel()


def test_a_snapshot_of_wide_versions_comes_in_messages_that_any_client_takes(stub: RegistryServiceStub) -> None:
    """A client of gRPC takes 4 MiB unless told otherwise."""
    columns = [f"{number:0150}" for number in range(6_000)]
    signature = tensors_pb2.Signature(inputs=[tensors_pb2.TensorSpec(columns=columns)])
    for version in "12345":
        registry.register(stub, models.linear(width=6_000), version=version, declared_signature=signature)
    parts = []
    for message in watch(stub):
        parts.append(message)
        if message.snapshot.complete:
            break
    assert [[version.version for version in part.snapshot.versions] for part in parts] == [["1", "2", "3"], ["4", "5"]]
    assert len({part.revision for part in parts}) == 1


def test_a_promotion_and_what_it_replaces_come_in_one_message(stub: RegistryServiceStub) -> None:
    for version in ("1", "2"):
        registry.register(stub, models.linear(), version=version)
    registry.go_live(stub, "1")
    registry.promote(stub, "2")
    registry.promote(stub, "2")
    revision = next(watch(stub)).revision
    registry.promote(stub, "2")
    change = next(watch(stub, revision))
    assert [(version.version, version.stage) for version in change.change.versions] == [
        ("1", pb.STAGE_ARCHIVED),
        ("2", pb.STAGE_PRODUCTION),
    ]
    assert change.revision == revision + 1 == change.change.versions[0].revision


@pytest.mark.slow
def test_a_watcher_that_keeps_coming_back_misses_nothing_while_many_write(stub: RegistryServiceStub) -> None:
    names = ["a", "b"]
    for model in names:
        for version in ("1", "2"):
            registry.register(stub, models.linear(), model=model, version=version)
    stopping = threading.Event()

    def write(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(40):
            model, version, stage = chance.choice(names), chance.choice("12"), chance.randint(0, 5)
            try:
                registry.promote(stub, version, pb.Stage.ValueType(stage), model)
            except grpc.RpcError as error:
                refusals.add(registry.refusal(error)[1])

    refusals: set[str] = set()
    replica = Replica()
    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for writer in writers:
        writer.start()

    def finish() -> None:
        for writer in writers:
            writer.join()
        stopping.set()

    finisher = threading.Thread(target=finish)
    finisher.start()
    chance = random.Random(7)
    connections = 0
    while not stopping.is_set() or replica.revision < watch_end(stub):
        connections += 1
        call = watch(stub, replica.revision)
        for _ in range(chance.randint(1, 3)):
            replica.take(next(call))
        call.cancel()
    finisher.join()
    assert connections > 5
    assert refusals <= {"STAGE_MOVE_FORBIDDEN", "CONCURRENT_PROMOTION"}
    assert replica.versions == listed(stub)


def watch_end(stub: RegistryServiceStub) -> int:
    """The newest revision."""
    call = watch(stub)
    revision: int = next(call).revision
    call.cancel()
    return revision


def test_a_forgotten_revision_and_one_of_another_database_are_out_of_range(
    clone_database: Callable[[str], str], tmp_path: Path
) -> None:
    settings = registry.settings_for(
        clone_database("registry"), tmp_path, kept_revisions=1, housekeeping_interval_ms=100
    )
    with registry.registry(settings) as stub:
        registry.register(stub, models.linear())
        registry.promote(stub, "1")
        newest = watch_end(stub)

        def compacted() -> tuple[grpc.StatusCode, str] | None:
            try:
                next(watch(stub, 1))
            except grpc.RpcError as error:
                return registry.refusal(error)[:2]
            return None

        assert registry.wait_until(compacted) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_COMPACTED")
        assert refused(watch(stub, newest + 1)) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_UNKNOWN")
        assert refused(watch(stub, -1))[0] == grpc.StatusCode.INVALID_ARGUMENT
        assert next(watch(stub, newest - 1)).revision == newest


def test_a_watcher_that_leaves_frees_its_thread(clone_database: Callable[[str], str], tmp_path: Path) -> None:
    settings = registry.settings_for(clone_database("registry"), tmp_path, max_streams=1)
    with registry.registry(settings) as stub:
        first = watch(stub)
        next(first)
        assert refused(watch(stub))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        first.cancel()

        def admitted() -> bool | None:
            try:
                call = watch(stub)
                next(call)
                call.cancel()
            except grpc.RpcError:
                return None
            return True

        assert registry.wait_until(admitted)


def test_a_draining_server_ends_its_watches(clone_database: Callable[[str], str], tmp_path: Path) -> None:
    with registry.registry(registry.settings_for(clone_database("registry"), tmp_path)) as stub:
        call = watch(stub)
        next(call)
        pool = ThreadPoolExecutor(1)
        outcome = pool.submit(refused, call)
    assert outcome.result()[0] == grpc.StatusCode.UNAVAILABLE
    pool.shutdown()


def test_housekeeping_that_waits_keeps_nobody_from_writing(
    stub: RegistryServiceStub, database_url: str, tmp_path: Path
) -> None:
    registry.register(stub, models.linear())
    metrics = RegistryMetrics(CollectorRegistry())
    with Database(database_url) as database, psycopg.connect(database_url) as holder:
        store = Store(database)
        garbage = Garbage(store, FileBlobStore(tmp_path), grace_s=60, metrics=metrics.garbage)
        housekeeping = Housekeeping(
            store, garbage, kept_revisions=0, interval_s=60, garbage_interval_s=60, versions=metrics.versions
        )
        holder.execute("LOCK TABLE registry.requests IN SHARE MODE")
        with ThreadPoolExecutor(1) as pool:
            tidying = pool.submit(housekeeping.tidy)
            registry.wait_for_locks(database_url, 1)
            registry.promote(stub, "1")
            assert not tidying.done()
            holder.rollback()
            tidying.result()


def test_a_revision_is_given_only_in_the_order_of_commits(stub: RegistryServiceStub, database_url: str) -> None:
    """A transaction that has its revision and has not committed holds back every later one."""
    registry.register(stub, models.linear())
    before = watch_end(stub)
    with psycopg.connect(database_url) as slow:
        slow.execute("UPDATE registry.revisions SET revision = revision + 1")
        late = stub.PromoteVersion.future(pb.PromoteVersionRequest(model="iris", version="1"))
        registry.wait_for_locks(database_url, 1)
        assert watch_end(stub) == before
        slow.commit()
    assert late.result().version.revision == before + 2


def test_after_a_restore_every_watcher_begins_anew(
    stub: RegistryServiceStub, database_url: str, tmp_path: Path
) -> None:
    registry.register(stub, models.linear())
    first = next(watch(stub))
    resumed = pb.WatchModelsRequest(after_revision=first.revision, epoch=first.epoch)
    call = stub.WatchModels(resumed, timeout=registry.DEADLINE_S)
    assert next(call).epoch == first.epoch != ""

    done = subprocess.run(
        [sys.executable, "-m", "services.registry", "restored"],
        env={**os.environ, "PENSTOCK_DATABASE_URL": database_url, "PENSTOCK_BLOB_URL": f"file://{tmp_path}/blobs"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    changed = (grpc.StatusCode.OUT_OF_RANGE, "EPOCH_CHANGED")
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert registry.refusal(caught.value)[:2] == changed
    assert refused(stub.WatchModels(resumed)) == changed
    # One that knows of no epochs finds its revision forgotten.
    assert refused(watch(stub, first.revision)) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_COMPACTED")
    anew = next(watch(stub))
    assert anew.epoch not in ("", first.epoch)
    assert [version.version for version in anew.snapshot.versions] == ["1"]
    registry.promote(stub, "1")
    after = pb.WatchModelsRequest(after_revision=anew.revision, epoch=anew.epoch)
    assert next(stub.WatchModels(after)).revision == anew.revision + 1
