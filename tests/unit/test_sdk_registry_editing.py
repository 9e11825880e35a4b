"""Editing, deleting, aliases, evaluations, search, audit: what each method sends, and what is sent again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from penstock import Client, RetryPolicy
from penstock import errors as sdk
from penstock.api.registry.v1 import administration_pb2 as admin
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.uploads import framework_of
from services.common import errors
from tests.sdk import ScriptedServer, answer, client_of, fail, scripted_server

GONE = fail(errors.Unavailable("draining"))
MODEL = pb.Model(name="iris", etag="e1")
VERSION = pb.ModelVersion(model="iris", version="1", state=pb.VERSION_STATE_READY)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    with client_of(server, retry=RetryPolicy(attempts=3, base_delay_s=0.001, max_delay_s=0.002)) as client:
        yield client


def test_of_a_model_only_what_is_given_changes(server: ScriptedServer, client: Client) -> None:
    server.on("UpdateModel", answer(pb.UpdateModelResponse(model=MODEL)))
    update = client.registry.update_model
    assert update("iris", description="", labels={"team": "a"}, etag="e0") == MODEL
    update("iris", tags=[], training_config=None, serving_settings=pb.ServingSettings(max_in_flight=4))
    update("iris", serving_settings={"pinned": True, "max_in_flight": None}, capture_policy={"share": 0.0})
    first, second, third = server.calls["UpdateModel"]
    assert first.model == pb.Model(name="iris", labels={"team": "a"}, etag="e0")
    assert first.update_mask.paths == ["description", "labels"]
    assert second.update_mask.paths == ["tags", "training_config", "serving_settings"]
    assert not second.model.HasField("training_config"), "named and not set: cleared"
    assert second.model.serving_settings.max_in_flight == 4
    assert third.update_mask.paths == [
        "serving_settings.pinned", "serving_settings.max_in_flight", "capture_policy.share",
    ]  # fmt: skip
    assert third.model.serving_settings == pb.ServingSettings(pinned=True)
    assert third.model.capture_policy.HasField("share"), "0 is a share, and not its absence"


def test_of_a_version_only_what_is_given_changes(server: ScriptedServer, client: Client) -> None:
    server.on("UpdateVersion", answer(pb.UpdateVersionResponse(version=VERSION)))
    assert client.registry.update_version("iris", "1", labels={}, capture_policy=None, etag="e") == VERSION
    (sent,) = server.calls["UpdateVersion"]
    assert sent.version == pb.ModelVersion(model="iris", version="1", etag="e")
    assert sent.update_mask.paths == ["labels", "capture_policy"]


def test_settings_within_settings_are_named_one_by_one(server: ScriptedServer, client: Client) -> None:
    server.on("UpdateVersion", answer(pb.UpdateVersionResponse(version=VERSION)))
    warm_up = [pb.WarmUpRequest(row_count=8)]
    settings = {
        "queue_full_action": "displace",
        "warm_up": warm_up,
        "response_cache": {"enabled": True, "ttl_ms": None},
    }
    client.registry.update_version("iris", "1", serving_settings=settings)
    (sent,) = server.calls["UpdateVersion"]
    assert sent.update_mask.paths == [
        "serving_settings.queue_full_action", "serving_settings.warm_up", "serving_settings.response_cache.enabled",
        "serving_settings.response_cache.ttl_ms",
    ]  # fmt: skip
    assert sent.version.serving_settings == pb.ServingSettings(
        queue_full_action=pb.QUEUE_FULL_ACTION_DISPLACE,
        warm_up=warm_up,
        response_cache=pb.ResponseCachePolicy(enabled=True),
    )
    with pytest.raises(sdk.InvalidArgument, match="'wait' is not one of reject, displace"):
        client.registry.update_version("iris", "1", serving_settings={"queue_full_action": "wait"})


def test_a_setting_that_does_not_exist_is_refused_before_anything_is_sent(
    server: ScriptedServer, client: Client
) -> None:
    with pytest.raises(sdk.InvalidArgument, match="max_in_flight, pinned") as caught:
        client.registry.update_version("iris", "1", serving_settings={"threads": 4})
    assert caught.value.violations[0].field == "serving_settings.threads"
    assert not server.calls["UpdateVersion"]


def test_deleting_restoring_and_aliases_say_what_they_are_told(server: ScriptedServer, client: Client) -> None:
    server.on("DeleteModel", answer(pb.DeleteModelResponse(model=MODEL)))
    server.on("RestoreModel", answer(pb.RestoreModelResponse(model=MODEL)))
    server.on("DeleteVersion", answer(pb.DeleteVersionResponse(version=VERSION)))
    server.on("RestoreVersion", answer(pb.RestoreVersionResponse(version=VERSION)))
    server.on("SetAlias", answer(pb.SetAliasResponse(version=VERSION, previous_version="0")))
    server.on("DeleteAlias", answer(pb.DeleteAliasResponse()))
    server.on("CreateDownloadUrl", answer(pb.CreateDownloadUrlResponse(url="https://x")))
    registry = client.registry
    assert registry.delete_model("iris", force=True, etag="e") == MODEL
    assert registry.restore_model("iris") == MODEL
    assert registry.delete_version("iris", "1", etag="e") == VERSION
    assert registry.restore_version("iris", "1") == VERSION
    assert registry.set_alias("iris", "champion", "1").previous_version == "0"
    registry.delete_alias("iris", "champion")
    assert registry.download_url("iris", "1", "a.onnx", lifetime_s=60).url == "https://x"
    sent = {rpc: requests[0] for rpc, requests in server.calls.items()}
    assert sent["DeleteModel"] == pb.DeleteModelRequest(name="iris", force=True, etag="e")
    assert sent["RestoreModel"] == pb.RestoreModelRequest(name="iris")
    assert sent["DeleteVersion"] == pb.DeleteVersionRequest(model="iris", version="1", etag="e")
    assert sent["RestoreVersion"] == pb.RestoreVersionRequest(model="iris", version="1")
    assert sent["SetAlias"] == pb.SetAliasRequest(model="iris", alias="champion", version="1")
    assert sent["DeleteAlias"] == pb.DeleteAliasRequest(model="iris", alias="champion")
    assert sent["CreateDownloadUrl"] == pb.CreateDownloadUrlRequest(
        model="iris", version="1", path="a.onnx", lifetime_s=60
    )


@pytest.mark.parametrize(
    ("rpc", "call", "tries"),
    [
        ("UpdateModel", lambda registry: registry.update_model("iris", description="x"), 3),
        ("SetAlias", lambda registry: registry.set_alias("iris", "a", "1"), 3),
        ("RecordEvaluation", lambda registry: registry.record_evaluation("iris", "1", {"accuracy": 1}), 3),
        ("CollectGarbage", lambda registry: registry.collect_garbage(), 3),
        ("ListAuditEntries", lambda registry: next(registry.audit()), 3),
        ("DeleteModel", lambda registry: registry.delete_model("iris"), 1),
        ("DeleteVersion", lambda registry: registry.delete_version("iris", "1"), 1),
        ("RestoreVersion", lambda registry: registry.restore_version("iris", "1"), 1),
        ("DeleteAlias", lambda registry: registry.delete_alias("iris", "a"), 1),
    ],
)
def test_only_what_may_be_repeated_is(server: ScriptedServer, client: Client, rpc: str, call: Any, tries: int) -> None:
    server.on(rpc, GONE)
    with pytest.raises(sdk.Unavailable):
        call(client.registry)
    assert len(server.calls[rpc]) == tries
    assert len({request.SerializeToString() for request in server.calls[rpc]}) == 1


def test_evaluations_are_recorded_and_listed(server: ScriptedServer, client: Client) -> None:
    judged = pb.Evaluation(id=1, passed=False, shortfalls=["accuracy is 0.8"])
    server.on("RecordEvaluation", answer(pb.RecordEvaluationResponse(evaluation=judged)))
    server.on("ListEvaluations", answer(pb.ListEvaluationsResponse(evaluations=[judged])))
    metrics = {"accuracy": 0.8}
    assert client.registry.record_evaluation("iris", "1", metrics, dataset="held-out", note="n") == judged
    assert list(client.registry.evaluations("iris", "1")) == [judged]
    (sent,) = server.calls["RecordEvaluation"]
    assert sent.request_id
    sent.ClearField("request_id")
    assert sent == pb.RecordEvaluationRequest(model="iris", version="1", metrics=metrics, dataset="held-out", note="n")


def test_filters_go_along_with_every_page(server: ScriptedServer, client: Client) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    server.on("ListModels", answer(pb.ListModelsResponse(next_page_token="t")), answer(pb.ListModelsResponse()))
    server.on("ListVersions", answer(pb.ListVersionsResponse(next_page_token="t")), answer(pb.ListVersionsResponse()))
    server.on(
        "ListAuditEntries",
        answer(admin.ListAuditEntriesResponse(next_page_token="t")),
        answer(admin.ListAuditEntriesResponse(entries=[admin.AuditEntry(id=1)])),
    )
    registry, labels = client.registry, {"team": "a"}
    assert list(registry.list_models(labels=labels, query="iri", show_deleted=True)) == []
    assert list(registry.list_versions(framework="onnx", labels=labels, query="iri", show_deleted=True)) == []
    entries = registry.audit("iris", "1", caller="ada", action="UpdateModel", start_time=at, end_time=at, page_size=7)
    assert [entry.id for entry in entries] == [1]
    for rpc in ("ListModels", "ListVersions", "ListAuditEntries"):
        first, second = server.calls[rpc]
        assert second.page_token == "t"
        second.ClearField("page_token")
        assert first == second
    listed = server.calls["ListVersions"][0]
    assert listed == pb.ListVersionsRequest(framework=pb.FRAMEWORK_ONNX, labels=labels, query="iri", show_deleted=True)
    audited = server.calls["ListAuditEntries"][0]
    assert (audited.model, audited.version, audited.caller, audited.action) == ("iris", "1", "ada", "UpdateModel")
    assert (audited.start_time.ToDatetime(UTC), audited.end_time.ToDatetime(UTC), audited.page_size) == (at, at, 7)
    with pytest.raises(sdk.InvalidArgument, match="time zone"):
        registry.audit(start_time=datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake that is refused


def test_garbage_may_only_be_looked_at(server: ScriptedServer, client: Client) -> None:
    server.on("CollectGarbage", answer(admin.CollectGarbageResponse(dry_run=True, condemned_count=2)))
    assert client.registry.collect_garbage(dry_run=True, scan_store=True).condemned_count == 2
    assert server.calls["CollectGarbage"] == [admin.CollectGarbageRequest(dry_run=True, scan_store=True)]


def _receive(kept: list[pb.RegisterVersionRequest]) -> Any:
    def behave(requests: Any, context: grpc.ServicerContext) -> pb.RegisterVersionResponse:
        kept.extend(requests)
        return pb.RegisterVersionResponse(version=VERSION)

    return behave


def test_a_reference_to_ollama_brings_no_files(server: ScriptedServer, client: Client) -> None:
    kept: list[pb.RegisterVersionRequest] = []
    server.on("RegisterVersion", _receive(kept))
    reference = pb.OllamaReference(model="llama3.2:1b", mode=pb.OLLAMA_MODE_CHAT)
    client.registry.register_version("chat", "1", ollama=reference, description="d", labels={"a": "b"}, wait=False)
    (only,) = kept
    assert (only.header.framework, only.header.ollama) == (pb.FRAMEWORK_OLLAMA, reference)
    assert (only.header.description, dict(only.header.labels)) == ("d", {"a": "b"})
    with pytest.raises(sdk.InvalidArgument, match="there is no source"):
        client.registry.register_version("chat", "1", framework="ollama")
    assert len(server.calls["RegisterVersion"]) == 1


def test_an_archive_is_to_be_unpacked_where_that_is_said(server: ScriptedServer, client: Client) -> None:
    kept: list[pb.RegisterVersionRequest] = []
    server.on("RegisterVersion", _receive(kept))
    client.registry.register_version("m", "1", {"m.zip": b"zip"}, framework="tensorflow", unpack=True, wait=False)
    assert kept[1].file.unpack
    with pytest.raises(sdk.InvalidArgument, match="framework"):
        client.registry.register_version("m", "1", {"m.zip": b"zip"}, unpack=True)


@pytest.mark.parametrize(
    ("paths", "framework"),
    [
        (["model.onnx", "weights.bin"], pb.FRAMEWORK_ONNX),
        (["m.KERAS"], pb.FRAMEWORK_TENSORFLOW),
        (["saved_model.pb", "variables/variables.index", "assets/vocab.txt"], pb.FRAMEWORK_TENSORFLOW),
        (["model.onnx", "tokenizer.json"], pb.FRAMEWORK_TRANSFORMERS),
        (["m.onnx", "m.keras"], None),
        (["m.tar.gz"], None),
    ],
)
def test_the_names_of_the_files_tell_the_framework(paths: list[str], framework: int | None) -> None:
    assert framework_of(paths) == framework
