"""Validation over gRPC: decode, call, encode."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import grpc

from penstock.api.trainer.v1 import validations_pb2 as pb
from penstock.api.trainer.v1.validations_pb2_grpc import (
    ValidationServiceServicer,
    add_ValidationServiceServicer_to_server,
)
from services.common.keys import Role, caller
from services.common.server import Service
from services.trainer.validating import convert
from services.trainer.validating.validations import Validations

NAME = "penstock.api.trainer.v1.ValidationService"
ROLES = {
    "ValidateVersion": Role.OPERATOR,
    "GetValidation": Role.VIEWER,
    "ListValidations": Role.VIEWER,
    "WatchValidation": Role.VIEWER,
    "CancelValidation": Role.OPERATOR,
}
ENDLESS = frozenset({"WatchValidation"})


class ValidationServicer(ValidationServiceServicer):
    """See validations.proto for what each RPC promises."""

    def __init__(self, validations: Validations) -> None:
        self._do = validations

    def ValidateVersion(
        self, request: pb.ValidateVersionRequest, context: grpc.ServicerContext
    ) -> pb.ValidateVersionResponse:
        """Queue a validation."""
        job = self._do.create(convert.new_validation(request), caller())
        return pb.ValidateVersionResponse(validation=convert.validation_proto(job))

    def GetValidation(
        self, request: pb.GetValidationRequest, context: grpc.ServicerContext
    ) -> pb.GetValidationResponse:
        """Give a validation."""
        job = self._do.get(convert.validation_id(request.id))
        return pb.GetValidationResponse(validation=convert.validation_proto(job))

    def ListValidations(
        self, request: pb.ListValidationsRequest, context: grpc.ServicerContext
    ) -> pb.ListValidationsResponse:
        """Give a page of validations."""
        jobs, token = self._do.page(
            *convert.filters(request), page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListValidationsResponse(validations=map(convert.validation_proto, jobs), next_page_token=token)

    def WatchValidation(
        self, request: pb.WatchValidationRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchValidationResponse]:
        """Give a validation whenever it changes."""
        for job in self._do.watch(convert.validation_id(request.id), context.is_active):
            yield pb.WatchValidationResponse(validation=convert.validation_proto(job))

    def CancelValidation(
        self, request: pb.CancelValidationRequest, context: grpc.ServicerContext
    ) -> pb.CancelValidationResponse:
        """Ask for a validation's end."""
        job = self._do.cancel(convert.validation_id(request.id))
        return pb.CancelValidationResponse(validation=convert.validation_proto(job))


def service(validations: Validations) -> Service:
    """Describe the service to the kit."""
    return Service(
        name=NAME,
        register=partial(add_ValidationServiceServicer_to_server, ValidationServicer(validations)),
        roles=ROLES,
        endless=ENDLESS,
    )
