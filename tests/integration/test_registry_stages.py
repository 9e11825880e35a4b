"""Promotion, rollback and their history over gRPC, races included."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from services.common import pages
from services.registry.stages import MOVES
from services.registry.validation.report import ValidationReport
from services.registry.validation.validator import Validator
from tests import registry
from tests.testdata import models

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
LIVE = pb.STAGE_PRODUCTION
Call = Callable[[], "grpc.Future[Any]"]
ONE_WINS = {None, (grpc.StatusCode.ABORTED, "CONCURRENT_PROMOTION")}
LADDER = (pb.STAGE_CANDIDATE, pb.STAGE_STAGING, pb.STAGE_PRODUCTION)


@pytest.fixture
def database_url(clone_database: Callable[[str], str]) -> str:
    return clone_database("registry")


@pytest.fixture
def stub(database_url: str, tmp_path: Path) -> Iterator[RegistryServiceStub]:
    with registry.registry(registry.settings_for(database_url, tmp_path)) as opened:
        yield opened


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    code, reason, _ = registry.refusal(caught.value)
    return code, reason


def ready(stub: RegistryServiceStub, *versions: str) -> None:
    for version in versions:
        assert registry.register(stub, models.linear(), version=version).state == pb.VERSION_STATE_READY


def roll_back(stub: RegistryServiceStub) -> pb.RollbackModelResponse:
    return stub.RollbackModel(pb.RollbackModelRequest(model="iris", **registry.APPROVED), timeout=registry.DEADLINE_S)


def stages(stub: RegistryServiceStub) -> dict[str, str]:
    versions = stub.ListVersions(pb.ListVersionsRequest(model="iris")).versions
    return {version.version: pb.Stage.Name(version.stage).removeprefix("STAGE_") for version in versions}


def test_every_forbidden_move_is_refused_and_changes_nothing(stub: RegistryServiceStub) -> None:
    """One version stands in each stage, and is asked to go wherever it may not."""
    ready(stub, *(f"in-{stage}" for stage in MOVES))
    for version, height in (("in-CANDIDATE", 1), ("in-STAGING", 2), ("in-PRODUCTION", 3)):
        for stage in LADDER[:height]:
            registry.promote(stub, version, stage)
    registry.promote(stub, "in-ARCHIVED", pb.STAGE_ARCHIVED)
    before = stages(stub)
    assert all(version == f"in-{stage}" for version, stage in before.items())
    for from_stage, to_stage in itertools.product(MOVES, MOVES):
        if to_stage not in MOVES[from_stage]:
            wanted = pb.Stage.Value(f"STAGE_{to_stage}")
            outcome = refused(partial(registry.promote, stub, f"in-{from_stage}", wanted))
            assert outcome == (PRECONDITION, "STAGE_MOVE_FORBIDDEN"), (from_stage, to_stage)
    assert stages(stub) == before


def test_a_version_that_failed_moves_to_development_and_the_archive_only(stub: RegistryServiceStub) -> None:
    registry.register(stub, models.garbage())
    for stage in (pb.STAGE_ARCHIVED, pb.STAGE_DEVELOPMENT):
        registry.promote(stub, "1", stage)
    assert refused(lambda: registry.promote(stub, "1", pb.STAGE_CANDIDATE)) == (PRECONDITION, "VERSION_NOT_READY")
    assert stages(stub) == {"1": "DEVELOPMENT"}


def test_production_needs_an_approver_and_a_note(stub: RegistryServiceStub) -> None:
    ready(stub, "1")
    registry.promote(stub, "1")
    registry.promote(stub, "1")
    required = (grpc.StatusCode.INVALID_ARGUMENT, "APPROVAL_REQUIRED")
    for approved_by, note in (("ada", ""), ("", "because"), ("", "")):
        request = pb.PromoteVersionRequest(model="iris", version="1", approved_by=approved_by, note=note)
        assert refused(partial(stub.PromoteVersion, request)) == required
    assert refused(partial(stub.RollbackModel, pb.RollbackModelRequest(model="iris"))) == required


def test_a_promotion_archives_what_it_replaces_and_rollback_walks_back(stub: RegistryServiceStub) -> None:
    assert refused(lambda: roll_back(stub)) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    ready(stub, "1", "2", "3")
    assert refused(lambda: roll_back(stub)) == (PRECONDITION, "NOTHING_LIVE")
    for version in ("1", "2", "3"):
        registry.go_live(stub, version)
    assert stages(stub) == {"3": "PRODUCTION", "2": "ARCHIVED", "1": "ARCHIVED"}

    first = roll_back(stub)
    assert (first.version.version, first.replaced.version) == ("2", "3")
    assert stages(stub) == {"3": "ARCHIVED", "2": "PRODUCTION", "1": "ARCHIVED"}
    assert roll_back(stub).version.version == "1"
    assert refused(lambda: roll_back(stub)) == (PRECONDITION, "NO_PREDECESSOR")

    registry.promote(stub, "3", pb.STAGE_STAGING)
    replaced = stub.PromoteVersion(
        pb.PromoteVersionRequest(model="iris", version="3", to_stage=LIVE, **registry.APPROVED)
    ).replaced
    assert replaced.version == "1"
    assert roll_back(stub).version.version == "1"


def test_the_history_says_who_when_why_and_what_was_live_then(stub: RegistryServiceStub) -> None:
    ready(stub, "1", "2")
    assert refused(lambda: live_at(stub, None)) == (grpc.StatusCode.NOT_FOUND, "NOTHING_LIVE")
    registry.go_live(stub, "1")
    registry.go_live(stub, "2")
    roll_back(stub)

    moves = stub.ListTransitions(pb.ListTransitionsRequest(model="iris")).transitions
    assert [move.id for move in moves] == sorted((move.id for move in moves), reverse=True)
    revived, archived, promoted, replaced = moves[:4]
    assert (revived.version, revived.kind, revived.to_stage) == ("1", pb.TRANSITION_KIND_ROLLBACK, LIVE)
    assert (archived.version, archived.kind) == ("2", pb.TRANSITION_KIND_ROLLBACK)
    assert (promoted.version, promoted.kind, promoted.from_stage) == ("2", pb.TRANSITION_KIND_PROMOTE, pb.STAGE_STAGING)
    assert (replaced.version, replaced.kind, replaced.to_stage) == (
        "1",
        pb.TRANSITION_KIND_REPLACE,
        pb.STAGE_ARCHIVED,
    )
    assert (promoted.promoted_by, promoted.approved_by, promoted.note) == ("anonymous", "ada", "it was tried")
    born = moves[-2]
    assert (born.kind, born.from_stage) == (pb.TRANSITION_KIND_REGISTER, pb.STAGE_UNSPECIFIED)

    assert live_at(stub, None) == "1"
    assert live_at(stub, promoted.promoted_time) == "2"
    assert live_at(stub, replaced.promoted_time) == "1"
    assert refused(lambda: live_at(stub, born.promoted_time)) == (grpc.StatusCode.NOT_FOUND, "NOTHING_LIVE")


def live_at(stub: RegistryServiceStub, time: Timestamp | None) -> str:
    return stub.GetLiveVersion(pb.GetLiveVersionRequest(model="iris", time=time)).version.version


def test_lists_come_in_pages(stub: RegistryServiceStub) -> None:
    ready(stub, "1", "2", "3")
    stub.CreateModel(pb.CreateModelRequest(name="another"))
    seen, token = [], ""
    while True:
        page = stub.ListVersions(pb.ListVersionsRequest(model="iris", page_size=2, page_token=token))
        seen.append([version.version for version in page.versions])
        if not (token := page.next_page_token):
            break
        other = pb.ListVersionsRequest(model="iris", stage=pb.STAGE_STAGING, page_token=token)
        assert refused(partial(stub.ListVersions, other))[1] == "INVALID_PAGE_TOKEN"
    assert seen == [["3", "2"], ["1"]]
    first = stub.ListModels(pb.ListModelsRequest(page_size=1))
    second = stub.ListModels(pb.ListModelsRequest(page_size=1, page_token=first.next_page_token))
    assert [model.name for model in (*first.models, *second.models)] == ["another", "iris"]
    assert (second.next_page_token, second.models[0].latest_version) == ("", "3")
    moves = stub.ListTransitions(pb.ListTransitionsRequest(model="iris", page_size=2))
    other_moves = pb.ListTransitionsRequest(model="iris", version="1", page_token=moves.next_page_token)
    assert refused(partial(stub.ListTransitions, other_moves))[1] == "INVALID_PAGE_TOKEN"
    rest = stub.ListTransitions(pb.ListTransitionsRequest(model="iris", page_size=2, page_token=moves.next_page_token))
    assert len({move.id for move in (*moves.transitions, *rest.transitions)}) == 3
    filtered = stub.ListVersions(pb.ListVersionsRequest(model="iris", state=pb.VERSION_STATE_FAILED))
    assert not filtered.versions


@pytest.mark.parametrize("position", [[], ["x"], [True], [-1], [2**63], [1, 2], [None], ["nul\0"]])
def test_a_forged_page_token_is_refused_and_breaks_no_query(stub: RegistryServiceStub, position: list[object]) -> None:
    stub.CreateModel(pb.CreateModelRequest(name="iris"))
    of_versions = pages.encode(position, {"model": "iris", "stage": None, "state": None})
    of_moves = pages.encode(position, {"model": "iris", "version": ""})
    malformed = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")
    versions = pb.ListVersionsRequest(model="iris", page_token=of_versions)
    assert refused(partial(stub.ListVersions, versions)) == malformed
    moves = pb.ListTransitionsRequest(model="iris", page_token=of_moves)
    assert refused(partial(stub.ListTransitions, moves)) == malformed
    if position != ["x"]:  # which is a name
        listing = pb.ListModelsRequest(page_token=pages.encode(position, {}))
        assert refused(partial(stub.ListModels, listing)) == malformed


def test_a_selector_means_a_version_a_stage_production_or_the_latest(stub: RegistryServiceStub) -> None:
    ready(stub, "1.10", "1.9")

    def resolve(selector: str) -> str:
        return stub.ResolveVersion(pb.ResolveVersionRequest(model="iris", selector=selector)).version.version

    assert (resolve(""), resolve("latest"), resolve("1.9")) == ("1.10", "1.10", "1.9")
    registry.go_live(stub, "1.9")
    assert (resolve(""), resolve("Production"), resolve("latest")) == ("1.9", "1.9", "1.10")
    assert refused(lambda: resolve("staging")) == (grpc.StatusCode.NOT_FOUND, "NO_VERSION_READY")
    assert refused(lambda: resolve("7")) == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")
    assert refused(lambda: stub.ResolveVersion(pb.ResolveVersionRequest(model="rose")))[1] == "MODEL_NOT_FOUND"


def at_once(database_url: str, calls: list[Call]) -> list[tuple[grpc.StatusCode, str] | None]:
    """Start calls while the model is locked, so that all have looked before any may write; None is a success."""
    with registry.models_locked(database_url) as wait_for:
        futures = [call() for call in calls]
        wait_for(len(calls))
    return [None if future.exception() is None else registry.refusal(future.exception())[:2] for future in futures]


def test_of_two_promotions_at_once_one_wins(stub: RegistryServiceStub, database_url: str) -> None:
    ready(stub, "1", "2", "3")
    registry.go_live(stub, "1")
    for version in ("2", "3"):
        registry.promote(stub, version)
        registry.promote(stub, version)

    def promotion(version: str) -> Call:
        request = pb.PromoteVersionRequest(model="iris", version=version, to_stage=LIVE, **registry.APPROVED)
        return partial(stub.PromoteVersion.future, request, timeout=registry.DEADLINE_S)

    outcomes = at_once(database_url, [promotion("2"), promotion("3")])
    assert set(outcomes) == ONE_WINS
    winner, loser = ("2", "3") if outcomes[0] is None else ("3", "2")
    assert stages(stub) == {winner: "PRODUCTION", loser: "STAGING", "1": "ARCHIVED"}


def test_of_two_steps_at_once_one_wins_and_the_version_moves_one_step(
    stub: RegistryServiceStub, database_url: str
) -> None:
    ready(stub, "1")
    request = pb.PromoteVersionRequest(model="iris", version="1")
    step = partial(stub.PromoteVersion.future, request, timeout=registry.DEADLINE_S)
    assert set(at_once(database_url, [step, step])) == ONE_WINS
    assert stages(stub) == {"1": "CANDIDATE"}


def test_of_two_rollbacks_at_once_one_wins(stub: RegistryServiceStub, database_url: str) -> None:
    ready(stub, "1", "2", "3")
    for version in ("1", "2", "3"):
        registry.go_live(stub, version)
    request = pb.RollbackModelRequest(model="iris", **registry.APPROVED)
    step = partial(stub.RollbackModel.future, request, timeout=registry.DEADLINE_S)
    assert set(at_once(database_url, [step, step])) == ONE_WINS
    assert stages(stub)["2"] == "PRODUCTION"


def test_a_registration_does_not_replace_what_went_live_meanwhile(
    stub: RegistryServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(stub, "1")
    registry.promote(stub, "1")
    registry.promote(stub, "1")
    goes_on, validate = threading.Event(), Validator.validate

    def hold(*given: Any, **more: Any) -> ValidationReport:
        assert goes_on.wait(registry.DEADLINE_S)
        return validate(*given, **more)

    monkeypatch.setattr(Validator, "validate", hold)
    stub.RegisterVersion(registry.upload(models.linear(), version="2", stage=LIVE, **registry.APPROVED))
    registry.promote(stub, "1")
    waiting = stub.GetVersion(pb.GetVersionRequest(model="iris", version="2")).version
    assert (waiting.state, waiting.parent_deployment_number) == (pb.VERSION_STATE_VALIDATING, 0)
    goes_on.set()
    assert registry.settled(stub, "iris", "2").stage == pb.STAGE_STAGING
    assert stages(stub) == {"1": "PRODUCTION", "2": "STAGING"}


def test_the_log_and_a_ready_version_cannot_be_changed_in_the_database(
    stub: RegistryServiceStub, database_url: str
) -> None:
    ready(stub, "1")
    with psycopg.connect(database_url, autocommit=True) as connection:
        for statement in (
            "UPDATE registry.transitions SET note = 'another'",
            "DELETE FROM registry.transitions",
            "TRUNCATE registry.transitions CASCADE",
            "UPDATE registry.files SET sha256 = ''",
            "DELETE FROM registry.files",
            "UPDATE registry.versions SET signature = NULL",
            "UPDATE registry.versions SET state = 'FAILED'",
            "UPDATE registry.versions SET source_version = 'x'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_going_live_needs_an_admin(clone_database: Callable[[str], str], tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    entries = [
        {"id": role, "name": role, "role": role, "sha256": hashlib.sha256(role.encode()).hexdigest()}
        for role in ("viewer", "operator", "admin")
    ]
    keys.write_text(json.dumps({"keys": entries}))
    settings = registry.settings_for(clone_database("registry"), tmp_path, keys_file=keys)
    with registry.registry(settings) as stub:

        def as_role(role: str) -> dict[str, Any]:
            return {"metadata": (("authorization", f"Bearer {role}"),)}

        assert refused(lambda: stub.ListModels(pb.ListModelsRequest()))[0] == grpc.StatusCode.UNAUTHENTICATED
        upload = registry.upload(models.linear(), stage=LIVE, **registry.APPROVED)
        assert refused(lambda: stub.RegisterVersion(upload, **as_role("operator")))[1] == "ROLE_TOO_WEAK"
        upload = registry.upload(models.linear(), stage=LIVE)
        assert refused(lambda: stub.RegisterVersion(upload, **as_role("viewer")))[1] == "ROLE_TOO_WEAK"
        version = stub.RegisterVersion(registry.upload(models.linear()), **as_role("operator")).version
        assert version.created_by == "operator"
        for stage in (pb.STAGE_CANDIDATE, pb.STAGE_STAGING):
            stub.PromoteVersion(
                pb.PromoteVersionRequest(model="iris", version="1", to_stage=stage), **as_role("operator")
            )
        request = pb.PromoteVersionRequest(model="iris", version="1", to_stage=LIVE, **registry.APPROVED)
        assert refused(lambda: stub.PromoteVersion(request, **as_role("operator")))[1] == "ROLE_TOO_WEAK"
        assert refused(lambda: stub.RollbackModel(pb.RollbackModelRequest(model="iris"), **as_role("operator")))[1] == (
            "ROLE_TOO_WEAK"
        )
