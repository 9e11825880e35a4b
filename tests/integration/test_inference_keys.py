"""Who may predict: keys at the front doors, and the service's own key towards the registry and monitoring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import SecretStr

import penstock
from penstock.cli.keys_file import KeysFile, Kind, Role
from services.inference.oip import open_inference_pb2 as oip
from services.inference.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests import inference
from tests.inference import Suite, fp32, infer_request
from tests.registry import refusal
from tests.services import CloneDatabase, Running, running_inference, running_monitoring, running_registry
from tests.testdata import models

ROW = {"x": fp32([[1, 2, 3, 4]])}


@dataclass(frozen=True)
class Guarded:
    """A suite that wants keys, and the keys."""

    registry: Running
    monitoring: Running
    inference: Running
    viewer: str
    admin: str

    def client(self, token: str) -> penstock.Client:
        return penstock.Client(
            registry=self.registry.address,
            monitoring=self.monitoring.address,
            inference=self.inference.address,
            token=token,
        )


@pytest.fixture
def guarded(clone_database: CloneDatabase, tmp_path: Path) -> Iterator[Guarded]:
    keys = tmp_path / "keys.json"
    _, viewer = KeysFile(keys).create("ada", Role.VIEWER)
    _, admin = KeysFile(keys).create("grace", Role.ADMIN)
    _, service = KeysFile(keys).create("inference", Role.OPERATOR, kind=Kind.SERVICE)
    with (
        running_registry(clone_database("registry"), tmp_path, keys_file=keys) as registry,
        running_monitoring(clone_database("monitoring"), keys_file=keys) as monitoring,
        running_inference(
            tmp_path,
            registry=registry.address,
            monitoring=monitoring.address,
            keys_file=keys,
            service_token=SecretStr(service),
        ) as served,
    ):
        yield Guarded(registry, monitoring, served, viewer, admin)


def test_a_viewer_predicts_and_the_services_own_key_does_the_rest(guarded: Guarded) -> None:
    with guarded.client(guarded.admin) as admin, guarded.client(guarded.viewer) as viewer:
        inference.register(admin, "linear", models.linear())
        answer = inference.wait_until(lambda: _predicted(viewer))
        # Followed, downloaded and recorded: three calls that the caller's key had no part in.
        assert inference.event_of(viewer, answer.inference_id).event.model == "linear"
        with pytest.raises(penstock.PermissionDenied) as caught:
            inference.register(viewer, "other", models.linear())
    assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED


def _predicted(client: penstock.Client) -> penstock.Prediction | None:
    try:
        return client.inference.predict("linear", tensors=ROW)
    except (penstock.NotFound, penstock.Unavailable):
        return None


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        (None, "MISSING_KEY"),
        ("", "MISSING_KEY"),
        (f"Bearer pk_{'0f' * 32}", "UNKNOWN_KEY"),
        ("Bearer", "UNKNOWN_KEY"),
        ("Basic YWRhOmFkYQ==", "UNKNOWN_KEY"),
    ],
)
def test_without_a_known_key_nothing_is_answered_but_whether_the_server_lives(
    guarded: Guarded, authorization: str | None, reason: str
) -> None:
    metadata = () if authorization is None else (("authorization", authorization),)
    with grpc.insecure_channel(guarded.inference.address) as channel:
        stub: Any = GRPCInferenceServiceStub(channel)
        for call, request in (
            (stub.ModelInfer, infer_request("linear", ROW)),
            (stub.ModelReady, oip.ModelReadyRequest(name="linear")),
            (stub.ModelStatistics, oip.ModelStatisticsRequest()),
            (stub.RepositoryIndex, oip.RepositoryIndexRequest()),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(request, metadata=metadata, timeout=inference.DEADLINE_S)
            assert refusal(caught.value)[:2] == (grpc.StatusCode.UNAUTHENTICATED, reason)
        assert stub.ServerLive(oip.ServerLiveRequest(), metadata=metadata, timeout=inference.DEADLINE_S).live


def test_a_bare_key_is_taken_as_well(guarded: Guarded) -> None:
    with grpc.insecure_channel(guarded.inference.address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        metadata = (("authorization", guarded.viewer),)
        answer = stub.ServerMetadata(oip.ServerMetadataRequest(), metadata=metadata, timeout=inference.DEADLINE_S)
    assert answer.name == "penstock"


def test_an_inference_service_whose_own_key_is_unknown_never_becomes_ready(guarded: Guarded, tmp_path: Path) -> None:
    with (
        running_inference(
            tmp_path / "stranger",
            registry=guarded.registry.address,
            monitoring=guarded.monitoring.address,
            service_token=SecretStr("pk_unknown"),
            drain_grace_ms=0,  # nobody takes its events
        ) as stranger,
        inference.connected(guarded.registry, guarded.monitoring, stranger) as suite,
    ):
        assert_not_ready(suite)


def assert_not_ready(suite: Suite) -> None:
    assert not suite.oip.ServerReady(oip.ServerReadyRequest(), timeout=inference.DEADLINE_S).ready
    with (
        penstock.Client(inference=suite.inference.address, retry=penstock.NO_RETRIES) as client,
        pytest.raises(penstock.Unavailable) as caught,
    ):
        client.inference.predict("linear", tensors=ROW)
    assert caught.value.reason == "REGISTRY_NOT_HEARD"
