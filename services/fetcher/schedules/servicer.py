"""Schedules over gRPC: decode, call, encode."""

from __future__ import annotations

from functools import partial

import grpc

from penstock.api.fetcher.v1 import fetch_schedules_pb2 as pb
from penstock.api.fetcher.v1.fetch_schedules_pb2_grpc import (
    FetchScheduleServiceServicer,
    add_FetchScheduleServiceServicer_to_server,
)
from services.common.keys import Role, caller
from services.common.server import Service
from services.fetcher.convert import schedule_id
from services.fetcher.schedules import convert
from services.fetcher.schedules.schedules import Schedules

NAME = "penstock.api.fetcher.v1.FetchScheduleService"
ROLES = {
    "CreateFetchSchedule": Role.OPERATOR,
    "GetFetchSchedule": Role.VIEWER,
    "ListFetchSchedules": Role.VIEWER,
    "SetFetchScheduleEnabled": Role.OPERATOR,
    "DeleteFetchSchedule": Role.OPERATOR,
}


class FetchScheduleServicer(FetchScheduleServiceServicer):
    """See fetch_schedules.proto for what each RPC promises."""

    def __init__(self, schedules: Schedules) -> None:
        self._do = schedules

    def CreateFetchSchedule(
        self, request: pb.CreateFetchScheduleRequest, context: grpc.ServicerContext
    ) -> pb.CreateFetchScheduleResponse:
        """Make a schedule."""
        new, webhook = convert.new_schedule(request)
        created = self._do.create(new, webhook, caller())
        return pb.CreateFetchScheduleResponse(schedule=convert.schedule_proto(created))

    def GetFetchSchedule(
        self, request: pb.GetFetchScheduleRequest, context: grpc.ServicerContext
    ) -> pb.GetFetchScheduleResponse:
        """Give a schedule."""
        found = self._do.get(schedule_id(request.id))
        return pb.GetFetchScheduleResponse(schedule=convert.schedule_proto(found))

    def ListFetchSchedules(
        self, request: pb.ListFetchSchedulesRequest, context: grpc.ServicerContext
    ) -> pb.ListFetchSchedulesResponse:
        """Give a page of schedules."""
        filters = convert.filters(request)
        found, token = self._do.page(filters, page_size=request.page_size, page_token=request.page_token)
        return pb.ListFetchSchedulesResponse(schedules=map(convert.schedule_proto, found), next_page_token=token)

    def SetFetchScheduleEnabled(
        self, request: pb.SetFetchScheduleEnabledRequest, context: grpc.ServicerContext
    ) -> pb.SetFetchScheduleEnabledResponse:
        """Switch a schedule on or off."""
        changed = self._do.enable(schedule_id(request.id), enabled=request.enabled)
        return pb.SetFetchScheduleEnabledResponse(schedule=convert.schedule_proto(changed))

    def DeleteFetchSchedule(
        self, request: pb.DeleteFetchScheduleRequest, context: grpc.ServicerContext
    ) -> pb.DeleteFetchScheduleResponse:
        """Delete a schedule."""
        self._do.delete(schedule_id(request.id))
        return pb.DeleteFetchScheduleResponse()


def service(schedules: Schedules) -> Service:
    """Describe the service to the kit."""
    return Service(
        name=NAME,
        register=partial(add_FetchScheduleServiceServicer_to_server, FetchScheduleServicer(schedules)),
        roles=ROLES,
    )
