"""Deleting models and versions, and bringing them back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psycopg
import pytest

from penstock.api.registry.v1 import administration_pb2
from penstock.api.registry.v1 import registry_pb2 as pb
from tests import quick_registry, registry
from tests.quick_registry import BAD, Registry, delete, reason_of, restore, unique

NOT_FOUND, FAILED_PRECONDITION = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION
VERSION_EXISTS = (grpc.StatusCode.ALREADY_EXISTS, "VERSION_EXISTS")


@pytest.fixture
def database_url(clone_database: Callable[[str], str]) -> str:
    return clone_database("registry")


@pytest.fixture
def here(database_url: str, tmp_path: Path) -> Iterator[Registry]:
    with quick_registry.running(registry.settings_for(database_url, tmp_path)) as opened:
        yield opened


def versions(here: Registry, *, show_deleted: bool = False) -> list[str]:
    request = pb.ListVersionsRequest(model="iris", show_deleted=show_deleted)
    return [version.version for version in here.models.ListVersions(request).versions]


def model(here: Registry) -> pb.Model:
    return here.models.GetModel(pb.GetModelRequest(name="iris")).model


def resolved(here: Registry, selector: str = "") -> str:
    return here.models.ResolveVersion(pb.ResolveVersionRequest(model="iris", selector=selector)).version.version


def actions(here: Registry) -> list[tuple[str, str]]:
    entries = here.administration.ListAuditEntries(administration_pb2.ListAuditEntriesRequest(model="iris")).entries
    return [(entry.action, entry.version) for entry in reversed(entries)]


def test_a_deleted_version_is_nowhere_but_in_the_logs(here: Registry) -> None:
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        quick_registry.register(here, version)
    registry.go_live(here.models, "3.0.0")
    registry.go_live(here.models, "1.0.0")
    here.models.SetAlias(pb.SetAliasRequest(model="iris", alias="blue", version="3.0.0"))

    gone = delete(here, "3.0.0")
    assert gone.HasField("delete_time")
    assert gone.purge_time.seconds - gone.delete_time.seconds == 7 * 24 * 3600
    assert (gone.deleted_by, list(gone.aliases)) == ("anonymous", [])

    get = pb.GetVersionRequest(model="iris", version="3.0.0")
    with pytest.raises(grpc.RpcError) as caught:
        here.models.GetVersion(get)
    assert registry.refusal(caught.value)[:2] == (NOT_FOUND, "VERSION_NOT_FOUND")
    told = str(caught.value.details())
    assert "it was deleted, and RestoreVersion brings it back until" in told
    assert gone.purge_time.ToDatetime().isoformat()[:16] in told
    promote = pb.PromoteVersionRequest(model="iris", version="3.0.0", **registry.APPROVED)
    alias = pb.SetAliasRequest(model="iris", alias="green", version="3.0.0")
    selector = pb.ResolveVersionRequest(model="iris", selector="3.0.0")
    for call, request in (
        (here.models.PromoteVersion, promote),
        (here.models.SetAlias, alias),
        (here.models.ResolveVersion, selector),
        (here.models.DeleteVersion, pb.DeleteVersionRequest(model="iris", version="3.0.0")),
    ):
        assert reason_of(call, request) == (NOT_FOUND, "VERSION_NOT_FOUND")
    with pytest.raises(grpc.RpcError) as download:
        next(here.models.DownloadFile(pb.DownloadFileRequest(model="iris", version="3.0.0")))
    assert registry.refusal(download.value)[1] == "VERSION_NOT_FOUND"
    assert (
        reason_of(here.models.ResolveVersion, pb.ResolveVersionRequest(model="iris", selector="blue"))[0] == NOT_FOUND
    )

    assert versions(here) == ["2.0.0", "1.0.0"]
    assert versions(here, show_deleted=True) == ["3.0.0", "2.0.0", "1.0.0"]
    assert resolved(here, "latest") == "2.0.0" == model(here).latest_version
    assert dict(model(here).aliases) == {}
    # The logs go on telling of it, and nobody can go back to it.
    moves = here.models.ListTransitions(pb.ListTransitionsRequest(model="iris")).transitions
    assert [move.version for move in moves if move.to_stage == pb.STAGE_PRODUCTION] == ["1.0.0", "3.0.0"]
    first_live = next(m for m in moves if (m.version, m.to_stage) == ("3.0.0", pb.STAGE_PRODUCTION))
    then = pb.GetLiveVersionRequest(model="iris", time=first_live.promoted_time)
    assert here.models.GetLiveVersion(then).version.version == "3.0.0"
    back = pb.RollbackModelRequest(model="iris", **registry.APPROVED)
    assert reason_of(here.models.RollbackModel, back) == (FAILED_PRECONDITION, "VERSION_DELETED")
    assert actions(here)[-1] == ("DeleteVersion", "3.0.0")

    assert not restore(here, "3.0.0").HasField("delete_time")
    assert versions(here) == ["3.0.0", "2.0.0", "1.0.0"]
    assert resolved(here, "latest") == "3.0.0" == model(here).latest_version
    assert here.models.RollbackModel(back).version.version == "3.0.0"


def test_what_is_live_is_not_deleted_and_what_was_changed_since_it_was_read_neither(here: Registry) -> None:
    etag = quick_registry.register(here).etag
    registry.go_live(here.models, "1")
    live = pb.DeleteVersionRequest(model="iris", version="1")
    assert reason_of(here.models.DeleteVersion, live) == (FAILED_PRECONDITION, "VERSION_LIVE")
    stale = pb.DeleteVersionRequest(model="iris", version="1", etag=etag)
    assert reason_of(here.models.DeleteVersion, stale) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert reason_of(here.models.DeleteModel, pb.DeleteModelRequest(name="iris", etag="x"))[1] == "ETAG_MISMATCH"
    not_there = pb.RestoreVersionRequest(model="iris", version="1")
    assert reason_of(here.models.RestoreVersion, not_there) == (FAILED_PRECONDITION, "NOT_DELETED")
    assert reason_of(here.models.RestoreModel, pb.RestoreModelRequest(name="iris")) == (
        FAILED_PRECONDITION, "NOT_DELETED",
    )  # fmt: skip
    assert reason_of(here.models.RestoreModel, pb.RestoreModelRequest(name="rose")) == (NOT_FOUND, "MODEL_NOT_FOUND")
    unknown = pb.RestoreVersionRequest(model="iris", version="9")
    assert reason_of(here.models.RestoreVersion, unknown) == (NOT_FOUND, "VERSION_NOT_FOUND")


def test_the_name_of_a_failed_version_is_free_at_once_and_that_of_a_ready_one_never(
    here: Registry, database_url: str
) -> None:
    assert quick_registry.register(here, content=unique(BAD)).state == pb.VERSION_STATE_FAILED
    delete(here, "1")
    quick_registry.register(here, content=unique(BAD))
    # Its name was given again: it cannot come back beside the other.
    back = pb.RestoreVersionRequest(model="iris", version="1")
    assert reason_of(here.models.RestoreVersion, back) == VERSION_EXISTS
    last = delete(here, "1")
    assert restore(here, "1").deployment_number == last.deployment_number == 2  # the last one to go
    delete(here, "1")
    assert quick_registry.register(here).state == pb.VERSION_STATE_READY
    delete(here, "1")
    assert _registering_again(here) == VERSION_EXISTS
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute("UPDATE registry.versions SET purge_time = delete_time WHERE delete_time IS NOT NULL")
    collected = here.administration.CollectGarbage(administration_pb2.CollectGarbageRequest())
    assert collected.purged_version_count == 3
    assert _registering_again(here) == VERSION_EXISTS
    assert reason_of(here.models.RestoreVersion, back) == (NOT_FOUND, "VERSION_NOT_FOUND")
    assert versions(here, show_deleted=True) == []
    # Neither is a byte taken for a name that is taken for good.
    announced = iter([next(registry.upload(unique()))])
    assert reason_of(here.models.RegisterVersion, announced) == VERSION_EXISTS
    assert quick_registry.register(here, "2").deployment_number == 4
    assert [action for action in actions(here) if action[0] == "Purge"] == [("Purge", "1")] * 3


def _registering_again(here: Registry) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        here.models.RegisterVersion(registry.upload(unique()), timeout=registry.DEADLINE_S)
    return registry.refusal(caught.value)[:2]


def test_a_version_deleted_while_it_waits_for_the_validator_is_validated_once_it_is_back(
    database_url: str, tmp_path: Path
) -> None:
    busy = registry.settings_for(database_url, tmp_path, validation_threads=0)
    with quick_registry.running(busy) as here, psycopg.connect(database_url, autocommit=True) as database:
        here.models.RegisterVersion(registry.upload(unique()))
        delete(here, "1")
        assert database.execute("SELECT count(*) FROM registry.validations").fetchone() == (0,)
        here.models.RegisterVersion(registry.upload(unique(BAD)))  # nothing ever came of that name
        delete(here, "1")
        assert restore(here, "1").state == pb.VERSION_STATE_VALIDATING
    with quick_registry.running(registry.settings_for(database_url, tmp_path)) as here:
        assert registry.settled(here.models, "iris", "1").state == pb.VERSION_STATE_FAILED


def test_a_deleted_model_comes_back_with_what_went_with_it_and_what_was_live_is_live(here: Registry) -> None:
    for version in ("1", "2", "3"):
        quick_registry.register(here, version)
    registry.go_live(here.models, "2")
    here.models.SetAlias(pb.SetAliasRequest(model="iris", alias="blue", version="2"))
    delete(here, "3")
    before = model(here)

    assert reason_of(here.models.DeleteModel, pb.DeleteModelRequest(name="iris")) == (FAILED_PRECONDITION, "MODEL_LIVE")
    gone = here.models.DeleteModel(pb.DeleteModelRequest(name="iris", force=True, etag=before.etag)).model
    assert gone.HasField("delete_time")
    assert gone.HasField("purge_time")
    assert gone.etag != before.etag
    for call, request in (
        (here.models.GetModel, pb.GetModelRequest(name="iris")),
        (here.models.ListVersions, pb.ListVersionsRequest(model="iris")),
        (here.models.GetVersion, pb.GetVersionRequest(model="iris", version="2")),
        (here.models.ResolveVersion, pb.ResolveVersionRequest(model="iris")),
        (here.models.DeleteModel, pb.DeleteModelRequest(name="iris")),
    ):
        assert reason_of(call, request) == (NOT_FOUND, "MODEL_NOT_FOUND")
    assert not here.models.ListModels(pb.ListModelsRequest()).models
    assert not here.models.ListVersions(pb.ListVersionsRequest()).versions
    assert [each.name for each in here.models.ListModels(pb.ListModelsRequest(show_deleted=True)).models] == ["iris"]
    assert len(here.models.ListVersions(pb.ListVersionsRequest(show_deleted=True)).versions) == 3
    back = pb.RestoreVersionRequest(model="iris", version="3")
    assert reason_of(here.models.RestoreVersion, back) == (FAILED_PRECONDITION, "MODEL_DELETED")
    assert _registering_again(here) == (FAILED_PRECONDITION, "MODEL_DELETED")
    announced = iter([next(registry.upload(unique()))])  # known before any byte comes
    assert reason_of(here.models.RegisterVersion, announced) == (FAILED_PRECONDITION, "MODEL_DELETED")
    assert reason_of(here.models.CreateModel, pb.CreateModelRequest(name="iris"))[1] == "MODEL_EXISTS"

    here.models.RestoreModel(pb.RestoreModelRequest(name="iris"))
    assert versions(here) == ["2", "1"]
    assert versions(here, show_deleted=True) == ["3", "2", "1"]
    assert resolved(here) == "2" == resolved(here, "blue")
    after = model(here)
    assert (after.production_version, after.latest_version, dict(after.aliases)) == ("2", "2", {"blue": "2"})
    assert ("DeleteModel", "") in actions(here)
    assert actions(here)[-1] == ("RestoreModel", "")


def test_a_request_sent_again_after_the_model_went_is_answered_as_before(here: Registry, database_url: str) -> None:
    create = pb.CreateModelRequest(name="iris", request_id="a")
    made = here.models.CreateModel(create).model
    content = unique()
    version = quick_registry.register(here, content=content, request_id="b")
    record = pb.RecordEvaluationRequest(model="iris", version="1", metrics={"a": 1}, request_id="c")
    evaluation = here.models.RecordEvaluation(record).evaluation
    here.models.DeleteModel(pb.DeleteModelRequest(name="iris"))
    for _ in ("deleted", "purged"):
        assert here.models.CreateModel(create).model.create_time == made.create_time
        again = here.models.RegisterVersion(registry.upload(content, request_id="b"), timeout=registry.DEADLINE_S)
        assert again.version.create_time == version.create_time
        assert here.models.RecordEvaluation(record).evaluation == evaluation
        with psycopg.connect(database_url, autocommit=True) as database:
            for table in ("models", "versions"):
                database.execute(f"UPDATE registry.{table} SET purge_time = delete_time")
        here.administration.CollectGarbage(administration_pb2.CollectGarbageRequest())
    assert not here.models.ListModels(pb.ListModelsRequest(show_deleted=True)).models


def test_a_purged_model_leaves_its_name_and_nothing_of_it_comes_back(here: Registry, database_url: str) -> None:
    quick_registry.register(here)
    registry.go_live(here.models, "1")
    here.models.DeleteModel(pb.DeleteModelRequest(name="iris", force=True))
    with psycopg.connect(database_url, autocommit=True) as database:
        for table in ("models", "versions"):
            database.execute(f"UPDATE registry.{table} SET purge_time = delete_time")
    collected = here.administration.CollectGarbage(administration_pb2.CollectGarbageRequest())
    assert (collected.purged_model_count, collected.purged_version_count) == (1, 1)
    assert reason_of(here.models.RestoreModel, pb.RestoreModelRequest(name="iris")) == (NOT_FOUND, "MODEL_NOT_FOUND")
    new = quick_registry.register(here)
    assert (new.deployment_number, new.stage) == (1, pb.STAGE_DEVELOPMENT)
    registry.go_live(here.models, "1")
    moves = here.models.ListTransitions(pb.ListTransitionsRequest(model="iris")).transitions
    assert len(moves) == 4  # those of the new model alone


def test_watchers_hear_of_a_deletion_once_and_a_snapshot_knows_nothing_of_it(here: Registry) -> None:
    for version in ("1", "2"):
        quick_registry.register(here, version)
    snapshot = next(here.models.WatchModels(pb.WatchModelsRequest()))
    delete(here, "2")
    here.models.DeleteModel(pb.DeleteModelRequest(name="iris"))
    here.models.RestoreModel(pb.RestoreModelRequest(name="iris"))
    resumed = pb.WatchModelsRequest(after_revision=snapshot.revision, epoch=snapshot.epoch)
    change = next(here.models.WatchModels(resumed))
    assert change.revision == snapshot.revision + 3
    assert {version.version: version.HasField("delete_time") for version in change.change.versions} == {
        "1": False, "2": True,
    }  # fmt: skip
    anew = next(here.models.WatchModels(pb.WatchModelsRequest()))
    assert [version.version for version in anew.snapshot.versions] == ["1"]
