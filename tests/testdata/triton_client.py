"""What NVIDIA's own client makes of the server at ADDRESS, as JSON: `python triton_client.py ADDRESS`.

A process of its own: its stubs and ours define the same protobuf symbols. Expected there: `classifier` (X FP32 [-1, 4]
→ label, probabilities), `strings` (colour BYTES [-1, 1] → number INT64), and `words` (ids INT64 → vectors FP32).
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

ROWS = np.array([[1, 2, 3, 4], [4, 3, 2, 1]], np.float32)


def tensor(name: str, array: Any, datatype: str) -> triton.InferInput:
    """Write an input."""
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def look_around(client: triton.InferenceServerClient) -> dict[str, Any]:
    """Ask all that is not a prediction."""
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("classifier"),
        "version_ready": client.is_model_ready("classifier", "1.0.0"),
        "unknown_ready": client.is_model_ready("nowhere"),
        "server": client.get_server_metadata(as_json=True),
        "metadata": client.get_model_metadata("classifier", as_json=True),
        "config": client.get_model_config("classifier", as_json=True)["config"],
        "index": client.get_model_repository_index(as_json=True)["models"],
    }


def predict(client: triton.InferenceServerClient) -> dict[str, Any]:
    """Predict in every way that the client knows."""
    x = tensor("X", ROWS, "FP32")
    whole = client.infer("classifier", [x], request_id="req-7", model_version="1.0.0")
    wanted = client.infer("classifier", [x], outputs=[triton.InferRequestedOutput("probabilities")])
    best = client.infer("classifier", [x], outputs=[triton.InferRequestedOutput("probabilities", class_count=1)])
    colours = np.array([["red"], ["green"]], dtype=np.object_)
    strings = client.infer("strings", [tensor("colour", colours, "BYTES")])
    words = client.infer("words", [tensor("ids", np.array([[1, 2]], np.int64), "INT64")])
    return {
        "id": whole.get_response().id,
        "version": whole.get_response().model_version,
        "labels": whole.as_numpy("label").tolist(),
        "probabilities": whole.as_numpy("probabilities").tolist(),
        "wanted": [output.name for output in wanted.get_response().outputs],
        "unwanted": wanted.as_numpy("label") is None,
        "best": [[element.decode() for element in row] for row in best.as_numpy("probabilities").tolist()],
        "numbers": strings.as_numpy("number").tolist(),
        "vectors_shape": list(words.as_numpy("vectors").shape),
        "async_labels": predict_later(client, x),
    }


def predict_later(client: triton.InferenceServerClient, x: triton.InferInput) -> list[list[int]]:
    """Send eight requests at once, and wait for their callbacks."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for _ in range(8):
        client.async_infer("classifier", [x], callback=lambda result, error: answers.put((result, error)))
    labels = []
    for _ in range(8):
        result, error = answers.get(timeout=60)
        if error is not None:
            raise error
        labels.append(result.as_numpy("label").tolist())
    return labels


async def predict_with_asyncio(address: str) -> list[int]:
    """Predict with the client's other self."""
    async with triton_aio.InferenceServerClient(address) as client:
        x = triton_aio.InferInput("X", list(ROWS.shape), "FP32")
        x.set_data_from_numpy(ROWS)
        answer = await client.infer("classifier", [x])
        labels: list[int] = answer.as_numpy("label").tolist()
        return labels


def go_wrong(client: triton.InferenceServerClient) -> dict[str, Any]:
    """Collect what the client's user reads when something is wrong."""
    x = tensor("X", ROWS, "FP32")
    slow = [tensor("x", ROWS, "FP32"), tensor("turns", np.array([2**62]), "INT64")]
    return {
        "unknown_model": refused(lambda: client.infer("nowhere", [x])),
        "unknown_version": refused(lambda: client.infer("classifier", [x], model_version="9")),
        "unknown_metadata": refused(lambda: client.get_model_metadata("nowhere")),
        "unknown_config": refused(lambda: client.get_model_config("nowhere")),
        "unknown_statistics": refused(lambda: client.get_inference_statistics("nowhere")),
        "wrong_name": refused(lambda: client.infer("classifier", [tensor("Y", ROWS, "FP32")])),
        "wrong_datatype": refused(lambda: client.infer("classifier", [tensor("X", ROWS.astype(np.float64), "FP64")])),
        "wrong_shape": refused(lambda: client.infer("classifier", [tensor("X", ROWS[:, :3].copy(), "FP32")])),
        "server_timeout": refused(lambda: client.infer("classifier", [x], timeout=1)),
        "client_timeout": refused(lambda: client.infer("slow", slow, client_timeout=0.2)),
    }


def refused(call: Any) -> list[str]:
    """Call, and give the status and the message."""
    try:
        call()
    except InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    return ["OK", ""]


def statistics(client: triton.InferenceServerClient) -> dict[str, Any]:
    """Read one model's statistics."""
    (found,) = client.get_inference_statistics("classifier", "1.0.0", as_json=True)["model_stats"]
    return dict(found)


def main(address: str) -> None:
    """Do it all."""
    with triton.InferenceServerClient(address) as client:
        report = {
            "around": look_around(client),
            "before": statistics(client),
            "predicted": predict(client),
            "after": statistics(client),
            "asyncio_labels": asyncio.run(predict_with_asyncio(address)),
            "wrong": go_wrong(client),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
