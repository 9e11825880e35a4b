"""The Open Inference Protocol's front door: decode, call, encode."""

from __future__ import annotations

from functools import partial

import grpc

from penstock import __version__
from services.common.keys import Role
from services.common.server import Service
from services.inference.oip import convert
from services.inference.oip import open_inference_pb2 as pb
from services.inference.oip.open_inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)
from services.inference.oip.repository import Repository
from services.inference.prediction import Predictor

NAME = "inference.GRPCInferenceService"
# Only what works; perf_analyzer asks for statistics where it sees them here.
EXTENSIONS = ("classification", "model_configuration", "statistics")
ROLES = {
    "ServerLive": Role.PUBLIC,
    "ServerReady": Role.PUBLIC,
    "ModelReady": Role.VIEWER,
    "ServerMetadata": Role.VIEWER,
    "ModelMetadata": Role.VIEWER,
    "ModelInfer": Role.VIEWER,
    "ModelConfig": Role.VIEWER,
    "ModelStatistics": Role.VIEWER,
    "RepositoryIndex": Role.VIEWER,
}


class OpenInferenceServicer(GRPCInferenceServiceServicer):
    """Answers inference.GRPCInferenceService."""

    def __init__(self, predictor: Predictor, repository: Repository) -> None:
        self._predictor = predictor
        self._repository = repository

    def ServerLive(self, request: pb.ServerLiveRequest, context: grpc.ServicerContext) -> pb.ServerLiveResponse:
        """Say that the process is alive."""
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: pb.ServerReadyRequest, context: grpc.ServicerContext) -> pb.ServerReadyResponse:
        """Say whether predictions can be answered."""
        return pb.ServerReadyResponse(ready=self._repository.server_ready())

    def ModelReady(self, request: pb.ModelReadyRequest, context: grpc.ServicerContext) -> pb.ModelReadyResponse:
        """Say whether a model can be asked; an unknown one is not an error."""
        return pb.ModelReadyResponse(ready=self._repository.model_ready(request.name, request.version))

    def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        """Say who we are."""
        return pb.ServerMetadataResponse(name="penstock", version=__version__, extensions=EXTENSIONS)

    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        """Say what a model takes and gives."""
        version = self._repository.resolve(request.name, request.version)
        return convert.metadata_response(version, self._repository.ready_versions(request.name))

    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        """Predict."""
        prediction = self._predictor.predict(
            request.model_name,
            request.model_version,
            partial(convert.inputs_of, request),
            convert.caller_of(request),
            outputs=convert.outputs_of(request),
            timeout_s=convert.timeout_s_of(request, context.time_remaining()),
            on_cancel=context.add_callback,
        )
        return convert.infer_response(request, prediction)

    def ModelConfig(self, request: pb.ModelConfigRequest, context: grpc.ServicerContext) -> pb.ModelConfigResponse:
        """Say how a model is served."""
        return convert.config_response(self._repository.resolve(request.name, request.version))

    def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: grpc.ServicerContext
    ) -> pb.ModelStatisticsResponse:
        """Give counts and durations."""
        memory_bytes = self._repository.memory_bytes()
        return pb.ModelStatisticsResponse(
            model_stats=[
                convert.statistics_proto(statistics, memory_bytes)
                for statistics in self._repository.statistics(request.name, request.version)
            ]
        )

    def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        """List the models."""
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=entry.model,
                    version=entry.version,
                    state="READY" if entry.ready else "UNAVAILABLE",
                    reason=entry.reason,
                )
                for entry in self._repository.index(ready_only=request.ready)
            ]
        )


def service(predictor: Predictor, repository: Repository) -> Service:
    """Describe the service to the kit. All but the prediction itself is answered while predictions fill the server."""
    return Service(
        name=NAME,
        register=partial(add_GRPCInferenceServiceServicer_to_server, OpenInferenceServicer(predictor, repository)),
        roles=ROLES,
        control=frozenset(ROLES) - {"ModelInfer"},
    )
