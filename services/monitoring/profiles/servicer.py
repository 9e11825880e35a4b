"""The gRPC face of profiles."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import grpc

from penstock.api.monitoring.v1 import profiles_pb2 as pb
from penstock.api.monitoring.v1 import profiles_pb2_grpc
from services.common.keys import Role
from services.common.server import Service
from services.monitoring.known_models import KnownModels
from services.monitoring.profiles import convert
from services.monitoring.profiles.encode import profile_proto
from services.monitoring.profiles.profiles import Profiles

NAME = "penstock.api.monitoring.v1.ProfileService"
ROLES = {
    "UploadProfile": Role.OPERATOR,
    "CreateProfile": Role.OPERATOR,
    "GetProfile": Role.VIEWER,
    "ListProfiles": Role.VIEWER,
    "AttachProfile": Role.OPERATOR,
}


class ProfileServicer(profiles_pb2_grpc.ProfileServiceServicer):
    """Decode, call, encode."""

    def __init__(self, profiles: Profiles, models: KnownModels) -> None:
        self._profiles = profiles
        self._models = models

    def UploadProfile(
        self, request_iterator: Iterator[pb.UploadProfileRequest], context: grpc.ServicerContext
    ) -> pb.UploadProfileResponse:
        """Make a profile of what is sent."""
        new, row_format, sha256, chunks = convert.upload_from(request_iterator)
        profile = self._profiles.upload(new, row_format, chunks, sha256=sha256)
        return pb.UploadProfileResponse(profile=profile_proto(profile))

    def CreateProfile(
        self, request: pb.CreateProfileRequest, context: grpc.ServicerContext
    ) -> pb.CreateProfileResponse:
        """Make a profile of what is there."""
        new, source = convert.new_from(request)
        profile = self._profiles.create(new, source)
        return pb.CreateProfileResponse(profile=profile_proto(profile))

    def GetProfile(self, request: pb.GetProfileRequest, context: grpc.ServicerContext) -> pb.GetProfileResponse:
        """Give a profile."""
        asked = convert.asked_from(request)
        found = self._profiles.get_attached(*asked) if isinstance(asked, tuple) else self._profiles.get(asked)
        return pb.GetProfileResponse(profile=profile_proto(found))

    def ListProfiles(self, request: pb.ListProfilesRequest, context: grpc.ServicerContext) -> pb.ListProfilesResponse:
        """Give a page of profiles."""
        filters = convert.filters_from(request)
        self._models.require(filters[0])
        page = self._profiles.page(*filters, size=request.page_size, token=request.page_token)
        return convert.list_response(page)

    def AttachProfile(
        self, request: pb.AttachProfileRequest, context: grpc.ServicerContext
    ) -> pb.AttachProfileResponse:
        """Compare a version with a profile."""
        profile_id, version = convert.attach_from(request)
        profile = self._profiles.attach(profile_id, version)
        return pb.AttachProfileResponse(profile=profile_proto(profile))


def service(servicer: ProfileServicer) -> Service:
    """Say how it is served."""
    register = partial(profiles_pb2_grpc.add_ProfileServiceServicer_to_server, servicer)
    return Service(name=NAME, register=register, roles=ROLES)
