"""The gRPC face of configurations."""

from __future__ import annotations

from functools import partial

import grpc

from penstock.api.monitoring.v1 import configuration_pb2 as pb
from penstock.api.monitoring.v1 import configuration_pb2_grpc
from services.common.keys import Role
from services.common.server import Service
from services.monitoring.checks import MAX_CHARS
from services.monitoring.configuration import convert
from services.monitoring.configuration.configurations import Configurations
from services.monitoring.configuration.doubts import Doubts

NAME = "penstock.api.monitoring.v1.ConfigurationService"
ROLES = {
    "GetConfiguration": Role.VIEWER,
    "SetConfiguration": Role.OPERATOR,
    "ListConfigurationChanges": Role.VIEWER,
}


class ConfigurationServicer(configuration_pb2_grpc.ConfigurationServiceServicer):
    """Decode, call, encode."""

    def __init__(self, configurations: Configurations, doubts: Doubts) -> None:
        self._configurations = configurations
        self._doubts = doubts

    def GetConfiguration(
        self, request: pb.GetConfigurationRequest, context: grpc.ServicerContext
    ) -> pb.GetConfigurationResponse:
        """Say what holds, and what the scope says itself."""
        scope = convert.scope_from(request)
        standing = self._configurations.get(scope)
        return convert.get_response(standing, self._doubts.of(scope, standing.own))

    def SetConfiguration(
        self, request: pb.SetConfigurationRequest, context: grpc.ServicerContext
    ) -> pb.SetConfigurationResponse:
        """Replace what a scope says itself."""
        scope, own = convert.scope_from(request), convert.own_from(request.configuration)
        note = convert.text("note", request.note, convert.MAX_NOTE_CHARS)
        standing = self._configurations.set(scope, own, etag=request.etag, note=note)
        return convert.set_response(standing, self._doubts.of(scope, standing.own))

    def ListConfigurationChanges(
        self, request: pb.ListConfigurationChangesRequest, context: grpc.ServicerContext
    ) -> pb.ListConfigurationChangesResponse:
        """Give a page of changes."""
        model = convert.text("model", request.model, MAX_CHARS["model"])
        self._doubts.models.require(model)
        page = self._configurations.changes(model, size=request.page_size, token=request.page_token)
        return convert.changes_response(*page)


def service(servicer: ConfigurationServicer) -> Service:
    """Say how it is served."""
    register = partial(configuration_pb2_grpc.add_ConfigurationServiceServicer_to_server, servicer)
    return Service(name=NAME, register=register, roles=ROLES)
