"""What KServe's own client makes of the server at ADDRESS, as JSON: `python kserve_client.py ADDRESS`.

Run in the environment that `.ci/kserve` makes. Expected there: `classifier` (X FP32 [-1, 4] → label, probabilities),
`strings` (colour BYTES [-1, 1] → number INT64), `half` (x FP16 → y FP16) and `slow` (which the server ends).
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from typing import Any

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

ROWS = np.array([[1, 2, 3, 4], [4, 3, 2, 1]], np.float32)
logging.disable(logging.CRITICAL)


def request(model: str, name: str, array: Any, datatype: str, *, raw: bool = True, **more: Any) -> InferRequest:
    """Write a request, its tensor raw or typed."""
    tensor = InferInput(name=name, shape=list(array.shape), datatype=datatype)
    tensor.set_data_from_numpy(array, binary_data=raw)
    return InferRequest(model_name=model, infer_inputs=[tensor], **more)


async def refused(call: Any) -> list[str]:
    """Call, and give the code and the message."""
    try:
        await call
    except grpc.RpcError as error:
        return [error.code().name, error.details() or ""]
    return ["OK", ""]


def values(response: Any, name: str) -> Any:
    """Read an output."""
    return next(output for output in response.outputs if output.name == name).as_numpy().tolist()


async def ask(client: InferenceGRPCClient) -> dict[str, Any]:
    """Ask all that the client can."""
    whole = await client.infer(request("classifier", "X", ROWS, "FP32", request_id="r-1"))
    typed = await client.infer(request("classifier", "X", ROWS, "FP32", raw=False))
    mirrored = await client.infer(
        request("classifier", "X", ROWS, "FP32", raw=False, parameters={"mirror_contents": True})
    )
    colours = np.array([["red"], ["green"]], dtype=np.object_)
    strings = await client.infer(request("strings", "colour", colours, "BYTES"))
    typed_strings = await client.infer(request("strings", "colour", colours, "BYTES", raw=False))
    half = await client.infer(request("half", "x", ROWS.astype(np.float16), "FP16"))
    return {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model_ready": await client.is_model_ready("classifier"),
        "unknown_ready": await client.is_model_ready("nowhere"),
        "id": whole.id,
        "labels": values(whole, "label"),
        "probabilities": values(whole, "probabilities"),
        "typed_labels": values(typed, "label"),
        "mirrored_labels": values(mirrored, "label"),
        "numbers": [values(strings, "number"), values(typed_strings, "number")],
        "half": values(half, "y"),
        "unknown": await refused(client.infer(request("nowhere", "X", ROWS, "FP32"))),
        "wrong_shape": await refused(client.infer(request("classifier", "X", ROWS[:, :3].copy(), "FP32"))),
        "expired": await refused(client.infer(request("classifier", "X", ROWS, "FP32", parameters={"timeout": 1}))),
    }


async def fill_up(client: InferenceGRPCClient) -> dict[str, Any]:
    """Send more than may be in flight: what is refused must not be sent again by the client's own policy."""
    slow = {
        "model_name": "slow",
        "infer_inputs": [
            InferInput("x", [1, 4], "FP32", [1.0, 2.0, 3.0, 4.0]),
            InferInput("turns", [1], "INT64", [2**62]),
        ],
    }
    began = time.monotonic()
    answers = await asyncio.gather(*(refused(client.infer(InferRequest(**slow))) for _ in range(6)))
    return {"codes": sorted(code for code, _ in answers), "texts": sorted({text for _, text in answers}),
            "took_s": time.monotonic() - began}  # fmt: skip


async def load_and_unload(address: str) -> dict[str, Any]:
    """Call by KServe's stubs what its client has no method for: there the model is field 1."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        loaded = await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="classifier"))
        unloaded = await stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="classifier"))
        metadata = await stub.ModelMetadata(pb.ModelMetadataRequest(name="classifier"))
        return {
            "loaded": [loaded.model_name, loaded.isLoaded],
            "unloaded": [unloaded.model_name, unloaded.isUnloaded],
            "unknown": await refused(stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="nowhere"))),
            "metadata": [[each.name, each.datatype, list(each.shape)] for each in metadata.inputs],
        }


async def main(address: str) -> None:
    """Do it all."""
    async with InferenceGRPCClient(address, timeout=60) as client:
        report = {
            "asked": await ask(client),
            "filled": await fill_up(client),
            "repository": await load_and_unload(address),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
