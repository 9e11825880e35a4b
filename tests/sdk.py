"""A real gRPC server that does what a test says, on the services' contracts: for the wire's behaviour."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
from google.protobuf.message_factory import GetMessageClass

from penstock import Client
from penstock.api.features.v1 import feature_views_pb2, features_pb2
from penstock.api.fetcher.v1 import fetch_jobs_pb2, fetch_schedules_pb2, sources_pb2
from penstock.api.inference.v1 import inference_pb2, prediction_jobs_pb2, response_cache_pb2, sessions_pb2
from penstock.api.monitoring.v1 import (
    alerts_pb2,
    channels_pb2,
    configuration_pb2,
    drift_pb2,
    export_pb2,
    lineage_pb2,
    metrics_pb2,
    monitoring_pb2,
    profiles_pb2,
    quality_pb2,
    retraining_pb2,
)
from penstock.api.registry.v1 import administration_pb2, registry_pb2, uploads_pb2
from penstock.api.trainer.v1 import datasets_pb2, scripts_pb2, training_pb2, validations_pb2, worker_pb2
from services.common.errors import DomainError
from services.common.status import DETAILS_KEY, code_of, details_of

CONTRACTS = (
    feature_views_pb2.DESCRIPTOR,
    features_pb2.DESCRIPTOR,
    fetch_jobs_pb2.DESCRIPTOR,
    fetch_schedules_pb2.DESCRIPTOR,
    sources_pb2.DESCRIPTOR,
    registry_pb2.DESCRIPTOR,
    uploads_pb2.DESCRIPTOR,
    administration_pb2.DESCRIPTOR,
    inference_pb2.DESCRIPTOR,
    sessions_pb2.DESCRIPTOR,
    prediction_jobs_pb2.DESCRIPTOR,
    response_cache_pb2.DESCRIPTOR,
    monitoring_pb2.DESCRIPTOR,
    metrics_pb2.DESCRIPTOR,
    profiles_pb2.DESCRIPTOR,
    drift_pb2.DESCRIPTOR,
    quality_pb2.DESCRIPTOR,
    alerts_pb2.DESCRIPTOR,
    channels_pb2.DESCRIPTOR,
    retraining_pb2.DESCRIPTOR,
    lineage_pb2.DESCRIPTOR,
    configuration_pb2.DESCRIPTOR,
    export_pb2.DESCRIPTOR,
    training_pb2.DESCRIPTOR,
    datasets_pb2.DESCRIPTOR,
    scripts_pb2.DESCRIPTOR,
    validations_pb2.DESCRIPTOR,
    worker_pb2.DESCRIPTOR,
)
Behaviour = Callable[[Any, grpc.ServicerContext], Any]
_HANDLERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class ScriptedServer:
    """Answers each RPC by the behaviours scripted for it, one a call; the last one stays."""

    def __init__(self) -> None:
        self._behaviours: dict[str, list[Behaviour]] = {}
        self._lock = threading.Lock()
        self.calls: dict[str, list[Any]] = defaultdict(list)
        """The requests that came, by RPC; for streams of requests, their iterators."""
        self.peers: set[str] = set()
        self.metadata: dict[str, str | bytes] = {}
        """Of the last call."""
        self.released = threading.Event()
        """Set when the test is over: what a behaviour that hangs waits for."""
        self.address = ""

    def on(self, rpc: str, *behaviours: Behaviour) -> None:
        """Script an RPC."""
        self._behaviours[rpc] = list(behaviours)

    def service(self, descriptor: Any) -> grpc.GenericRpcHandler:
        """Make the handler of a service's every RPC."""
        return grpc.method_handlers_generic_handler(
            descriptor.full_name, {method.name: self._handler(method) for method in descriptor.methods}
        )

    def _handler(self, method: Any) -> grpc.RpcMethodHandler[Any, Any]:
        def behave(request: Any, context: grpc.ServicerContext) -> Any:
            with self._lock:
                script = self._behaviours[method.name]
                behaviour = script.pop(0) if len(script) > 1 else script[0]
                self.calls[method.name].append(request)
                self.peers.add(context.peer())
                self.metadata = dict(context.invocation_metadata())
            return behaviour(request, context)

        make: Any = _HANDLERS[method.client_streaming, method.server_streaming]
        return make(  # type: ignore[no-any-return]  # one of four functions, each of which gives a handler
            behave,
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )


@contextmanager
def scripted_server(credentials: grpc.ServerCredentials | None = None) -> Iterator[ScriptedServer]:
    """Run one on a free port of this machine, in plain text or behind TLS."""
    scripted = ScriptedServer()
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(
        [scripted.service(each) for file in CONTRACTS for each in file.services_by_name.values()]
    )
    where = "127.0.0.1:0"
    port = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
    scripted.address = f"127.0.0.1:{port}"
    server.start()
    try:
        yield scripted
    finally:
        scripted.released.set()
        server.stop(None).wait()


def client_of(server: ScriptedServer, **settings: Any) -> Client:
    """Make a client whose every service is the scripted one."""
    address = server.address
    return Client(**{"registry": address, "inference": address, "monitoring": address, "token": ""} | settings)


def answer(message: Any) -> Behaviour:
    """Answer with a message."""
    return lambda request, context: message


def stream(*messages: Any, then: DomainError | None = None) -> Behaviour:
    """Answer with messages, and then end well, or with an error."""

    def behave(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield from messages
        if then is not None:
            abort(context, then)

    return behave


def fail(error: DomainError) -> Behaviour:
    """Answer with an error, encoded as the services do."""
    return lambda request, context: abort(context, error)


def abort(context: grpc.ServicerContext, error: DomainError) -> NoReturn:
    """End a call as the services do."""
    context.set_trailing_metadata(((DETAILS_KEY, details_of(error)),))
    context.abort(code_of(error), error.message)
