"""The inference client: one call, with numpy or named values in, and numpy out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.api.inference.v1 import inference_pb2 as pb
from penstock.api.inference.v1.inference_pb2_grpc import InferenceServiceStub
from penstock.channels import Connection
from penstock.errors import InvalidArgument
from penstock.tensors import from_tensor, to_tensor
from penstock.values import to_struct


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model answered.

    Attributes:
        inference_id: the UUIDv7 under which it is recorded; feedback is given with it.
        outputs: by the model's own names, read-only; text comes as object arrays of bytes.
        confidences: the highest class probability of each row, 0 to 1; empty where the model is no classifier.
        model: the model.
        version: the version that answered.
        framework: the runtime's name, such as `onnx`.
        latency_ms: inside the server, in ms.
    """

    inference_id: str
    outputs: Mapping[str, NDArray[Any]]
    confidences: tuple[float, ...]
    model: str
    version: str
    framework: str
    latency_ms: float


class InferenceClient:
    """Calls the inference service."""

    def __init__(self, connection: Connection[InferenceServiceStub]) -> None:
        self._connection = connection

    def predict(
        self,
        model: str,
        features: Mapping[str, Any] | NDArray[Any] | None = None,
        *,
        tensors: Mapping[str, ArrayLike] | None = None,
        version: str = "",
        outputs: Sequence[str] = (),
        user_id: str = "",
        session_id: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
        retry: bool = False,
    ) -> Prediction:
        """Run a model on one request, of one row or many, and record the prediction.

        Args:
            model: the model.
            features: values by the name of an input or a column: numbers, strings, booleans or (nested) lists of
                them, None for NaN; a flat list is one row. Or one numpy array, for a model with one input.
            tensors: arrays by the name of an input, in the model's own datatypes: the fast way.
            version: an exact version, a stage, `latest`; empty: PRODUCTION, else the latest.
            outputs: which outputs are wanted; empty: all.
            user_id: who it is for; at most 256 characters, kept with the event.
            session_id: likewise.
            request_id: the caller's own id, at most 256 characters; empty: the inference id.
            timeout_s: in seconds; None: the client's.
            retry: try again where the service is unavailable or busy. Each try that got through is an inference of
                its own.

        Raises:
            InvalidArgument: an input is unknown, missing, or of the wrong datatype or shape; `violations` names it.
            NotFound: no such model or version.
            FailedPrecondition: the model could not be loaded (MODEL_LOAD_FAILED).
            ResourceExhausted: the server is full (QUEUE_FULL, SESSION_BUDGET_EXCEEDED).
            DeadlineExceeded, Unavailable: no answer in time, or at all.
        """
        if (features is None) == (tensors is None):
            raise InvalidArgument("give either features or tensors, and not both", reason="FEATURES_OR_TENSORS")
        if isinstance(features, np.ndarray):
            tensors = {"": features}  # the only input needs no name
            features = None
        if features is not None and not isinstance(features, Mapping):
            raise InvalidArgument(
                f"features: a {type(features).__name__} came; give values by name, or a numpy array for the only input",
                reason="FEATURES_NOT_NAMED",
            )
        request = pb.PredictRequest(
            model=model,
            version=version,
            features=None if features is None else to_struct(features),
            tensors=[to_tensor(name, array) for name, array in (tensors or {}).items()],
            outputs=outputs,
            user_id=user_id,
            session_id=session_id,
            request_id=request_id,
        )
        answer = self._connection.unary(self._connection.stub.Predict, request, timeout_s=timeout_s, retry=retry)
        return Prediction(
            inference_id=answer.inference_id,
            outputs={tensor.name: from_tensor(tensor) for tensor in answer.outputs},
            confidences=tuple(answer.confidences),
            model=answer.model,
            version=answer.version,
            framework=answer.framework,
            latency_ms=answer.latency_ms,
        )
