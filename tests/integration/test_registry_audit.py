"""The audit log: one entry for each change, with who, what before and what since, in the same transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from penstock.api.registry.v1 import administration_pb2 as admin_pb
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.registry.v1.administration_pb2_grpc import AdministrationServiceStub
from penstock.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from penstock.cli.keys_file import KeysFile, Role
from services.registry.auditing import difference
from tests import catalogue, registry
from tests.catalogue import DEADLINE_S, INVALID, Catalogue, refused
from tests.testdata import models

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=2), JSON, max_size=4)


@pytest.fixture
def running(clone_database: Callable[[str], str], tmp_path: Path) -> Iterator[Catalogue]:
    with catalogue.served(clone_database("registry"), tmp_path) as opened:
        yield opened


def entries(running: Catalogue, **filters: Any) -> list[admin_pb.AuditEntry]:
    request = admin_pb.ListAuditEntriesRequest(page_size=1_000, **filters)
    return list(running.administration.ListAuditEntries(request, timeout=DEADLINE_S).entries)


def told(entry: admin_pb.AuditEntry) -> tuple[str, str, dict[str, Any] | None, dict[str, Any] | None]:
    before = MessageToDict(entry.before) if entry.HasField("before") else None
    after = MessageToDict(entry.after) if entry.HasField("after") else None
    return entry.action, entry.version, before, after


def test_every_change_is_told_with_what_differs_and_nothing_else(running: Catalogue) -> None:
    stub = running.stub
    stub.CreateModel(pb.CreateModelRequest(name="iris", description="flowers"))
    catalogue.update_model(stub, ["labels", "serving_settings"], labels={"team": "ada"})
    catalogue.update_model(stub, ["labels", "serving_settings.pinned"], labels={"team": "bob"},
                           serving_settings=pb.ServingSettings(pinned=True))  # fmt: skip
    catalogue.register(stub, "1", note="the first")
    catalogue.update_version(stub, ["capture_policy.share"], capture_policy=pb.CapturePolicy(share=0.5))
    stub.SetAlias(pb.SetAliasRequest(model="iris", alias="champion", version="1"))
    stub.SetAlias(pb.SetAliasRequest(model="iris", alias="champion", version="1"))
    stub.RecordEvaluation(pb.RecordEvaluationRequest(model="iris", version="1", metrics={"accuracy": 0.5}, note="n"))
    stub.DeleteAlias(pb.DeleteAliasRequest(model="iris", alias="champion"))
    found = entries(running)[::-1]
    registered, evaluated = found[3], found[7]
    assert [told(entry) for entry in found[:3]] == [
        ("CreateModel", "", None, {"description": "flowers"}),
        ("UpdateModel", "", {"labels": {}}, {"labels": {"team": "ada"}}),
        ("UpdateModel", "", {"labels": {"team": "ada"}, "serving_settings": {"pinned": False}},
         {"labels": {"team": "bob"}, "serving_settings": {"pinned": True}}),
    ]  # fmt: skip
    action, version, before, after = told(registered)
    assert (action, version, before, registered.note) == ("RegisterVersion", "1", None, "the first")
    assert after is not None
    assert (after["framework"], after["ollama"]["model"], after["serving_settings"]["pinned"]) == (
        "OLLAMA", "llama3.2:1b", True,
    )  # fmt: skip
    assert told(found[4])[:2] == ("Validate", "1")
    assert (found[4].caller, found[4].role, told(found[4])[2]) == ("registry", "", {"state": "VALIDATING"})
    assert [told(entry) for entry in found[5:7]] == [
        ("UpdateVersion", "1", {"capture_policy": {"share": None}}, {"capture_policy": {"share": 0.5}}),
        ("SetAlias", "1", None, {"aliases": {"champion": "1"}}),
    ]
    assert (told(evaluated)[0], evaluated.note) == ("RecordEvaluation", "n")
    assert MessageToDict(evaluated.after)["evaluation"]["metrics"] == {"accuracy": 0.5}
    assert told(found[8]) == ("DeleteAlias", "1", {"aliases": {"champion": "1"}}, None)
    assert len(found) == 9
    assert {(entry.caller, entry.role) for entry in found} == {("anonymous", "admin"), ("registry", "")}
    assert [entry.id for entry in found] == sorted(entry.id for entry in found)


def test_stage_moves_are_told_of_both_versions_with_their_note(running: Catalogue) -> None:
    for version in ("1", "2"):
        catalogue.register(running.stub, version)
        registry.go_live(running.stub, version)
    running.stub.RollbackModel(pb.RollbackModelRequest(model="iris", approved_by="ada", note="too slow"))
    moved, archived = entries(running, action="RollbackModel")
    assert told(moved) == ("RollbackModel", "1", {"stage": "ARCHIVED"}, {"stage": "PRODUCTION"})
    assert told(archived) == ("RollbackModel", "2", {"stage": "PRODUCTION"}, {"stage": "ARCHIVED"})
    assert (moved.note, archived.note) == ("too slow", "too slow")
    replaced = entries(running, action="PromoteVersion", version="1", model="iris")[0]
    assert told(replaced)[2:] == ({"stage": "PRODUCTION"}, {"stage": "ARCHIVED"})


@pytest.mark.slow
def test_what_the_validator_finds_is_told_as_the_registrys_own(running: Catalogue) -> None:
    registry.register(running.stub, models.linear(), version="1")
    registry.register(running.stub, b"no model", version="2")
    running.stub.RevalidateVersion(pb.RevalidateVersionRequest(model="iris", version="2"))
    registry.settled(running.stub, "iris", "2")
    ready = entries(running, version="1", model="iris", action="Validate")[0]
    assert told(ready)[2:] == ({"state": "VALIDATING"}, {"state": "READY"})
    actions = [entry.action for entry in entries(running, version="2", model="iris")]
    assert actions == ["Validate", "RevalidateVersion", "Validate", "RegisterVersion"]
    failed = entries(running, version="2", model="iris")[0]
    assert (failed.caller, failed.after["state"], failed.after["failure_reason"]) == (
        "registry", "FAILED", "NOT_ONNX",
    )  # fmt: skip
    assert failed.note


def test_what_is_refused_is_not_told(running: Catalogue) -> None:
    catalogue.register(running.stub, "1")
    before = entries(running)
    refused(partial(catalogue.update_version, running.stub, ["description"], description="a", etag="old"))
    refused(partial(catalogue.register, running.stub, "1"))
    refused(partial(registry.promote, running.stub, "1", pb.STAGE_PRODUCTION))
    assert entries(running) == before


def test_the_log_is_asked_by_all_filters_and_in_pages(running: Catalogue) -> None:
    for model in ("iris", "other"):
        for version in ("1", "2"):
            catalogue.register(running.stub, version, model)
    everything = entries(running)
    assert [entry.version for entry in entries(running, model="iris", action="RegisterVersion")] == ["2", "1", ""]
    assert entries(running, caller="registry") == [entry for entry in everything if entry.caller == "registry"]
    assert entries(running, caller="nobody") == entries(running, model="nosuch") == []
    middle = everything[3]
    since = entries(running, start_time=middle.time)
    assert since == everything[:4]
    assert entries(running, end_time=middle.time) == everything[4:]
    only = entries(running, start_time=middle.time, end_time=everything[2].time, model=middle.model)
    assert only == [middle]

    read: list[admin_pb.AuditEntry] = []
    token = ""
    while token or not read:
        request = admin_pb.ListAuditEntriesRequest(model="iris", page_size=2, page_token=token)
        page = running.administration.ListAuditEntries(request, timeout=DEADLINE_S)
        read += page.entries
        token = page.next_page_token
        catalogue.register(running.stub, f"later-{len(read)}")
    assert read == [entry for entry in everything if entry.model == "iris"]


@pytest.mark.parametrize(
    ("filters", "reason", "field"),
    [
        ({"version": "1"}, "INVALID_NAME", "model"),
        ({"model": "a/b"}, "INVALID_NAME", "model"),
        ({"caller": "x" * 257}, "INVALID_TEXT", "caller"),
        ({"page_token": "x"}, "INVALID_PAGE_TOKEN", "page_token"),
        ({"start_time": Timestamp(seconds=2**60)}, "INVALID_TIME", "start_time"),
    ],
)
def test_a_bad_filter_names_its_field(running: Catalogue, filters: dict[str, Any], reason: str, field: str) -> None:
    assert refused(partial(entries, running, **filters)) == (INVALID, reason, [field])


@pytest.mark.parametrize(
    "change", ["UPDATE registry.audit SET note = ''", "DELETE FROM registry.audit", "TRUNCATE registry.audit"]
)
def test_nothing_that_was_told_can_be_changed(running: Catalogue, change: str) -> None:
    catalogue.register(running.stub, "1")
    with psycopg.connect(running.database_url) as database, pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.execute(change)


def test_the_caller_is_told_by_the_name_and_role_of_its_key_and_never_by_the_key(
    clone_database: Callable[[str], str], tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    keys = {
        role: KeysFile(path).create(f"{role.value}-key", role)[1] for role in (Role.OPERATOR, Role.ADMIN, Role.VIEWER)
    }
    database_url = clone_database("registry")
    settings = registry.settings_for(database_url, tmp_path, keys_file=path)
    with registry.served(settings) as address, grpc.insecure_channel(address) as channel:
        stub, administration = RegistryServiceStub(channel), AdministrationServiceStub(channel)

        def bearing(role: Role) -> Any:
            return [("authorization", f"Bearer {keys[role]}")]

        header = pb.RegisterVersionRequest(header=catalogue.header("iris", "1"))
        stub.RegisterVersion(iter([header]), metadata=bearing(Role.OPERATOR))
        stub.DeleteModel(pb.DeleteModelRequest(name="iris"), metadata=bearing(Role.ADMIN))
        request = admin_pb.ListAuditEntriesRequest()
        told_by = [
            (entry.action, entry.caller, entry.role)
            for entry in administration.ListAuditEntries(request, metadata=bearing(Role.OPERATOR)).entries
        ]
        assert told_by[:2] == [("DeleteModel", "admin-key", "admin"), ("Validate", "registry", "")]
        assert set(told_by[2:]) == {("RegisterVersion", "operator-key", "operator")}
        viewer = partial(administration.ListAuditEntries, request, metadata=bearing(Role.VIEWER))
        assert refused(viewer)[:2] == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_WEAK")
    with psycopg.connect(database_url) as database:
        written = json.dumps(database.execute("SELECT audit::text FROM registry.audit").fetchall())
    assert not any(key in written for key in keys.values())


@given(OBJECTS, OBJECTS)
def test_a_difference_holds_all_that_differs_and_nothing_that_does_not(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    was, now = difference(before, after)
    assert was is not None
    assert now is not None
    assert (was == {} and now == {}) == (before == after)
    assert merged(before, was, now) == after
    assert merged(after, now, was) == before
    assert difference(after, before) == (now, was)


def merged(values: dict[str, Any], without: dict[str, Any], with_: dict[str, Any]) -> dict[str, Any]:
    """Take a difference's one side away and put its other side there."""
    result = dict(values)
    for key in {*without, *with_}:
        nested = [side[key] for side in (values, without, with_) if isinstance(side.get(key), dict)]
        if len(nested) == 3:
            result[key] = merged(*nested)
        elif key in with_:
            result[key] = with_[key]
        else:
            del result[key]
    return result
