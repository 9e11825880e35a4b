"""Every error of a service comes out of the SDK as one typed exception, with all that the wire carried."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import grpc
import pytest

from penstock import NO_RETRIES, Client
from penstock import errors as sdk
from penstock.api.registry.v1 import registry_pb2 as pb
from services.common import errors
from services.common.errors import FieldViolation
from tests.sdk import ScriptedServer, client_of, fail, scripted_server, stream


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    with client_of(server, retry=NO_RETRIES) as client:
        yield client


KINDS = [
    errors.InvalidArgument, errors.NotFound, errors.AlreadyExists, errors.FailedPrecondition, errors.Aborted,
    errors.OutOfRange, errors.ResourceExhausted, errors.Unauthenticated, errors.PermissionDenied, errors.Unavailable,
    errors.DeadlineExceeded, errors.Cancelled, errors.DataLoss, errors.Internal, errors.Unimplemented,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_kind_of_error_keeps_its_class_reason_and_sentence(
    server: ScriptedServer, client: Client, kind: type[errors.DomainError]
) -> None:
    server.on("GetModel", fail(kind("what happened", reason="SCRIPTED")))
    with pytest.raises(sdk.PenstockError) as caught:
        client.registry.get_model("iris")
    assert type(caught.value).__name__ == kind.__name__
    assert (caught.value.reason, caught.value.message, str(caught.value)) == (
        "SCRIPTED", "what happened", "what happened",
    )  # fmt: skip
    assert caught.value.retryable is kind.retryable
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_every_canonical_code_has_a_class() -> None:
    assert set(sdk.CLASSES) == set(grpc.StatusCode) - {grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN}


def test_violations_metadata_and_the_wait_asked_for_come_along(server: ScriptedServer, client: Client) -> None:
    violations = (FieldViolation("name", "is empty"), FieldViolation("description", "is too long"))
    server.on("GetModel", fail(errors.InvalidArgument("bad", violations=violations, metadata={"limit": "4096"})))
    with pytest.raises(sdk.InvalidArgument) as caught:
        client.registry.get_model("")
    assert [(each.field, each.description) for each in caught.value.violations] == [
        ("name", "is empty"), ("description", "is too long"),
    ]  # fmt: skip
    assert caught.value.metadata == {"limit": "4096"}
    assert caught.value.retry_after_s is None

    server.on("GetModel", fail(errors.ResourceExhausted("full", reason="QUEUE_FULL", retry_after_s=0.25)))
    with pytest.raises(sdk.ResourceExhausted) as full:
        client.registry.get_model("iris")
    assert full.value.retry_after_s == 0.25


def test_an_error_in_the_middle_of_a_stream_is_typed_too(server: ScriptedServer, client: Client) -> None:
    server.on("WatchModels", stream(pb.WatchModelsResponse(revision=7), then=errors.OutOfRange("gone", reason="R")))
    events = client.registry.watch()
    assert next(events).revision == 7
    with pytest.raises(sdk.OutOfRange) as caught:
        next(events)
    assert caught.value.reason == "R"


@pytest.mark.parametrize("details", [b"\xff\xff", b""], ids=["garbage", "without ErrorInfo"])
def test_an_error_with_other_details_still_has_its_class(
    server: ScriptedServer, client: Client, details: bytes
) -> None:
    def behave(request: object, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata(((sdk.DETAILS_KEY, details),))
        context.abort(grpc.StatusCode.NOT_FOUND, "a proxy's words")

    server.on("GetModel", behave)
    with pytest.raises(sdk.NotFound, match="a proxy's words") as caught:
        client.registry.get_model("iris")
    assert caught.value.reason == "NOT_FOUND"


def test_a_service_that_is_not_there_is_named() -> None:
    with Client(registry="127.0.0.1:1", retry=NO_RETRIES) as client, pytest.raises(sdk.Unavailable) as caught:
        client.registry.get_model("iris")
    assert "127.0.0.1:1" in caught.value.message
    assert caught.value.retryable


def test_an_answer_that_is_too_late_is_a_deadline(server: ScriptedServer) -> None:
    server.on("GetModel", lambda request, context: server.released.wait())
    with client_of(server, timeout_s=0.2) as client, pytest.raises(sdk.DeadlineExceeded, match="GetModel"):
        client.registry.get_model("iris")


def test_another_service_at_the_address_is_said_so() -> None:
    with scripted_server() as server, client_of(server) as client:
        server.on("GetModel", lambda request, context: context.abort(grpc.StatusCode.UNIMPLEMENTED, "no method"))
        with pytest.raises(sdk.Unimplemented, match="another service"):
            client.registry.get_model("iris")


def test_errors_survive_pickling() -> None:
    error = sdk.NotFound("gone", reason="MODEL_NOT_FOUND", metadata={"model": "iris"}, retry_after_s=1.5)
    failed = sdk.ValidationFailed(pb.ModelVersion(model="iris", version="1", failure_reason="NOT_ONNX"))
    again, failed_again = pickle.loads(pickle.dumps(error)), pickle.loads(pickle.dumps(failed))
    assert (again.message, again.reason, again.metadata, again.retry_after_s) == (
        "gone", "MODEL_NOT_FOUND", {"model": "iris"}, 1.5,
    )  # fmt: skip
    assert (failed_again.reason, failed_again.version) == ("NOT_ONNX", failed.version)
