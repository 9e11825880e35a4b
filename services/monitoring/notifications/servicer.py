"""Channels over gRPC: decode, call, encode."""

from __future__ import annotations

from functools import partial

import grpc

from penstock.api.monitoring.v1 import channels_pb2 as pb
from penstock.api.monitoring.v1.channels_pb2_grpc import ChannelServiceServicer, add_ChannelServiceServicer_to_server
from services.common.keys import Role
from services.common.server import Service
from services.monitoring.notifications import convert
from services.monitoring.notifications.channels import Channels

NAME = "penstock.api.monitoring.v1.ChannelService"
ROLES = {
    "SetChannel": Role.ADMIN,
    "DeleteChannel": Role.ADMIN,
    "ListChannels": Role.VIEWER,
    "TestChannel": Role.OPERATOR,
    "ListChannelChanges": Role.VIEWER,
}


class ChannelServicer(ChannelServiceServicer):
    """See channels.proto for what each RPC promises."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    def SetChannel(self, request: pb.SetChannelRequest, context: grpc.ServicerContext) -> pb.SetChannelResponse:
        """Make or replace a channel, or only compare it."""
        use = self._channels.compare if request.validate_only else self._channels.set
        channel, changed = use(convert.draft(request))
        return pb.SetChannelResponse(channel=convert.channel_proto(channel), changed=changed)

    def DeleteChannel(
        self, request: pb.DeleteChannelRequest, context: grpc.ServicerContext
    ) -> pb.DeleteChannelResponse:
        """Delete a channel."""
        self._channels.delete(convert.channel_name(request.name, "name"))
        return pb.DeleteChannelResponse()

    def ListChannels(self, request: pb.ListChannelsRequest, context: grpc.ServicerContext) -> pb.ListChannelsResponse:
        """List the channels."""
        return pb.ListChannelsResponse(channels=map(convert.channel_proto, self._channels.listed()))

    def TestChannel(self, request: pb.TestChannelRequest, context: grpc.ServicerContext) -> pb.TestChannelResponse:
        """Send a test."""
        duration_ms = self._channels.test(convert.channel_name(request.name, "name"))
        return pb.TestChannelResponse(duration_ms=duration_ms)

    def ListChannelChanges(
        self, request: pb.ListChannelChangesRequest, context: grpc.ServicerContext
    ) -> pb.ListChannelChangesResponse:
        """Give a page of what was done to channels."""
        name = convert.channel_name(request.name, "name") if request.name else ""
        return convert.changes_response(*self._channels.changes(name, size=request.page_size, token=request.page_token))


def service(channels: Channels) -> Service:
    """Describe the service to the server."""
    servicer = ChannelServicer(channels)
    return Service(name=NAME, register=partial(add_ChannelServiceServicer_to_server, servicer), roles=ROLES)
