"""The gRPC face of lineages."""

from __future__ import annotations

from functools import partial

import grpc

from penstock.api.monitoring.v1 import lineage_pb2 as pb
from penstock.api.monitoring.v1 import lineage_pb2_grpc
from services.common.keys import Role
from services.common.server import Service
from services.monitoring.lineage import convert
from services.monitoring.lineage.lineages import Lineages

NAME = "penstock.api.monitoring.v1.LineageService"
ROLES = {"GetLineage": Role.VIEWER}


class LineageServicer(lineage_pb2_grpc.LineageServiceServicer):
    """Decode, call, encode."""

    def __init__(self, lineages: Lineages) -> None:
        self._lineages = lineages

    def GetLineage(self, request: pb.GetLineageRequest, context: grpc.ServicerContext) -> pb.GetLineageResponse:
        """Say what a thing hangs together with."""
        subject = convert.subject_from(request)
        return convert.response(self._lineages.of(subject))


def service(servicer: LineageServicer) -> Service:
    """Say how it is served."""
    register = partial(lineage_pb2_grpc.add_LineageServiceServicer_to_server, servicer)
    return Service(name=NAME, register=register, roles=ROLES)
