"""Our own front door: decode, call, encode."""

from __future__ import annotations

from functools import partial

import grpc

from penstock.api.inference.v1.inference_pb2 import PredictRequest, PredictResponse
from penstock.api.inference.v1.inference_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)
from services.common.keys import Role
from services.common.server import Service
from services.inference import convert
from services.inference.prediction import Predictor

NAME = "penstock.api.inference.v1.InferenceService"
ROLES = {
    "Predict": Role.VIEWER,
    "PredictStream": Role.VIEWER,
    "Embed": Role.VIEWER,
    "Generate": Role.VIEWER,
    "Rank": Role.VIEWER,
}


class InferenceServicer(InferenceServiceServicer):
    """Answers penstock.api.inference.v1."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def Predict(self, request: PredictRequest, context: grpc.ServicerContext) -> PredictResponse:
        """Run a model on one request and record the prediction."""
        prediction = self._predictor.predict(
            request.model,
            request.version,
            partial(convert.inputs_of, request),
            convert.caller_of(request),
            outputs=tuple(request.outputs),
            timeout_s=convert.timeout_s_of(request, context.time_remaining()),
            priority=request.priority,
            skip_cache=request.skip_cache,
            on_cancel=context.add_callback,
        )
        return convert.response_of(prediction)


def service(predictor: Predictor) -> Service:
    """Describe the service to the kit."""
    return Service(
        name=NAME,
        register=partial(add_InferenceServiceServicer_to_server, InferenceServicer(predictor)),  # type: ignore[abstract] # UNIMPLEMENTED is the base class's own answer
        roles=ROLES,
    )
