"""Sources over gRPC: decode, call, encode."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import grpc

from penstock.api.fetcher.v1 import sources_pb2 as pb
from penstock.api.fetcher.v1.sources_pb2_grpc import SourceServiceServicer, add_SourceServiceServicer_to_server
from services.common.errors import Unavailable
from services.common.keys import Role
from services.common.server import Service
from services.fetcher import convert
from services.fetcher.fetches import Fetches
from services.fetcher.sources.source import Stopping

NAME = "penstock.api.fetcher.v1.SourceService"
ROLES = {"ListSources": Role.VIEWER, "InspectSource": Role.OPERATOR}


class SourceServicer(SourceServiceServicer):
    """See sources.proto for what each RPC promises."""

    def __init__(self, fetches: Fetches) -> None:
        self._do = fetches

    def ListSources(self, request: pb.ListSourcesRequest, context: grpc.ServicerContext) -> pb.ListSourcesResponse:
        """Give the sources."""
        return pb.ListSourcesResponse(sources=map(convert.source_proto, self._do.sources()))

    def InspectSource(
        self, request: pb.InspectSourceRequest, context: grpc.ServicerContext
    ) -> pb.InspectSourceResponse:
        """Look at what a reference names."""
        reference = convert.reference(request.source)
        return convert.found_proto(reference, *self._do.inspect(reference, _stopping(context)))


def _stopping(context: grpc.ServicerContext) -> Stopping:
    """End a look at a source with the call that asked for it."""
    gone, lock = threading.Event(), threading.Lock()
    callbacks: list[Callable[[], None]] = []

    def end() -> None:
        with lock:
            gone.set()
            called = callbacks.copy()
        for callback in called:
            callback()

    def check() -> None:
        if gone.is_set():
            raise Unavailable("the caller has gone", reason="CALLER_GONE")

    def on_stop(callback: Callable[[], None]) -> None:
        with lock:
            callbacks.append(callback)
        if gone.is_set():
            callback()

    def forget(callback: Callable[[], None]) -> None:
        with lock:
            if callback in callbacks:
                callbacks.remove(callback)

    if not context.add_callback(end):
        end()
    return Stopping(check, on_stop, forget)


def service(fetches: Fetches) -> Service:
    """Describe the service to the kit."""
    return Service(
        name=NAME,
        register=partial(add_SourceServiceServicer_to_server, SourceServicer(fetches)),
        roles=ROLES,
    )
