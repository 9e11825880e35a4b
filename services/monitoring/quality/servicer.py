"""The gRPC face of data quality."""

from __future__ import annotations

from functools import partial

import grpc

from penstock.api.monitoring.v1 import quality_pb2 as pb
from penstock.api.monitoring.v1 import quality_pb2_grpc
from services.common.keys import Role
from services.common.server import Service
from services.monitoring.known_models import KnownModels
from services.monitoring.quality import convert
from services.monitoring.quality.checks import QualityChecks
from services.monitoring.window_checks.requests import asked_from

NAME = "penstock.api.monitoring.v1.QualityService"
ROLES = {
    "CheckQuality": Role.OPERATOR,
    "GetQualityCheck": Role.VIEWER,
    "ListQualityChecks": Role.VIEWER,
}


class QualityServicer(quality_pb2_grpc.QualityServiceServicer):
    """Decode, call, encode."""

    def __init__(self, checks: QualityChecks, models: KnownModels) -> None:
        self._checks = checks
        self._models = models

    def CheckQuality(self, request: pb.CheckQualityRequest, context: grpc.ServicerContext) -> pb.CheckQualityResponse:
        """Look now."""
        asked = asked_from(request)
        self._models.require(request.model)
        check = self._checks.check(*asked)
        return pb.CheckQualityResponse(check=convert.check_proto(check))

    def GetQualityCheck(
        self, request: pb.GetQualityCheckRequest, context: grpc.ServicerContext
    ) -> pb.GetQualityCheckResponse:
        """Give one check."""
        check = self._checks.get(request.id)
        return pb.GetQualityCheckResponse(check=convert.check_proto(check))

    def ListQualityChecks(
        self, request: pb.ListQualityChecksRequest, context: grpc.ServicerContext
    ) -> pb.ListQualityChecksResponse:
        """Give a page of checks."""
        filters = convert.filters_from(request)
        self._models.require(filters.model)
        page = self._checks.page(filters, size=request.page_size, token=request.page_token)
        return convert.list_response(*page)


def service(servicer: QualityServicer) -> Service:
    """Say how it is served."""
    register = partial(quality_pb2_grpc.add_QualityServiceServicer_to_server, servicer)
    return Service(name=NAME, register=register, roles=ROLES)
