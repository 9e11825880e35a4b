"""What happens around every RPC: who calls, may they, how long it took, and what an error becomes.

The handlers are wrapped once, when the server is built, rather than by a grpc.ServerInterceptor, which would build
them anew for each call.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError

from services.common import errors
from services.common.budgets import Budget
from services.common.keys import ANONYMOUS, KeyRing, Principal, Role, become, require
from services.common.metrics import GrpcCollector, RpcMetrics
from services.common.pools import refused
from services.common.status import abort, code_of, set_status
from services.common.streams import OpenStreams, Stream, StreamKind, single, size_of
from services.common.traces import Traces, traced

_log = structlog.get_logger(__name__)
Behaviour = Callable[[Any, grpc.ServicerContext], Any]

BUSY = errors.ResourceExhausted(
    "this server has as many requests as it may hold; slow down or try again",
    reason="SERVER_BUSY",
    retry_after_s=0.1,
)
MALFORMED = object()
"""Stands for a request whose bytes could not be parsed."""


@dataclass(frozen=True, slots=True)
class Rpc:
    """What is known of an RPC before anyone calls it."""

    service: str
    method: str
    role: Role
    counts: RpcMetrics

    @property
    def name(self) -> str:
        """The RPC as people write it."""
        return f"{self.service}/{self.method}"


class Wrapper:
    """Wraps behaviours with authentication, the role check, the metrics, the log line and the error table."""

    def __init__(
        self,
        *,
        keys: KeyRing,
        collector: GrpcCollector,
        access_log_share: float,
        streams: OpenStreams,
        traces: Traces | None = None,
    ) -> None:
        self._keys = keys
        self._collector = collector
        self._share = access_log_share
        self._streams = streams
        self._traces = traces

    def wrap(
        self,
        service: str,
        method: str,
        handler: grpc.RpcMethodHandler[Any, Any],
        *,
        role: Role,
        pool: ThreadPoolExecutor,
        endless: bool,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Wrap one handler; its calls run on `pool`. An endless stream is ended when the server drains."""
        kind, behaviour = _behaviour(handler)
        rpc = Rpc(service, method, role, self._collector.add(kind, service, method))
        behaviour = (_with_parsed_requests if handler.request_streaming else _with_parsed_request)(behaviour)
        if self._traces is not None and role is not Role.PUBLIC:  # probes would drown the rest
            behaviour = traced(self._traces, service, method, behaviour, streams=handler.response_streaming)
        wrapped: Callable[..., Any] = (
            self._unary(rpc, behaviour) if kind == "unary" else self._streaming(rpc, kind, behaviour, endless=endless)
        )
        wrapped.experimental_thread_pool = pool  # type: ignore[attr-defined] # how grpc is told of a pool
        return _SERVED_AS[kind](wrapped, _parser(handler.request_deserializer), handler.response_serializer)

    def _unary(self, rpc: Rpc, behaviour: Behaviour) -> Behaviour:
        counts = rpc.counts
        clock = time.perf_counter

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            if refused():
                abort(context, BUSY)
            started = clock()
            counts.start()
            principal = ANONYMOUS
            try:
                principal = self._admit(rpc, context)
                if principal.budget is None:
                    response = behaviour(request, context)
                else:
                    response = _metered(principal.budget, behaviour, request, context)
            except Exception as raised:  # noqa: BLE001 - the boundary: everything becomes a status and a log line
                error = known(raised, rpc.name)
            else:
                seconds = clock() - started
                counts.finish("OK", seconds)
                self._log_some(rpc, principal, "OK", seconds)
                return response
            self._failed(rpc, principal, error, clock() - started)
            return abort(context, error)

        return answer

    def _streaming(self, rpc: Rpc, kind: str, behaviour: Behaviour, *, endless: bool) -> Callable[..., None]:
        traits = StreamKind(endless=endless, takes_all=kind == "client_stream", counts_messages=kind == "bidi_stream")
        reads = kind != "server_stream"
        if kind == "client_stream":
            behaviour = partial(single, behaviour)

        # grpc's non-blocking form: the status may be sent from another thread than the one that iterates, which is
        # how a stream is ended whose own thread waits for something.
        def answer(request: Any, context: grpc.ServicerContext, send: Callable[[Any], None]) -> None:
            if refused():
                set_status(context, BUSY)
                send(None)
                return
            started = time.perf_counter()
            rpc.counts.start()
            principal = ANONYMOUS
            error: errors.DomainError | None = None
            complete = False
            stream = Stream(context, send, traits, partial(self._check_still, rpc, context))
            try:
                principal = self._admit(rpc, context)
                if principal.budget is not None:
                    principal.budget.admit()
                    stream.budget = principal.budget
                with self._streams.keep(stream):
                    complete = self._pump(stream, behaviour(stream.requests(request) if reads else request, context))
            except Exception as raised:  # noqa: BLE001 - the boundary: everything becomes a status and a log line
                error = known(raised, rpc.name)
            error = stream.end(error)
            if error is None:
                self._finished(rpc, principal, "OK" if complete else "CANCELLED", started)
            else:
                self._failed(rpc, principal, error, time.perf_counter() - started)

        answer.experimental_non_blocking = True  # type: ignore[attr-defined] # how grpc is told of the form
        return answer

    @staticmethod
    def _pump(stream: Stream, responses: Iterator[Any]) -> bool:
        try:
            for response in responses:
                if not stream.open:
                    return False
                stream.send(response)
            return stream.open
        finally:
            close = getattr(responses, "close", None)  # generators have one; a client's leaving must reach them
            if close is not None:
                close()

    def _admit(self, rpc: Rpc, context: grpc.ServicerContext) -> Principal:
        if rpc.role is Role.PUBLIC or not self._keys.configured:
            principal = ANONYMOUS
        else:
            principal = self._keys.authenticate(_authorization(context))
            if principal.role < rpc.role:
                require(principal, rpc.role, rpc.name)
        become(principal)
        return principal

    def _check_still(self, rpc: Rpc, context: grpc.ServicerContext) -> None:
        if rpc.role is not Role.PUBLIC and self._keys.configured:
            self._keys.check_still(_authorization(context), rpc.role, rpc.name)

    def _finished(self, rpc: Rpc, principal: Principal, code: str, started: float) -> None:
        seconds = time.perf_counter() - started
        rpc.counts.finish(code, seconds)
        self._log_some(rpc, principal, code, seconds)

    def _failed(self, rpc: Rpc, principal: Principal, error: errors.DomainError, seconds: float) -> None:
        code = code_of(error).name
        rpc.counts.finish(code, seconds)
        self._log_line(rpc, principal, code, seconds, reason=error.reason, message=error.message[:500])

    def _log_some(self, rpc: Rpc, principal: Principal, code: str, seconds: float) -> None:
        # Probes come every second from every kubelet; nobody wants to read of those that went well.
        if rpc.role is not Role.PUBLIC and random.random() < self._share:  # noqa: S311 - a sample, not a secret
            self._log_line(rpc, principal, code, seconds)

    def _log_line(self, rpc: Rpc, principal: Principal, code: str, seconds: float, **more: str) -> None:
        _log.info("rpc", rpc=rpc.name, code=code, ms=round(seconds * 1000, 3), caller=principal.name, **more)


def known(raised: Exception, rpc: str) -> errors.DomainError:
    """Keep a domain error; log any other with an id, and tell the client nothing but that id."""
    if isinstance(raised, errors.DomainError):
        return raised
    if isinstance(raised, grpc.RpcError):
        return errors.Cancelled("the client went away")
    error_id = uuid.uuid4().hex[:12]
    _log.exception("internal error", rpc=rpc, error_id=error_id, exc_info=raised)
    return errors.Internal(f"internal error {error_id}", metadata={"error_id": error_id})


def _parser(parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Parse a request, and let the handler say that it is none: grpc itself would call that an INTERNAL error."""

    def parsed(data: bytes) -> Any:
        if refused():
            return None  # nobody will look at it
        try:
            return parse(data) if parse is not None else data
        except DecodeError:
            return MALFORMED

    return parsed


def _malformed() -> errors.InvalidArgument:
    return errors.InvalidArgument(
        "the request's bytes are not the RPC's message, or its values are nested too deep", reason="MALFORMED_REQUEST"
    )


def _with_parsed_request(behaviour: Behaviour) -> Behaviour:
    def parsed(request: Any, context: grpc.ServicerContext) -> Any:
        if request is MALFORMED:
            raise _malformed()
        return behaviour(request, context)

    return parsed


def _with_parsed_requests(behaviour: Behaviour) -> Behaviour:
    def parsed(requests: Iterator[Any]) -> Iterator[Any]:
        for request in requests:
            if request is MALFORMED:
                raise _malformed()
            yield request

    return lambda requests, context: behaviour(parsed(requests), context)


def _metered(budget: Budget, behaviour: Behaviour, request: Any, context: grpc.ServicerContext) -> Any:
    """Work on a unary request of a key with limits."""
    budget.admit()
    budget.spend(size_of(request))
    response = behaviour(request, context)
    budget.spend(size_of(response))
    return response


def _authorization(context: grpc.ServicerContext) -> str | None:
    for key, value in context.invocation_metadata():
        if key == "authorization":
            return str(value)
    return None


# A stream that is answered once is served as one that is answered in a stream, of one: on the wire they are the same.
_SERVED_AS: Mapping[str, Callable[..., grpc.RpcMethodHandler[Any, Any]]] = {
    "unary": grpc.unary_unary_rpc_method_handler,
    "server_stream": grpc.unary_stream_rpc_method_handler,
    "client_stream": grpc.stream_stream_rpc_method_handler,
    "bidi_stream": grpc.stream_stream_rpc_method_handler,
}


def _behaviour(handler: grpc.RpcMethodHandler[Any, Any]) -> tuple[str, Behaviour]:
    found = {
        "unary": handler.unary_unary,
        "server_stream": handler.unary_stream,
        "client_stream": handler.stream_unary,
        "bidi_stream": handler.stream_stream,
    }
    return next((kind, behaviour) for kind, behaviour in found.items() if behaviour is not None)
