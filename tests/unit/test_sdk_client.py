"""The client itself: where it goes, what it shows, what it costs to import, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import penstock
from penstock import Client
from penstock import errors as sdk
from penstock.api.inference.v1 import inference_pb2
from penstock.api.monitoring.v1 import monitoring_pb2
from penstock.api.monitoring.v1.monitoring_pb2_grpc import MonitoringServiceStub
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from penstock.channels import Connection, Limits
from penstock.credentials import Address, Credentials
from penstock.tensors import to_tensor
from tests.certificates import certificate
from tests.sdk import answer, client_of, scripted_server

VARIABLES = [
    "PENSTOCK_REGISTRY_ADDRESS", "PENSTOCK_INFERENCE_ADDRESS", "PENSTOCK_MONITORING_ADDRESS", "PENSTOCK_TOKEN",
]  # fmt: skip


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def test_the_sdk_stands_on_its_three_dependencies_alone() -> None:
    """What those three bring along is theirs: grpcio loads its own tools where they are installed."""
    code = (
        "import sys, json, penstock; light = 'grpc' not in sys.modules\n"
        "import grpc, numpy, google.protobuf; before = {name.split('.')[0] for name in sys.modules}\n"
        "import penstock.client; penstock.Client().close(); [getattr(penstock, name) for name in penstock.__all__]\n"
        "after = {name.split('.')[0] for name in sys.modules}\n"
        "print(json.dumps([light, sorted(after - before - set(sys.stdlib_module_names))]))"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    light, packages = json.loads(printed)
    assert light, "importing penstock alone loads grpc"
    assert packages == []


def test_every_public_name_is_there() -> None:
    assert all(getattr(penstock, name) is not None for name in penstock.__all__)
    assert set(penstock.__all__) <= set(dir(penstock))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = penstock.nonsense


def test_the_version_is_the_packages() -> None:
    pyproject = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    assert f'version = "{penstock.__version__}"' in pyproject


def test_addresses_and_token_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_server() as server:
        server.on("GetModel", answer(pb.GetModelResponse(model=pb.Model(name="iris"))))
        monkeypatch.setenv("PENSTOCK_REGISTRY_ADDRESS", f"http://{server.address}")
        monkeypatch.setenv("PENSTOCK_TOKEN", "secret")
        with Client() as client:
            assert client.registry.get_model("iris").name == "iris"
        assert server.metadata["authorization"] == "Bearer secret"
        with Client(token="") as client:
            client.registry.get_model("iris")
        assert "authorization" not in server.metadata


@pytest.mark.parametrize(
    ("text", "target", "tls", "loopback"),
    [
        ("localhost:50051", "localhost:50051", None, True),
        ("127.0.0.1:1", "127.0.0.1:1", None, True),
        ("[::1]:1", "[::1]:1", None, True),
        ("unix:/run/registry", "unix:/run/registry", None, True),
        ("registry:50051", "registry:50051", None, False),
        ("10.0.0.1:50051", "10.0.0.1:50051", None, False),
        ("localhost.example.com:1", "localhost.example.com:1", None, False),
        ("dns:///registry:50051", "dns:///registry:50051", None, False),
        ("http://registry:50051/", "registry:50051", False, False),
        ("grpcs://registry:443", "registry:443", True, False),
    ],
)
def test_addresses_are_read(text: str, target: str, tls: bool | None, loopback: bool) -> None:
    address = Address.parse(text)
    assert (address.target, address.tls, address.loopback) == (target, tls, loopback)


@pytest.mark.parametrize("text", [" ", "https://registry/path", "grpc://"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(sdk.InvalidArgument, match="no address"):
        Client(registry=text)


def test_a_token_never_leaves_this_machine_in_plain_text_unless_told() -> None:
    with pytest.raises(sdk.InvalidArgument) as caught:
        Client(inference="inference.example.com:8001", token="secret")
    assert caught.value.reason == "TOKEN_OVER_INSECURE_CHANNEL"
    assert "secret" not in str(caught.value)
    Client(inference="inference.example.com:8001", token="secret", insecure=True).close()
    Client(inference="grpcs://inference.example.com:8001", token="secret").close()
    Client(inference="inference.example.com:8001", token="secret", ca_file="ca.pem").close()
    with pytest.raises(sdk.InvalidArgument):
        Client(inference="http://inference.example.com:8001", token="secret", ca_file="ca.pem")


def test_the_token_is_not_shown() -> None:
    assert "secret" not in repr(Credentials(token="secret"))


@pytest.mark.parametrize(
    "settings", [{"cert_file": "c.pem"}, {"timeout_s": 0.0}, {"idle_timeout_s": float("nan")}, {"connections": 0}]
)
def test_senseless_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(sdk.InvalidArgument):
        Client(**settings)  # type: ignore[arg-type]  # a str, a float, an int, each where it belongs


def test_a_missing_ca_file_shows_at_the_first_call() -> None:
    with Client(ca_file="/nowhere/ca.pem") as client, pytest.raises(FileNotFoundError):
        client.registry.get_model("iris")


def test_a_closed_client_says_so() -> None:
    client = Client()
    client.close()
    with pytest.raises(sdk.FailedPrecondition, match="closed") as caught:
        client.registry.get_model("iris")
    assert caught.value.reason == "CLIENT_CLOSED"


@pytest.mark.parametrize(
    "call",
    [
        lambda connection, registry, _: connection.unary(registry.GetModel, pb.GetModelRequest()),
        lambda connection, registry, _: next(connection.stream(registry.WatchModels, pb.WatchModelsRequest())),
        lambda connection, registry, _: connection.upload(
            registry.RegisterVersion, pb.RegisterVersionRequest, iter(())
        ),
        lambda connection, _, monitoring: next(
            connection.exchange(monitoring.RecordEvents, monitoring_pb2.RecordEventsRequest, iter(()))
        ),
    ],
    ids=["unary", "stream", "upload", "exchange"],
)
def test_a_client_that_another_thread_closes_as_a_call_begins_says_so(call: Callable[..., Any]) -> None:
    connection = Connection(
        lambda channel: (RegistryServiceStub(channel), MonitoringServiceStub(channel)),
        Address.parse("localhost:1"),
        Credentials(),
        Limits(),
    )
    stubs = connection.stub
    connection.close()
    with pytest.raises(sdk.FailedPrecondition) as caught:
        call(connection, *stubs)
    assert caught.value.reason == "CLIENT_CLOSED"


def test_several_connections_are_used_in_turn() -> None:
    with scripted_server() as server, client_of(server, connections=3) as client:
        server.on("Predict", answer(inference_pb2.PredictResponse()))
        for _ in range(6):
            client.inference.predict("iris", {"x": 1})
        assert len(server.peers) == 3


def test_messages_over_the_limit_are_refused_by_name() -> None:
    with scripted_server() as server, client_of(server, max_message_bytes=10_000) as client:
        server.on("Predict", answer(inference_pb2.PredictResponse()))
        with pytest.raises(sdk.ResourceExhausted, match="larger than max"):
            client.inference.predict("iris", tensors={"x": np.zeros(10_000)})


def test_the_default_limits_are_what_the_documentation_says() -> None:
    assert (Limits().timeout_s, Limits().idle_timeout_s, Limits().retry.attempts) == (30.0, 60.0, 5)


def test_a_prediction_comes_back_as_numpy() -> None:
    said = inference_pb2.PredictResponse(
        inference_id="id", confidences=[0.9, 0.8], model="iris", version="1", framework="onnx", latency_ms=0.5,
        outputs=[to_tensor("label", np.array(["setosa", "virginica"])), to_tensor("p", np.eye(2, dtype="f4"))],
    )  # fmt: skip
    with scripted_server() as server, client_of(server) as client:
        server.on("Predict", answer(said))
        prediction = client.inference.predict(
            "iris",
            {"sepal": [1, 2.5]},
            version="production",
            outputs=["p"],
            user_id="u",
            session_id="s",
            request_id="r",
        )
        assert prediction.outputs["label"].tolist() == [b"setosa", b"virginica"]
        np.testing.assert_array_equal(prediction.outputs["p"], np.eye(2))
        assert (prediction.inference_id, prediction.confidences, prediction.version) == ("id", (0.9, 0.8), "1")
        assert (prediction.framework, prediction.latency_ms, prediction.model) == ("onnx", 0.5, "iris")

        request = server.calls["Predict"][0]
        assert (request.version, list(request.outputs)) == ("production", ["p"])
        assert (request.user_id, request.session_id, request.request_id) == ("u", "s", "r")
        assert list(request.features.fields["sepal"].list_value) == [1, 2.5]


def test_tensors_go_as_arrays_and_the_only_input_without_a_name() -> None:
    rows = np.arange(4, dtype="f4").reshape(1, 4)
    with scripted_server() as server, client_of(server) as client:
        server.on("Predict", answer(inference_pb2.PredictResponse()))
        client.inference.predict("iris", tensors={"X": rows})
        client.inference.predict("iris", rows)
        named, nameless = server.calls["Predict"]
        assert (list(named.tensors), named.HasField("features")) == ([to_tensor("X", rows)], False)
        assert list(nameless.tensors) == [to_tensor("", rows)]
        with pytest.raises(sdk.InvalidArgument, match="either features or tensors"):
            client.inference.predict("iris")
        with pytest.raises(sdk.InvalidArgument, match="either features or tensors"):
            client.inference.predict("iris", {"x": 1}, tensors={"x": rows})


def test_mutual_tls_by_file_paths(tmp_path: Path) -> None:
    cert_file, key_file = certificate(tmp_path)
    cert, key = cert_file.read_bytes(), key_file.read_bytes()
    credentials = grpc.ssl_server_credentials([(key, cert)], root_certificates=cert, require_client_auth=True)
    with scripted_server(credentials) as server:
        server.on("GetModel", answer(pb.GetModelResponse(model=pb.Model(name="iris"))))
        address = server.address.replace("127.0.0.1", "localhost")
        with Client(registry=address, ca_file=cert_file, cert_file=cert_file, key_file=key_file, token="k") as client:
            assert client.registry.get_model("iris").name == "iris"
        assert server.metadata["authorization"] == "Bearer k"
        for settings in ({"ca_file": cert_file}, {}):
            stranger = Client(registry=address, retry=penstock.NO_RETRIES, **settings)  # type: ignore[arg-type]  # a path
            with stranger as client, pytest.raises(sdk.Unavailable):
                client.registry.get_model("iris")


def test_a_list_without_names_is_refused_with_what_to_give() -> None:
    with Client() as client, pytest.raises(sdk.InvalidArgument, match="by name, or a numpy array") as caught:
        client.inference.predict("iris", [5.1, 3.5, 1.4, 0.2])  # type: ignore[arg-type] # what people try first
    assert caught.value.reason == "FEATURES_NOT_NAMED"
