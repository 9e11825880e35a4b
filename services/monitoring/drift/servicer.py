"""The gRPC face of drift."""

from __future__ import annotations

from functools import partial

import grpc

from penstock.api.monitoring.v1 import drift_pb2 as pb
from penstock.api.monitoring.v1 import drift_pb2_grpc
from services.common.keys import Role
from services.common.server import Service
from services.monitoring.drift import convert
from services.monitoring.drift.checks import DriftChecks
from services.monitoring.known_models import KnownModels
from services.monitoring.window_checks.requests import asked_from

NAME = "penstock.api.monitoring.v1.DriftService"
ROLES = {
    "CheckDrift": Role.OPERATOR,
    "GetDriftCheck": Role.VIEWER,
    "ListDriftChecks": Role.VIEWER,
}


class DriftServicer(drift_pb2_grpc.DriftServiceServicer):
    """Decode, call, encode."""

    def __init__(self, checks: DriftChecks, models: KnownModels) -> None:
        self._checks = checks
        self._models = models

    def CheckDrift(self, request: pb.CheckDriftRequest, context: grpc.ServicerContext) -> pb.CheckDriftResponse:
        """Check now."""
        asked = asked_from(request)
        self._models.require(request.model)
        check = self._checks.check(*asked)
        return pb.CheckDriftResponse(check=convert.check_proto(check))

    def GetDriftCheck(
        self, request: pb.GetDriftCheckRequest, context: grpc.ServicerContext
    ) -> pb.GetDriftCheckResponse:
        """Give one check."""
        check = self._checks.get(request.id)
        return pb.GetDriftCheckResponse(check=convert.check_proto(check))

    def ListDriftChecks(
        self, request: pb.ListDriftChecksRequest, context: grpc.ServicerContext
    ) -> pb.ListDriftChecksResponse:
        """Give a page of checks."""
        filters = convert.filters_from(request)
        self._models.require(filters.model)
        page = self._checks.page(filters, size=request.page_size, token=request.page_token)
        return convert.list_response(*page)


def service(servicer: DriftServicer) -> Service:
    """Say how it is served."""
    register = partial(drift_pb2_grpc.add_DriftServiceServicer_to_server, servicer)
    return Service(name=NAME, register=register, roles=ROLES)
