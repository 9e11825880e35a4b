"""MLServer's way: a runtime of ours over ONNX Runtime; runs in an environment of its own."""

from __future__ import annotations

import os
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import, which would report to its makers over the network

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    """One ONNX model."""

    async def load(self) -> bool:
        """Open the file."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["MODEL_THREADS"])
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self._names = [node.name for node in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer, on the event loop: with one thread for the runs nothing is faster."""
        feed = {each.name: NumpyCodec.decode_input(each) for each in payload.inputs}
        answers: list[Any] = self._session.run(self._names, feed)
        outputs = [NumpyCodec.encode_output(name, answer) for name, answer in zip(self._names, answers, strict=True)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
