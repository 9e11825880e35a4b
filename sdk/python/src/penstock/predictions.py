"""A prediction on its way out and back: named values or numpy into a request, an answer into numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.api.features.v1.feature_lookups_pb2 import FeatureLookup
from penstock.api.inference.v1 import inference_pb2 as pb
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
        cache: "HIT" where the answer came from the response cache, "MISS" where it was looked for in vain, and "" where
            it was not looked for.
        lookup: which inputs were read from a feature view, of which version, and how fresh they were; None: none were.
    """

    inference_id: str
    outputs: Mapping[str, NDArray[Any]]
    confidences: tuple[float, ...]
    model: str
    version: str
    framework: str
    latency_ms: float
    cache: str = ""
    lookup: FeatureLookup | None = None


def make_request(
    model: str,
    features: Mapping[str, Any] | NDArray[Any] | None = None,
    *,
    tensors: Mapping[str, ArrayLike] | None = None,
    entity_ids: Sequence[str] = (),
    version: str = "",
    outputs: Sequence[str] = (),
    user_id: str = "",
    session_id: str = "",
    request_id: str = "",
    priority: int = 0,
    queue_timeout_ms: int = 0,
    skip_cache: bool = False,
    skip_event: bool = False,
) -> pb.PredictRequest:
    """Write a request, for `predict_stream`; see `predict` for the arguments.

    Raises:
        InvalidArgument: both of features and tensors came, or neither and no entity ids (FEATURES_OR_TENSORS), or
            what came cannot be sent (FEATURES_NOT_NAMED, UNSUPPORTED_VALUE).
    """
    neither = features is None and tensors is None
    if (neither and not entity_ids) or not (features is None or tensors is None):
        raise InvalidArgument("give either features or tensors, and not both", reason="FEATURES_OR_TENSORS")
    if isinstance(features, np.ndarray):
        tensors = {"": features}  # the only input needs no name
        features = None
    if features is not None and not isinstance(features, Mapping):
        raise InvalidArgument(
            f"features: a {type(features).__name__} came; give values by name, or a numpy array for the only input",
            reason="FEATURES_NOT_NAMED",
        )
    return pb.PredictRequest(
        model=model,
        version=version,
        features=None if features is None else to_struct(features),
        tensors=[to_tensor(name, array) for name, array in (tensors or {}).items()],
        entity_ids=entity_ids,
        outputs=outputs,
        user_id=user_id,
        session_id=session_id,
        request_id=request_id,
        priority=priority,
        timeout_ms=queue_timeout_ms,
        skip_cache=skip_cache,
        skip_event=skip_event,
    )


def prediction_of(answer: pb.PredictResponse) -> Prediction:
    """Read an answer."""
    return Prediction(
        inference_id=answer.inference_id,
        outputs={tensor.name: from_tensor(tensor) for tensor in answer.outputs},
        confidences=tuple(answer.confidences),
        model=answer.model,
        version=answer.version,
        framework=answer.framework,
        latency_ms=answer.latency_ms,
        cache=answer.cache,
        lookup=answer.lookup if answer.HasField("lookup") else None,
    )
