"""The Open Inference Protocol's front door: decode, call, encode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import grpc

from penstock import __version__
from penstock.workers import HEADER
from services.common import streams
from services.common.interceptors import known
from services.common.keys import Role, caller, require
from services.common.server import Service
from services.inference.caching.cache import CACHE_KEY
from services.inference.control.control import SessionControl
from services.inference.control.log_settings import LogSettings
from services.inference.control.trace_settings import TraceSettings
from services.inference.oip import convert, parameters, switches, views
from services.inference.oip import open_inference_pb2 as pb
from services.inference.oip.open_inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)
from services.inference.oip.repository import Repository
from services.inference.prediction import Done, Outcome, Prediction, Predictor
from services.inference.prediction_stream import PredictionStream
from services.inference.remaining import remaining_s
from services.inference.shared_memory.control import SharedMemory
from services.inference.shared_memory.regions import Region

NAME = "inference.GRPCInferenceService"
# Only what works; perf_analyzer asks for statistics where it sees them here.
EXTENSIONS = (
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
ROLES = {
    "ServerLive": Role.PUBLIC,
    "ServerReady": Role.PUBLIC,
    "ModelReady": Role.VIEWER,
    "ServerMetadata": Role.VIEWER,
    "ModelMetadata": Role.VIEWER,
    "ModelInfer": Role.VIEWER,
    "ModelStreamInfer": Role.VIEWER,
    "ModelConfig": Role.VIEWER,
    "ModelStatistics": Role.VIEWER,
    "RepositoryIndex": Role.VIEWER,
    "RepositoryModelLoad": Role.OPERATOR,
    "RepositoryModelUnload": Role.OPERATOR,
    "SystemSharedMemoryStatus": Role.VIEWER,
    "SystemSharedMemoryRegister": Role.OPERATOR,
    "SystemSharedMemoryUnregister": Role.OPERATOR,
    "TraceSetting": Role.VIEWER,  # to change something takes an operator, as with the log
    "LogSettings": Role.VIEWER,
}


QUICK = frozenset(
    {
        "ServerLive",
        "ServerReady",
        "ModelReady",
        "ServerMetadata",
        "ModelMetadata",
        "ModelConfig",
        "RepositoryIndex",
        "SystemSharedMemoryStatus",
    }
)
"""What is answered from this process's memory."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs between servers of this protocol, and clients may insist on.

    `server_name` is what ServerMetadata says; `mirrored`: typed requests are answered typed without asking for it.
    """

    server_name: str = "penstock"
    mirrored: bool = False


class OpenInferenceServicer(GRPCInferenceServiceServicer):
    """Answers inference.GRPCInferenceService."""

    def __init__(
        self,
        predictor: Predictor,
        repository: Repository,
        control: SessionControl,
        memory: SharedMemory,
        log_settings: LogSettings,
        trace_settings: TraceSettings,
        dialect: Dialect,
        *,
        stream_max_in_flight: int,
        workers: int = 1,
    ) -> None:
        self._workers = workers
        self._predictor = predictor
        self._repository = repository
        self._control = control
        self._memory = memory
        self._log_settings = log_settings
        self._trace_settings = trace_settings
        self._dialect = dialect
        self._answers = convert.Answers(memory, mirrored=dialect.mirrored)
        self._stream_max_in_flight = stream_max_in_flight

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
        """Say who we are, and what we serve beyond the protocol."""
        # A connection reaches one of them: our own clients open as many as pay.
        context.send_initial_metadata(((HEADER, str(self._workers)),))
        extensions = [
            *EXTENSIONS,
            *(["system_shared_memory"] if self._memory.enabled else []),
            *(["trace"] if self._trace_settings.enabled else []),
        ]
        return pb.ServerMetadataResponse(
            name=self._dialect.server_name, version=__version__, extensions=sorted(extensions)
        )

    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        """Say what a model takes and gives."""
        version = self._repository.resolve(request.name, request.version)
        return views.metadata_response(version, self._repository.ready_versions(request.name))

    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        """Predict."""
        queue_timeout_s, priority, skip_cache = parameters.wishes_of(request)
        prediction = self._predictor.predict(
            request.model_name,
            request.model_version,
            convert.read_inputs_of(request, self._memory),
            parameters.caller_of(request),
            outputs=convert.outputs_of(request, self._memory),
            timeout_s=remaining_s(context),
            queue_timeout_s=queue_timeout_s,
            priority=priority,
            skip_cache=skip_cache,
            any_priority=True,
            on_cancel=context.add_callback,
        )
        if prediction.cache:
            context.set_trailing_metadata(((CACHE_KEY, prediction.cache),))
        return convert.infer_response(request, prediction, self._answers, pb.ModelInferResponse())

    def ModelStreamInfer(
        self, request_iterator: Iterator[pb.ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ModelStreamInferResponse]:
        """Predict for many requests, and answer each, in their order."""
        stream = PredictionStream(
            partial(self._begin, context), self._stream_response, max_in_flight=self._stream_max_in_flight
        )
        streams.current().finish_on_drain(partial(stream.end, streams.DRAINING))
        return stream.answers(request_iterator, on_cancel=context.add_callback)

    def ModelConfig(self, request: pb.ModelConfigRequest, context: grpc.ServicerContext) -> pb.ModelConfigResponse:
        """Say how a model is served."""
        version = self._repository.resolve(request.name, request.version)
        return views.config_response(version, self._repository.batch_size_of(version))

    def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: grpc.ServicerContext
    ) -> pb.ModelStatisticsResponse:
        """Give counts and durations."""
        found = self._repository.statistics(request.name, request.version)
        held = self._repository.memory_bytes(request.name)
        return views.statistics_response(found, held)

    def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        """List the models."""
        return views.index_response(self._repository.index(ready_only=request.ready))

    def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        """Bring a model's default version into memory, on every worker."""
        model = parameters.model_of(request)
        self._control.load(model, "", pin=False, remaining_s=remaining_s(context))
        return pb.RepositoryModelLoadResponse(model_name=model, isLoaded=True)

    def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        """Take every version of a model out of memory, on every worker; the next request loads it again."""
        model = parameters.model_of(request)
        self._control.unload(model, "")
        return pb.RepositoryModelUnloadResponse(model_name=model, isUnloaded=True)

    def SystemSharedMemoryStatus(
        self, request: pb.SystemSharedMemoryStatusRequest, context: grpc.ServicerContext
    ) -> pb.SystemSharedMemoryStatusResponse:
        """List the regions of shared memory."""
        return views.regions_response(self._memory.list_regions(request.name))

    def SystemSharedMemoryRegister(
        self, request: pb.SystemSharedMemoryRegisterRequest, context: grpc.ServicerContext
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Let tensors travel through a region."""
        self._memory.register(Region(request.name, request.key, request.offset, request.byte_size))
        return pb.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, context: grpc.ServicerContext
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Forget a region, or all."""
        self._memory.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    def TraceSetting(self, request: pb.TraceSettingRequest, context: grpc.ServicerContext) -> pb.TraceSettingResponse:
        """Say what is traced, and change it."""
        if request.settings:
            require(caller(), Role.OPERATOR, "a change of the trace settings")
            self._trace_settings.change(switches.trace_settings_of(request), request.model_name)
        return switches.trace_response(self._trace_settings.read())

    def LogSettings(self, request: pb.LogSettingsRequest, context: grpc.ServicerContext) -> pb.LogSettingsResponse:
        """Say what is logged, and change it."""
        if request.settings:
            require(caller(), Role.OPERATOR, "a change of the log settings")
            self._log_settings.change(switches.log_settings_of(request))
        return switches.log_response(self._log_settings.read())

    def _begin(self, context: grpc.ServicerContext, request: pb.ModelInferRequest, done: Done) -> Callable[[], None]:
        queue_timeout_s, priority, skip_cache = parameters.wishes_of(request)
        return self._predictor.submit(
            request.model_name,
            request.model_version,
            convert.read_inputs_of(request, self._memory),
            parameters.caller_of(request),
            done,
            outputs=convert.outputs_of(request, self._memory),
            timeout_s=remaining_s(context),
            queue_timeout_s=queue_timeout_s,
            priority=priority,
            skip_cache=skip_cache,
            any_priority=True,
        )

    def _stream_response(self, request: pb.ModelInferRequest, outcome: Outcome) -> pb.ModelStreamInferResponse:
        """Write an answer; each is the last of its request, which says so where that is asked for."""
        response = pb.ModelStreamInferResponse()
        answer = response.infer_response
        try:
            if not isinstance(outcome, Prediction):
                raise outcome
            convert.infer_response(request, outcome, self._answers, answer)
            if outcome.cache:  # a stream's trailing metadata are not any one answer's
                answer.parameters["penstock_cache"].string_param = outcome.cache
        except Exception as raised:  # noqa: BLE001 - it is this request's, and the stream goes on
            response.error_message = known(raised, f"{NAME}/ModelStreamInfer").message
            answer.Clear()
            answer.model_name, answer.id = request.model_name, request.id
        if parameters.wants_final_response(request):
            answer.parameters["triton_final_response"].bool_param = True
        return response


def service(servicer: OpenInferenceServicer) -> Service:
    """Describe the service to the kit. What asks no other worker is answered while predictions fill the server."""
    return Service(
        name=NAME,
        register=partial(add_GRPCInferenceServiceServicer_to_server, servicer),
        roles=ROLES,
        brief=frozenset({"ModelInfer"}),
        control=QUICK,
        endless=frozenset({"ModelStreamInfer"}),
    )
