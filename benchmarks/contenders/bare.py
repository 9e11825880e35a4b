"""The yardstick: the least that a threaded Python server can do around ONNX Runtime, and nothing else.

One handler on one `grpc.server`: bytes to arrays, run, arrays to bytes. No checks, no keys, no counters, no events.
`python -m benchmarks.contenders.bare MODEL.onnx PORT THREADS [CORE]`: THREADS are ONNX Runtime's within one run; with a
CORE it keeps to that one, and others may share its port.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

if len(sys.argv) > 4:
    os.sched_setaffinity(0, {int(sys.argv[4])})  # before any thread is there
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import, which would report to its makers over the network

import grpc
import numpy as np
import onnxruntime

from services.inference.oip import open_inference_pb2 as pb
from services.inference.oip.open_inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

THREADS = 8
"""With 32 it is as fast for 1 and 8 clients, and 8 % slower for 32."""
DATATYPES = {"tensor(float)": "FP32", "tensor(int64)": "INT64"}
DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype(np.float32), "INT64": np.dtype(np.int64)}


class BareServicer(GRPCInferenceServiceServicer):
    """Answers ModelInfer for one model with FP32 and INT64 inputs."""

    def __init__(self, model: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._run = session.run
        self._outputs = [(output.name, DATATYPES[output.type]) for output in session.get_outputs()]
        self._names = [name for name, _ in self._outputs]

    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:  # noqa: N802, ARG002 - the contract's
        """Predict."""
        raws = request.raw_input_contents
        feed = {
            tensor.name: np.frombuffer(raws[index], DTYPES[tensor.datatype]).reshape(tensor.shape)
            for index, tensor in enumerate(request.inputs)
        }
        answers: list[Any] = self._run(self._names, feed)
        response = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        for (name, datatype), answer in zip(self._outputs, answers, strict=True):
            response.outputs.add(name=name, datatype=datatype, shape=answer.shape)
            response.raw_output_contents.append(answer.tobytes())
        return response


def main() -> None:
    """Serve until SIGTERM."""
    model, port, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    server = grpc.server(ThreadPoolExecutor(THREADS), options=[("grpc.so_reuseport", int(len(sys.argv) > 4))])
    servicer = BareServicer(model, threads)  # type: ignore[abstract] # it answers one RPC and no other
    add_GRPCInferenceServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    server.start()
    stopped.wait()
    server.stop(1).wait()


if __name__ == "__main__":
    main()
