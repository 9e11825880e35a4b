"""Uploads that go wrong, that come twice, and that come together."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from penstock.api.tensors.v1 import tensors_pb2
from tests import registry
from tests.testdata import models

MAX_UPLOAD_BYTES = 1_000_000
GOOD_FIELDS: dict[str, Any] = {"model": "iris", "version": "1", "alias": "best", "metrics": {"accuracy": 0.9}}
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def database_url(clone_database: Callable[[str], str]) -> str:
    return clone_database("registry")


@pytest.fixture
def stub(database_url: str, tmp_path: Path) -> Iterator[RegistryServiceStub]:
    settings = registry.settings_for(database_url, tmp_path, max_upload_bytes=MAX_UPLOAD_BYTES)
    with registry.registry(settings) as opened:
        yield opened


def refused(stub: RegistryServiceStub, requests: Iterator[pb.RegisterVersionRequest]) -> tuple[Any, str, list[str]]:
    with pytest.raises(grpc.RpcError) as caught:
        stub.RegisterVersion(requests, timeout=registry.DEADLINE_S)
    assert len(str(caught.value)) < 4_000
    return registry.refusal(caught.value)


def assert_nothing_is_left(database_url: str, folder: Path) -> None:
    assert [path for path in (folder / "blobs").rglob("*") if path.is_file()] == []
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT (SELECT count(*) FROM registry.models), (SELECT count(*) FROM registry.files)"
        )
        assert rows.fetchone() == (0, 0)


@pytest.mark.parametrize(
    ("content", "more", "reason"),
    [
        (b"model", {"file": {"sha256": "0" * 64}}, "DIGEST_MISMATCH"),
        (b"model", {"file": {"sha256": "short"}}, "DIGEST_MALFORMED"),
        (b"model", {"file": {"size_bytes": 6}}, "SIZE_MISMATCH"),
        (b"model", {"file": {"size_bytes": 4}}, "SIZE_MISMATCH"),
        (b"", {}, "EMPTY_FILE"),
        (b"x" * (MAX_UPLOAD_BYTES + 1), {}, "TOO_LARGE"),
        (b"x" * (MAX_UPLOAD_BYTES + 1), {"file": {"size_bytes": 0}}, "TOO_LARGE"),
        (b"model", {"file": {"path": "../model.onnx"}}, "INVALID_PATH"),
        (b"model", {"model": "a/b"}, "INVALID_NAME"),
        (b"model", {"version": "1\x07"}, "INVALID_NAME"),
        (b"model", {"model": "x" * 10_000}, "INVALID_NAME"),
        (b"model", {"framework": pb.FRAMEWORK_TENSORFLOWJS}, "UNSUPPORTED_FRAMEWORK"),
        (b"model", {"stage": pb.STAGE_ARCHIVED}, "INVALID_STAGE"),
        (b"model", {"stage": pb.STAGE_PRODUCTION}, "APPROVAL_REQUIRED"),
    ],
)
def test_a_bad_upload_is_refused_and_leaves_nothing(
    stub: RegistryServiceStub, database_url: str, tmp_path: Path, content: bytes, more: dict[str, Any], reason: str
) -> None:
    code, found, _ = refused(stub, registry.upload(content, **more))
    assert (code, found) == (INVALID, reason)
    assert_nothing_is_left(database_url, tmp_path)


def test_an_odd_name_is_refused_shortly_by_every_rpc(stub: RegistryServiceStub) -> None:
    """Each request, with the odd name in each field that names a model or a version."""
    for odd in ("a/b", "../a", "bell\x07", "nul\0", "ünïcode", "x" * 10_000):
        asked = 0
        for rpc in pb.DESCRIPTOR.services_by_name["RegistryService"].methods:
            fields = rpc.input_type.fields_by_name
            good = {name: value for name, value in GOOD_FIELDS.items() if name in fields}
            named = {"name", "model", "version", "selector"} & set(fields)
            for field in [name for name in named if fields[name].message_type is None]:
                request = getattr(pb, rpc.input_type.name)(**{**good, field: odd})
                call = getattr(stub, rpc.name)
                with pytest.raises(grpc.RpcError) as caught:
                    list(call(request)) if rpc.server_streaming else call(request)
                assert registry.refusal(caught.value) == (INVALID, "INVALID_NAME", [field])
                assert len(str(caught.value)) < 1_000
                asked += 1
        assert asked == 32


def test_an_upload_without_a_file_and_one_with_two_are_refused(
    stub: RegistryServiceStub, database_url: str, tmp_path: Path
) -> None:
    messages = list(registry.upload(b"model"))
    assert refused(stub, iter(messages[:1]))[1] == "INCOMPLETE_UPLOAD"
    assert refused(stub, iter(messages[1:]))[1] == "INCOMPLETE_UPLOAD"
    assert refused(stub, iter([*messages, messages[1]]))[1] == "TOO_MANY_FILES"
    assert_nothing_is_left(database_url, tmp_path)


def test_a_file_of_which_nothing_is_known_beforehand_is_taken_only_with_its_end(
    stub: RegistryServiceStub, database_url: str, tmp_path: Path
) -> None:
    content = models.linear()
    messages = list(registry.upload(content, file={"size_bytes": 0, "sha256": ""}))
    end = pb.RegisterVersionRequest(end=pb.FileEnd(sha256=hashlib.sha256(content).hexdigest()))
    wrong = pb.RegisterVersionRequest(end=pb.FileEnd(sha256="0" * 64))
    assert refused(stub, iter(messages))[1] == "INCOMPLETE_UPLOAD"
    assert refused(stub, iter([*messages, end, messages[-1]]))[1] == "INCOMPLETE_UPLOAD"
    assert refused(stub, iter([*messages, wrong]))[1] == "DIGEST_MISMATCH"
    assert refused(stub, iter([*registry.upload(content), wrong]))[1] == "DIGEST_MISMATCH"
    assert_nothing_is_left(database_url, tmp_path)
    version = stub.RegisterVersion(iter([*messages, end])).version
    assert version.files[0].sha256 == end.end.sha256


def test_a_cancelled_upload_leaves_nothing(stub: RegistryServiceStub, database_url: str, tmp_path: Path) -> None:
    never = threading.Event()

    def endless() -> Iterator[pb.RegisterVersionRequest]:
        yield from registry.upload(b"some bytes", file={"size_bytes": 0, "sha256": ""})
        never.wait()

    call = stub.RegisterVersion.future(endless())
    incoming = tmp_path / "blobs" / "registry" / "incoming"
    registry.wait_until(lambda: list(incoming.glob("*.part")) or None)
    call.cancel()
    registry.wait_until(lambda: None if list(incoming.iterdir()) else True)
    never.set()
    assert_nothing_is_left(database_url, tmp_path)


def test_a_file_that_is_not_onnx_is_failed_with_a_reason_and_can_be_validated_again(stub: RegistryServiceStub) -> None:
    version = registry.register(stub, models.garbage())
    assert (version.state, version.failure_reason) == (pb.VERSION_STATE_FAILED, "NOT_ONNX")
    assert version.failure_message

    again = stub.RevalidateVersion(pb.RevalidateVersionRequest(model="iris", version="1")).version
    assert again.state == pb.VERSION_STATE_VALIDATING
    assert registry.settled(stub, "iris", "1").failure_reason == "NOT_ONNX"
    with pytest.raises(grpc.RpcError) as caught:
        stub.ResolveVersion(pb.ResolveVersionRequest(model="iris", selector="1"))
    assert registry.refusal(caught.value)[:2] == (grpc.StatusCode.NOT_FOUND, "NO_VERSION_READY")


def test_a_ready_version_is_not_validated_again(stub: RegistryServiceStub) -> None:
    registry.register(stub, models.linear())
    with pytest.raises(grpc.RpcError) as caught:
        stub.RevalidateVersion(pb.RevalidateVersionRequest(model="iris", version="1"))
    assert registry.refusal(caught.value)[:2] == (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE")


def test_a_declared_signature_that_contradicts_the_file_fails_the_version(stub: RegistryServiceStub) -> None:
    spec = tensors_pb2.TensorSpec
    signature = tensors_pb2.Signature(
        inputs=[spec(name="x", datatype=tensors_pb2.DATA_TYPE_INT64, shape=[-1, 4])],
        outputs=[spec(name="y", datatype=tensors_pb2.DATA_TYPE_FP32, shape=[-1, 3])],
    )
    version = registry.register(stub, models.linear(), declared_signature=signature)
    assert (version.state, version.failure_reason) == (pb.VERSION_STATE_FAILED, "SIGNATURE_MISMATCH")
    signature.inputs[0].datatype = tensors_pb2.DATA_TYPE_FP32
    signature.inputs[0].columns.extend("abcd")
    version = registry.register(stub, models.linear(), version="2", declared_signature=signature)
    assert version.state == pb.VERSION_STATE_READY, version.failure_message
    assert list(version.signature.inputs[0].columns) == ["a", "b", "c", "d"]


def test_a_version_that_exists_is_refused_before_its_bytes_and_stays_as_it_is(stub: RegistryServiceStub) -> None:
    first = registry.register(stub, models.linear())

    never = threading.Event()

    def without_bytes() -> Iterator[pb.RegisterVersionRequest]:
        yield from list(registry.upload(b"other"))[:2]
        never.wait()

    code, reason, _ = refused(stub, without_bytes())
    never.set()
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "VERSION_EXISTS")
    assert stub.GetVersion(pb.GetVersionRequest(model="iris", version="1")).version == first


def test_what_a_registration_says_comes_back(stub: RegistryServiceStub) -> None:
    metadata = pb.Metadata(
        task_type="classification",
        equivalence_group="flowers",
        output_dimensions=3,
        tags=["iris", "demo"],
    )
    metadata.fields.update({"origin": {"year": 1936.0}})
    said: dict[str, Any] = {
        "source_version": "2024-05",
        "source": pb.Source(origin="https", reference="example.org/iris", revision="abc"),
        "training_run_id": "run-7",
        "metadata": metadata,
        "serving_settings": pb.ServingSettings(max_in_flight=4, pinned=True),
        "capture_policy": pb.CapturePolicy(share=0.25, max_bytes=10),
    }
    version = registry.register(stub, models.linear(), **said)
    for name, value in said.items():
        assert getattr(version, name) == value
    assert version.create_time.ToNanoseconds() <= version.ready_time.ToNanoseconds()


def test_the_same_request_again_gives_the_first_result(stub: RegistryServiceStub) -> None:
    first = registry.register(stub, models.linear(), request_id="r1")
    again = stub.RegisterVersion(registry.upload(models.linear(), request_id="r1")).version
    assert again == first
    others: list[dict[str, Any]] = [{"version": "2"}, {"note": "another"}]
    for other in others:
        code, reason, _ = refused(stub, registry.upload(models.linear(), request_id="r1", **other))
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED")
    assert refused(stub, registry.upload(models.linear(width=5), request_id="r1"))[1] == "REQUEST_ID_REUSED"
    assert stub.GetModel(pb.GetModelRequest(name="iris")).model.version_count == 1


def test_a_model_is_created_once_and_again_only_by_the_same_request(stub: RegistryServiceStub) -> None:
    request = pb.CreateModelRequest(name="iris", description="flowers\nand more", request_id="r1")
    first = stub.CreateModel(request).model
    assert stub.CreateModel(request).model == first
    for other, code, reason in (
        (pb.CreateModelRequest(name="iris", request_id="r1"), grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED"),
        (pb.CreateModelRequest(name="iris"), grpc.StatusCode.ALREADY_EXISTS, "MODEL_EXISTS"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            stub.CreateModel(other)
        assert registry.refusal(caught.value)[:2] == (code, reason)


def test_a_model_is_labelled_and_found_from_its_creation_on(stub: RegistryServiceStub) -> None:
    request = pb.CreateModelRequest(name="iris", labels={"team": "ada"}, tags=["botany"], request_id="r1")
    model = stub.CreateModel(request).model
    assert (dict(model.labels), list(model.tags)) == ({"team": "ada"}, ["botany"])
    for wanted in (pb.ListModelsRequest(labels={"team": "ada"}), pb.ListModelsRequest(query="botany")):
        assert list(stub.ListModels(wanted).models) == [model]
    request.labels["team"] = "bob"
    with pytest.raises(grpc.RpcError) as caught:
        stub.CreateModel(request)
    assert registry.refusal(caught.value)[1] == "REQUEST_ID_REUSED"


def test_of_identical_requests_at_once_one_makes_and_all_get_the_same(
    stub: RegistryServiceStub, database_url: str
) -> None:
    creation = pb.CreateModelRequest(name="rose", request_id="r1")
    with registry.models_locked(database_url) as wait_for:
        created = [stub.CreateModel.future(creation) for _ in range(3)]
        uploaded = [
            stub.RegisterVersion.future(registry.upload(models.linear(), request_id="r1"), timeout=registry.DEADLINE_S)
            for _ in range(3)
        ]
        wait_for(6)
    assert len({call.result().model.create_time.ToNanoseconds() for call in created}) == 1
    assert {call.result().version.deployment_number for call in uploaded} == {1}
    assert stub.GetModel(pb.GetModelRequest(name="iris")).model.version_count == 1


def test_different_requests_of_one_id_at_once_make_one_thing(stub: RegistryServiceStub, database_url: str) -> None:
    with registry.models_locked(database_url) as wait_for:
        calls = [stub.CreateModel.future(pb.CreateModelRequest(name=name, request_id="r1")) for name in ("a", "b")]
        wait_for(2)
    outcomes = [registry.refusal(call.exception())[:2] if call.exception() else None for call in calls]
    assert set(outcomes) == {None, (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED")}
    assert len(stub.ListModels(pb.ListModelsRequest()).models) == 1


def test_a_repeated_upload_is_held_to_the_limits_too(stub: RegistryServiceStub) -> None:
    registry.register(stub, models.linear(), request_id="r1")
    large = registry.upload(b"x" * (MAX_UPLOAD_BYTES + 1), request_id="r1", file={"size_bytes": 0})
    assert refused(stub, large)[:2] == (INVALID, "TOO_LARGE")


def test_a_repeated_creation_shows_the_model_as_it_stands(stub: RegistryServiceStub) -> None:
    request = pb.CreateModelRequest(name="iris", request_id="r1")
    stub.CreateModel(request)
    registry.register(stub, models.linear())
    assert stub.CreateModel(request).model == stub.GetModel(pb.GetModelRequest(name="iris")).model


def test_registrations_at_once_count_without_gaps_and_a_version_is_made_once(stub: RegistryServiceStub) -> None:
    content = models.linear()
    refusals: list[str] = []

    def attempt(version: str) -> int:
        try:
            return stub.RegisterVersion(registry.upload(content, version=version)).version.deployment_number
        except grpc.RpcError as error:
            refusals.append(registry.refusal(error)[1])
            return 0

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(attempt, [str(number // 2) for number in range(16)]))
    assert sorted(filter(None, numbers)) == list(range(1, 9))
    assert refusals == ["VERSION_EXISTS"] * 8
    assert stub.GetModel(pb.GetModelRequest(name="iris")).model.version_count == 8


def test_a_registration_climbs_to_the_stage_that_it_asked_for_once_ready(stub: RegistryServiceStub) -> None:
    first = registry.register(stub, models.linear(), stage=pb.STAGE_PRODUCTION, **registry.APPROVED)
    assert (first.stage, first.parent_deployment_number) == (pb.STAGE_PRODUCTION, 0)
    second = registry.register(stub, models.linear(), version="2", stage=pb.STAGE_STAGING)
    assert (second.stage, second.parent_deployment_number) == (pb.STAGE_STAGING, 1)
    failed = registry.register(stub, models.garbage(), version="3", stage=pb.STAGE_PRODUCTION, **registry.APPROVED)
    assert (failed.state, failed.stage) == (pb.VERSION_STATE_FAILED, pb.STAGE_CANDIDATE)
    transitions = stub.ListTransitions(pb.ListTransitionsRequest(model="iris", version="1")).transitions
    assert [transition.to_stage for transition in reversed(transitions)] == [
        pb.STAGE_CANDIDATE,
        pb.STAGE_STAGING,
        pb.STAGE_PRODUCTION,
    ]
