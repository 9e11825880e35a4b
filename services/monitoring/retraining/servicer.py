"""The gRPC face of retraining requests."""

from __future__ import annotations

from functools import partial

import grpc

from penstock.api.monitoring.v1 import retraining_pb2 as pb
from penstock.api.monitoring.v1 import retraining_pb2_grpc
from services.common.keys import Role
from services.common.server import Service
from services.monitoring.known_models import KnownModels
from services.monitoring.retraining import convert
from services.monitoring.retraining.requests import RetrainingRequests

NAME = "penstock.api.monitoring.v1.RetrainingService"
ROLES = {
    "CreateRetrainingRequest": Role.OPERATOR,
    "GetRetrainingRequest": Role.VIEWER,
    "ListRetrainingRequests": Role.VIEWER,
    "ApproveRetrainingRequest": Role.ADMIN,
    "RejectRetrainingRequest": Role.ADMIN,
}


class RetrainingServicer(retraining_pb2_grpc.RetrainingServiceServicer):
    """Decode, call, encode."""

    def __init__(self, requests: RetrainingRequests, models: KnownModels) -> None:
        self._requests = requests
        self._models = models

    def CreateRetrainingRequest(
        self, request: pb.CreateRetrainingRequestRequest, context: grpc.ServicerContext
    ) -> pb.CreateRetrainingRequestResponse:
        """Ask for a retraining by hand."""
        draft = convert.draft_from(request)
        self._models.require_existing(draft.model)
        created = self._requests.create(draft)
        return pb.CreateRetrainingRequestResponse(retraining_request=convert.request_proto(created))

    def GetRetrainingRequest(
        self, request: pb.GetRetrainingRequestRequest, context: grpc.ServicerContext
    ) -> pb.GetRetrainingRequestResponse:
        """Give one request with its history."""
        found, history = self._requests.get(convert.id_from(request.id))
        return pb.GetRetrainingRequestResponse(retraining_request=convert.request_proto(found, history))

    def ListRetrainingRequests(
        self, request: pb.ListRetrainingRequestsRequest, context: grpc.ServicerContext
    ) -> pb.ListRetrainingRequestsResponse:
        """Give a page of requests."""
        filters = convert.filters_from(request)
        requests, next_page = self._requests.page(filters, size=request.page_size, token=request.page_token)
        if not requests:
            self._models.require(filters.model)
        return convert.page_response(requests, next_page)

    def ApproveRetrainingRequest(
        self, request: pb.ApproveRetrainingRequestRequest, context: grpc.ServicerContext
    ) -> pb.ApproveRetrainingRequestResponse:
        """Have the model trained."""
        approved = self._requests.approve(*convert.approval_from(request))
        return pb.ApproveRetrainingRequestResponse(retraining_request=convert.request_proto(approved))

    def RejectRetrainingRequest(
        self, request: pb.RejectRetrainingRequestRequest, context: grpc.ServicerContext
    ) -> pb.RejectRetrainingRequestResponse:
        """Decline."""
        rejected = self._requests.reject(*convert.rejection_from(request))
        return pb.RejectRetrainingRequestResponse(retraining_request=convert.request_proto(rejected))


def service(servicer: RetrainingServicer) -> Service:
    """Say how it is served."""
    register = partial(retraining_pb2_grpc.add_RetrainingServiceServicer_to_server, servicer)
    return Service(name=NAME, register=register, roles=ROLES)
