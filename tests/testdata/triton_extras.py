"""What NVIDIA's own client makes of Triton's extensions at ADDRESS, as JSON: `python triton_extras.py ADDRESS`.

A process of its own, as triton_client.py is. Expected there: `classifier` (X FP32 [-1, 4] → label, probabilities; its
classes are named), `strings` (colour BYTES [-1, 1] → number INT64), `half` (x FP16 → y FP16) and `brain` (x BF16 → y
BF16), with shared memory served.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import sys
from collections.abc import AsyncIterator
from typing import Any

import ml_dtypes
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

ROWS = np.array([[1, 2, 3, 4], [4, 3, 2, 1]], np.float32)
STREAMED = 40


def tensor(name: str, array: Any, datatype: str) -> triton.InferInput:
    """Write an input."""
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def refused(call: Any) -> list[str]:
    """Call, and give the status and the message."""
    try:
        call()
    except InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    return ["OK", ""]


def stream(client: triton.InferenceServerClient) -> dict[str, Any]:
    """Send many requests over one stream, some of them bad, with and without the mark of the last answer."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for number in range(STREAMED):
        model = "nowhere" if number == 7 else "classifier"
        x = tensor("X", ROWS * np.float32(number), "FP32")
        client.async_stream_infer(model, [x], request_id=str(number), enable_empty_final_response=number % 2 == 0)
    came = [answers.get(timeout=60) for _ in range(STREAMED)]
    client.stop_stream()
    responses = [None if error else result.get_response() for result, error in came]
    return {
        "ids": [response.id for response in responses if response],
        "errors": [str(error) for _, error in came if error],
        "failed": [number for number, (_, error) in enumerate(came) if error],
        "marked": [
            response.id for response in responses if response and "triton_final_response" in response.parameters
        ],
        "labels": [result.as_numpy("label").tolist() for result, _ in came if result],
    }


def unary_labels(client: triton.InferenceServerClient) -> list[list[int]]:
    """Ask for the same by single calls."""
    found = []
    for number in range(STREAMED):
        if number != 7:
            answer = client.infer("classifier", [tensor("X", ROWS * np.float32(number), "FP32")])
            found.append(answer.as_numpy("label").tolist())
    return found


async def stream_with_asyncio(address: str) -> list[str]:
    """Stream with the client's other self."""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(8):
            x = triton_aio.InferInput("X", list(ROWS.shape), "FP32")
            x.set_data_from_numpy(ROWS)
            yield {"model_name": "classifier", "inputs": [x], "request_id": str(number)}

    async with triton_aio.InferenceServerClient(address) as client:
        return [result.get_response().id async for result, _ in client.stream_infer(requests())]


def share_memory(client: triton.InferenceServerClient) -> dict[str, Any]:
    """Let inputs and outputs travel through shared memory, rightly and wrongly."""
    key = f"/penstock_test_{os.getpid()}"
    handle = shm.create_shared_memory_region("both", key, 256)
    try:
        client.unregister_system_shared_memory()
        shm.set_shared_memory_region(handle, [ROWS])
        client.register_system_shared_memory("both", key, 256)
        client.register_system_shared_memory("tail", key, 64, offset=192)
        x = triton.InferInput("X", [2, 4], "FP32")
        x.set_shared_memory("both", ROWS.nbytes)
        y = triton.InferRequestedOutput("probabilities")
        y.set_shared_memory("both", 24, offset=64)
        answer = client.infer("classifier", [x], outputs=[triton.InferRequestedOutput("label"), y])
        beyond = triton.InferInput("X", [2, 4], "FP32")
        beyond.set_shared_memory("tail", ROWS.nbytes, offset=48)
        small = triton.InferRequestedOutput("probabilities")
        small.set_shared_memory("tail", 20)
        foreign = triton.InferInput("X", [2, 4], "FP32")
        foreign.set_shared_memory("unknown", ROWS.nbytes)
        return {
            "labels": answer.as_numpy("label").tolist(),
            "probabilities": shm.get_contents_as_numpy(handle, np.float32, [2, 3], 64).tolist(),
            "in_message": [len(raw) for raw in answer.get_response().raw_output_contents],
            "status": client.get_system_shared_memory_status(as_json=True)["regions"],
            "beyond": refused(lambda: client.infer("classifier", [beyond])),
            "small": refused(lambda: client.infer("classifier", [x], outputs=[small])),
            "unknown": refused(lambda: client.infer("classifier", [foreign])),
            "missing": refused(lambda: client.register_system_shared_memory("m", "/penstock_nowhere", 8)),
            "too_small": refused(lambda: client.register_system_shared_memory("s", key, 10_000)),
            "escaping": refused(lambda: client.register_system_shared_memory("e", "../etc/passwd", 8)),
        }
    finally:
        client.unregister_system_shared_memory()
        shm.destroy_shared_memory_region(handle)


def load_and_unload(client: triton.InferenceServerClient) -> dict[str, Any]:
    """Take a model out of memory and bring it back."""

    def held() -> bool:
        (found,) = client.get_inference_statistics("strings", as_json=True)["model_stats"]
        return "memory_usage" in found

    client.load_model("strings")
    client.infer("strings", [tensor("colour", np.array([["red"]], dtype=np.object_), "BYTES")])
    loaded = held()
    client.unload_model("strings")
    return {
        "loaded": loaded,
        "unloaded": not held(),
        "unknown": refused(lambda: client.load_model("nowhere")),
        "unknown_unload": refused(lambda: client.unload_model("nowhere")),
        "own_files": refused(lambda: client.load_model("strings", config="{}")),
    }


def ask_otherwise(client: triton.InferenceServerClient) -> dict[str, Any]:
    """Classes with labels, other number formats, priorities, sequences and the server's switches."""
    x = tensor("X", ROWS, "FP32")
    best = client.infer("classifier", [x], outputs=[triton.InferRequestedOutput("probabilities", class_count=2)])
    halves = np.array([[1.5, 2.5, -3, 0]], np.float16)
    brains = np.array([[1.5, 2.5, -3, 0]], ml_dtypes.bfloat16)
    config = client.get_model_config("classifier", as_json=True)["config"]
    log = client.update_log_settings({"log_info": False}, as_json=True)["settings"]
    client.update_log_settings({"log_info": True})
    return {
        "classes": [row[0].decode() for row in best.as_numpy("probabilities").tolist()],
        "halves": client.infer("half", [tensor("x", halves, "FP16")]).as_numpy("y").astype(float).tolist(),
        "brains": client.infer("brain", [tensor("x", brains, "BF16")]).as_numpy("y").astype(float).tolist(),
        "urgent": client.infer("classifier", [x], priority=1, timeout=10_000_000).as_numpy("label").tolist(),
        "sequence": refused(lambda: client.infer("classifier", [x], sequence_id=3, sequence_start=True)),
        "extensions": client.get_server_metadata(as_json=True)["extensions"],
        "config": config,
        "metadata": client.get_model_metadata("classifier", as_json=True)["inputs"],
        "log": log,
        "log_after": client.get_log_settings(as_json=True)["settings"],
        "log_file": refused(lambda: client.update_log_settings({"log_file": "/tmp/x"})),
        "trace": client.get_trace_settings(as_json=True)["settings"],
    }


def main(address: str) -> None:
    """Do it all."""
    with triton.InferenceServerClient(address) as client:
        report = {
            "stream": stream(client),
            "unary_labels": unary_labels(client),
            "asyncio_ids": asyncio.run(stream_with_asyncio(address)),
            "memory": share_memory(client),
            "repository": load_and_unload(client),
            "otherwise": ask_otherwise(client),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
