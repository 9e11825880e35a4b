"""What a team writes by hand: FastAPI over ONNX Runtime, JSON in and out; runs in an environment of its own.

The body is read by orjson and not by pydantic, which would cost more; the model runs in FastAPI's pool of threads.
"""

from __future__ import annotations

import os
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import, which would report to its makers over the network

import numpy as np
import onnxruntime
import orjson
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(os.environ["MODEL_THREADS"])
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
dtypes = {node.name: DTYPES[node.type] for node in session.get_inputs()}
names = [node.name for node in session.get_outputs()]
app = FastAPI()


def run(body: bytes) -> bytes:
    inputs = {name: np.asarray(value, dtypes[name]) for name, value in orjson.loads(body).items()}
    answers: list[Any] = session.run(names, inputs)
    return orjson.dumps(dict(zip(names, answers, strict=True)), option=orjson.OPT_SERIALIZE_NUMPY)


@app.post("/predict")
async def predict(request: Request) -> Response:
    body = await request.body()
    return Response(await run_in_threadpool(run, body), media_type="application/json")
