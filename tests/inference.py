"""A suite for the inference tests: the real services, models to serve, and the calls that a client would make."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
from numpy.typing import ArrayLike, NDArray

import penstock
from penstock.api.inference.v1.inference_pb2_grpc import InferenceServiceStub
from penstock.api.monitoring.v1 import monitoring_pb2
from services.inference.oip import open_inference_pb2 as oip
from services.inference.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from services.inference.tensors import datatype_of, to_raw
from tests.postgres import PostgresServer
from tests.services import Running, running_inference, running_monitoring, running_registry
from tests.waiting import looks

DEADLINE_S = 60.0
APPROVED: dict[str, Any] = {"approved_by": "ada", "note": "it was tried"}
Found = TypeVar("Found")


@dataclass(frozen=True)
class Suite:
    """All three services, a client of them, and the bare stubs of inference's two front doors."""

    registry: Running
    monitoring: Running
    inference: Running
    client: penstock.Client
    predict: InferenceServiceStub
    oip: GRPCInferenceServiceStub


@contextmanager
def running_suite(server: PostgresServer, folder: Path, **settings: Any) -> Iterator[Suite]:
    """Run the suite on databases of its own; the settings are the inference service's."""
    with ExitStack() as stack:
        urls = server.clone("registry"), server.clone("monitoring")
        for url in urls:
            stack.callback(server.drop, url)
        registry = stack.enter_context(running_registry(urls[0], folder))
        monitoring = stack.enter_context(running_monitoring(urls[1]))
        inference = stack.enter_context(
            running_inference(folder, registry=registry.address, monitoring=monitoring.address, **settings)
        )
        yield stack.enter_context(connected(registry, monitoring, inference))


@contextmanager
def connected(registry: Running, monitoring: Running, inference: Running) -> Iterator[Suite]:
    """Make the clients of running services."""
    with (
        penstock.Client(
            registry=registry.address, monitoring=monitoring.address, inference=inference.address
        ) as client,
        grpc.insecure_channel(inference.address) as channel,
    ):
        yield Suite(
            registry,
            monitoring,
            inference,
            client,
            InferenceServiceStub(channel),
            GRPCInferenceServiceStub(channel),
        )


def register(client: penstock.Client, model: str, content: bytes, *, version: str = "1.0.0", **more: Any) -> None:
    """Register a version, and wait until it is READY."""
    client.registry.register_version(model, version, content, framework="onnx", **more)


def go_live(client: penstock.Client, model: str, version: str) -> None:
    """Move a version from DEVELOPMENT to PRODUCTION."""
    for stage in ("candidate", "staging", "production"):
        client.registry.promote(model, version, stage, **APPROVED)


def serve(suite: Suite, model: str, content: bytes, *, version: str = "1.0.0", **more: Any) -> None:
    """Register a version, and wait until inference knows it."""
    register(suite.client, model, content, version=version, **more)
    until_known(suite.oip, model, version)


def until_known(stub: GRPCInferenceServiceStub, model: str, version: str = "") -> None:
    """Wait until inference knows a version."""
    request = oip.ModelReadyRequest(name=model, version=version)
    wait_until(lambda: stub.ModelReady(request, timeout=DEADLINE_S).ready or None)


def event_of(client: penstock.Client, inference_id: str) -> monitoring_pb2.Inference:
    """Wait until monitoring has the event of a prediction."""

    def look() -> monitoring_pb2.Inference | None:
        try:
            return client.monitoring.get_inference(inference_id)
        except penstock.NotFound:
            return None

    return wait_until(look)


def failures_of(client: penstock.Client, model: str, count: int = 1) -> list[monitoring_pb2.InferenceEvent]:
    """Wait until monitoring has so many failed predictions of a model, the newest first."""

    def look() -> list[monitoring_pb2.InferenceEvent] | None:
        found = [each.event for each in client.monitoring.list_inferences(model=model, errors_only=True)]
        return found if len(found) >= count else None

    return wait_until(look)


def infer_request(
    model: str, inputs: dict[str, NDArray[Any]], *, version: str = "", outputs: Sequence[str] = (), **more: Any
) -> oip.ModelInferRequest:
    """Write a request with raw tensors."""
    return oip.ModelInferRequest(
        model_name=model,
        model_version=version,
        inputs=[
            oip.ModelInferRequest.InferInputTensor(name=name, datatype=datatype_of(array), shape=array.shape)
            for name, array in inputs.items()
        ],
        outputs=[oip.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs],
        raw_input_contents=[to_raw(array) for array in inputs.values()],
        **more,
    )


def metrics_page(service: Running) -> dict[str, float]:
    """Read a service's metrics page: each sample's value by its name and labels, as they are written."""
    with urllib.request.urlopen(f"http://127.0.0.1:{service.metrics_port}/metrics", timeout=DEADLINE_S) as answer:
        lines = answer.read().decode().splitlines()
    samples = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    assert len({name for name, _, _ in samples}) == len(samples), "a sample stands there twice"
    return {name: float(value) for name, _, value in samples}


def until_metric(service: Running, name: str, value: float) -> None:
    """Wait until a sample has a value."""
    wait_until(lambda: metrics_page(service).get(name) == value or None)


def fp32(values: ArrayLike) -> NDArray[np.float32]:
    """Make single-precision numbers of a list."""
    return np.asarray(values, np.float32)


def wait_until(look: Callable[[], Found | None]) -> Found:
    """Look until something is found."""
    for _ in looks(DEADLINE_S):
        if (found := look()) is not None:
            return found
    raise AssertionError("waited too long")
