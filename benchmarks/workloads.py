"""The models that servers are measured with: one row for each, and what ONNX Runtime itself answers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.inference.oip import open_inference_pb2 as pb

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import, which would report to its makers over the network

import onnxruntime

TOKENS = 32
DATATYPES = {"float32": "FP32", "int64": "INT64"}
DTYPES = {name: np.dtype(dtype) for dtype, name in DATATYPES.items()}
TOLERANCE = 1e-3
"""Beside other rows a sum may round otherwise; a wrong answer is further off."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A model and one row for it.

    Attributes:
        name: of the model.
        onnx: its file.
        inputs: one row, by input.
        outputs: what ONNX Runtime answers, by output in the model's order.
    """

    name: str
    onnx: bytes
    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]

    @property
    def grpc_message(self) -> bytes:
        """The row as the Open Inference Protocol puts it, raw."""
        request = pb.ModelInferRequest(model_name=self.name)
        for name, array in self.inputs.items():
            request.inputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        return request.SerializeToString()

    @property
    def json_message(self) -> bytes:
        """The row as JSON: lists by input."""
        return json.dumps({name: array.tolist() for name, array in self.inputs.items()}).encode()

    def check(self, server: str, answers: Mapping[str, NDArray[Any]]) -> None:
        """End the run with a sentence if a server's answer is not ONNX Runtime's."""
        for name, expected in self.outputs.items():
            if name not in answers or not np.allclose(answers[name], expected, atol=TOLERANCE, rtol=TOLERANCE):
                raise SystemExit(f"{server} answers {self.name} with {answers.get(name)}; {expected} is right")


def _workload(name: str, onnx: bytes, inputs: Mapping[str, NDArray[Any]]) -> Workload:
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return Workload(name, onnx, inputs, dict(zip(names, session.run(names, dict(inputs)), strict=True)))


def iris() -> Workload:
    """scikit-learn's logistic regression: some µs a run, so that what is measured is all that stands around it."""
    from examples.iris import train  # scikit-learn is only needed for this one

    model = train(regularisation=1)
    return _workload("iris", model.onnx, {"X": model.rows[:1]})


def mlp() -> Workload:
    """Dense layers of 10-8-4-1."""
    from examples.models import networks

    return _workload("mlp", networks.mlp(), {"x": np.linspace(-1, 1, 10, dtype=np.float32)[None]})


def resnet18() -> Workload:
    """ResNet-18 with random weights: an image of 588 KiB a request, which no batch makes cheaper."""
    from examples.models import networks

    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    return _workload("resnet18", networks.resnet18(), {"image": image})


def minilm() -> Workload:
    """MiniLM on 32 tokens: a batch makes it cheaper, on one core too."""
    from examples.models.__main__ import minilm as build

    (content,) = build().values()
    ids = np.random.default_rng(0).integers(1000, 20_000, (1, TOKENS), dtype=np.int64)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return _workload("minilm", content, inputs)


WORKLOADS: Mapping[str, Callable[[], Workload]] = {"iris": iris, "mlp": mlp, "minilm": minilm, "resnet18": resnet18}
