"""Messages over the limit are refused with a clear code by every service, packed ones as well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from penstock.api.inference.v1 import inference_pb2, inference_pb2_grpc
from penstock.api.monitoring.v1 import monitoring_pb2, monitoring_pb2_grpc
from penstock.api.registry.v1 import registry_pb2, registry_pb2_grpc
from services.inference.oip import open_inference_pb2 as oip
from services.inference.oip import open_inference_pb2_grpc as oip_grpc
from tests.kit import failure
from tests.services import CloneDatabase, running_inference, running_monitoring, running_registry

LIMIT_BYTES = 64 * 1024
Addresses = dict[str, str]
RPCS = ("registry", "upload", "monitoring", "events", "inference", "oip")


@pytest.fixture
def addresses(clone_database: CloneDatabase, tmp_path: Path) -> Iterator[Addresses]:
    limit: dict[str, Any] = {"max_message_bytes": LIMIT_BYTES}

    with (
        running_registry(clone_database("registry"), tmp_path, **limit) as registry,
        running_monitoring(clone_database("monitoring"), **limit) as monitoring,
        running_inference(tmp_path, registry=registry.address, monitoring=monitoring.address, **limit) as inference,
    ):
        served = (registry, registry, monitoring, monitoring, inference, inference)
        yield {rpc: service.address for rpc, service in zip(RPCS, served, strict=True)}


def send(rpc: str, address: str, size_bytes: int, compression: grpc.Compression) -> None:
    """Send one message of that size and a bit to an RPC of each kind, to be refused by what it says or its size."""
    packed: dict[str, Any] = {"compression": compression, "timeout": 20}
    filler = "x" * size_bytes
    with grpc.insecure_channel(address) as channel:
        match rpc:
            case "registry":
                registry_pb2_grpc.RegistryServiceStub(channel).GetModel(
                    registry_pb2.GetModelRequest(name=filler), **packed
                )
            case "upload":
                chunk = registry_pb2.RegisterVersionRequest(chunk=filler.encode())
                registry_pb2_grpc.RegistryServiceStub(channel).RegisterVersion(iter([chunk]), **packed)
            case "monitoring":
                monitoring_pb2_grpc.MonitoringServiceStub(channel).GetInference(
                    monitoring_pb2.GetInferenceRequest(inference_id=filler), **packed
                )
            case "events":
                event = monitoring_pb2.InferenceEvent(inference_id=filler)
                batch = monitoring_pb2.RecordEventsRequest(batch_id=1, events=[event])
                answers = monitoring_pb2_grpc.MonitoringServiceStub(channel).RecordEvents(iter([batch]), **packed)
                next(answers)
                raise AssertionError("it was taken")
            case "inference":
                inference_pb2_grpc.InferenceServiceStub(channel).Predict(
                    inference_pb2.PredictRequest(model=filler), **packed
                )
            case "oip":
                oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer(
                    oip.ModelInferRequest(model_name=filler), **packed
                )


@pytest.mark.slow
def test_a_message_over_the_limit_is_refused_plain_or_packed(addresses: Addresses) -> None:
    cases = [
        (LIMIT_BYTES + 1, grpc.Compression.NoCompression),
        (LIMIT_BYTES + 1, grpc.Compression.Gzip),
        (4 * 1024 * 1024, grpc.Compression.Gzip),  # a bomb: 4 KiB on the wire
        (4 * 1024 * 1024, grpc.Compression.Deflate),
    ]
    for rpc, address in addresses.items():
        for size_bytes, compression in cases:
            refused = failure(lambda: send(rpc, address, size_bytes, compression))  # noqa: B023 - called at once
            assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, (rpc, size_bytes, compression)
            assert "larger than max" in (refused.details() or ""), (rpc, size_bytes, compression)
    for rpc in ("registry", "monitoring", "inference", "oip"):  # so that those refusals are of the size
        refused = failure(lambda: send(rpc, addresses[rpc], LIMIT_BYTES // 2, grpc.Compression.Gzip))  # noqa: B023
        assert refused.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND), rpc


def test_headers_over_the_limit_are_refused(addresses: Addresses) -> None:
    with grpc.insecure_channel(addresses["registry"]) as channel:
        stub = registry_pb2_grpc.RegistryServiceStub(channel)
        huge = (("x-filler", "x" * 100_000),)
        refused = failure(lambda: stub.GetModel(registry_pb2.GetModelRequest(name="a"), metadata=huge, timeout=60))
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
