"""The front door to what is loaded: decode, call, encode."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.api.inference.v1 import sessions_pb2 as pb
from penstock.api.inference.v1.sessions_pb2_grpc import SessionServiceServicer, add_SessionServiceServicer_to_server
from services.common.keys import Role
from services.common.server import Service
from services.inference.control.control import LoadedVersion, SessionControl
from services.inference.remaining import remaining_s

NAME = "penstock.api.inference.v1.SessionService"
ROLES = {
    "LoadModel": Role.OPERATOR,
    "UnloadModel": Role.OPERATOR,
    "ListSessions": Role.VIEWER,
}


class SessionServicer(SessionServiceServicer):
    """Answers penstock.api.inference.v1.SessionService."""

    def __init__(self, control: SessionControl) -> None:
        self._control = control

    def LoadModel(self, request: pb.LoadModelRequest, context: grpc.ServicerContext) -> pb.LoadModelResponse:
        """Load a version."""
        loaded = self._control.load(request.model, request.version, pin=request.pin, remaining_s=remaining_s(context))
        return pb.LoadModelResponse(sessions=_sessions(loaded))

    def UnloadModel(self, request: pb.UnloadModelRequest, context: grpc.ServicerContext) -> pb.UnloadModelResponse:
        """Unload a version, or all of a model."""
        return pb.UnloadModelResponse(session_count=self._control.unload(request.model, request.version))

    def ListSessions(self, request: pb.ListSessionsRequest, context: grpc.ServicerContext) -> pb.ListSessionsResponse:
        """List what is in memory."""
        memory = self._control.list_sessions(request.model)
        return pb.ListSessionsResponse(
            sessions=_sessions(memory.sessions), budget_bytes=memory.budget_bytes, used_bytes=memory.used_bytes
        )


def _sessions(loaded: Iterable[LoadedVersion]) -> Iterable[pb.ModelSession]:
    return [
        pb.ModelSession(
            model=each.model,
            version=each.version,
            framework=each.framework,
            worker=each.worker,
            size_bytes=each.size_bytes,
            in_flight_count=each.in_flight_count,
            pinned=each.pinned,
            last_use_time=_timestamp(each.last_use_s),
            load_ms=each.load_ms,
        )
        for each in loaded
    ]


def _timestamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(int(seconds * 1e6))
    return stamp


def service(control: SessionControl) -> Service:
    """Describe the service to the kit. All of it asks every worker: none of it is quick for certain."""
    return Service(
        name=NAME,
        register=partial(add_SessionServiceServicer_to_server, SessionServicer(control)),
        roles=ROLES,
    )
