"""The registry over gRPC, on a real PostgreSQL and a real blob store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from tests import registry
from tests.testdata import models


@pytest.fixture
def stub(clone_database: Callable[[str], str], tmp_path: Path) -> Iterator[RegistryServiceStub]:
    """A registry of this test's own."""
    with registry.registry(registry.settings_for(clone_database("registry"), tmp_path)) as opened:
        yield opened


def test_a_model_goes_from_upload_to_production_and_back_to_the_client(stub: RegistryServiceStub) -> None:
    content = models.linear()
    version = registry.register(stub, content)
    assert version.state == pb.VERSION_STATE_READY, version.failure_message
    assert (version.deployment_number, version.created_by) == (1, "anonymous")
    assert [spec.name for spec in version.signature.inputs] == ["x"]
    assert version.validation.rows_independent

    registry.go_live(stub, "1")
    live = stub.ResolveVersion(pb.ResolveVersionRequest(model="iris")).version
    assert (live.version, live.stage, live.promoted_by) == ("1", pb.STAGE_PRODUCTION, "anonymous")

    first, *chunks = stub.DownloadFile(pb.DownloadFileRequest(model="iris", version="1"))
    assert first.file == version.files[0]
    assert b"".join(part.chunk for part in chunks) == content


def test_a_watcher_gets_a_snapshot_and_then_each_change(stub: RegistryServiceStub) -> None:
    registry.register(stub, models.linear())
    watch = stub.WatchModels(pb.WatchModelsRequest(), timeout=registry.DEADLINE_S)
    snapshot = next(watch)
    assert snapshot.snapshot.complete
    assert [version.version for version in snapshot.snapshot.versions] == ["1"]
    registry.promote(stub, "1")
    change = next(watch)
    assert change.revision == snapshot.revision + 1
    assert [version.stage for version in change.change.versions] == [pb.STAGE_CANDIDATE]
    watch.cancel()
