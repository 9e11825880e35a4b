"""Feature views over gRPC: decode, call, encode."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import grpc

from penstock.api.features.v1 import feature_views_pb2 as pb
from penstock.api.features.v1 import feature_views_pb2_grpc
from services.common.keys import Role
from services.common.server import Service
from services.registry.features import convert
from services.registry.features.store.transaction import FeatureStore
from services.registry.features.views.feature_views import FeatureViews

NAME = "penstock.api.features.v1.FeatureViewService"
ROLES: Mapping[str, Role] = {
    "CreateFeatureView": Role.OPERATOR,
    "GetFeatureView": Role.VIEWER,
    "ListFeatureViews": Role.VIEWER,
    "UpdateFeatureView": Role.OPERATOR,
    "DeleteFeatureView": Role.ADMIN,
}


def service(store: FeatureStore) -> Service:
    """Build it, on a store."""
    return Service(
        name=NAME,
        register=partial(
            feature_views_pb2_grpc.add_FeatureViewServiceServicer_to_server, FeatureViewServicer(FeatureViews(store))
        ),
        roles=ROLES,
    )


class FeatureViewServicer(feature_views_pb2_grpc.FeatureViewServiceServicer):
    """See feature_views.proto for what each RPC promises."""

    def __init__(self, views: FeatureViews) -> None:
        self._views = views

    def CreateFeatureView(
        self, request: pb.CreateFeatureViewRequest, _: grpc.ServicerContext
    ) -> pb.CreateFeatureViewResponse:
        """Make a view, or its next version."""
        view, existed = self._views.create(convert.new_view(request.view))
        return pb.CreateFeatureViewResponse(view=convert.view_proto(view), existed=existed)

    def GetFeatureView(self, request: pb.GetFeatureViewRequest, _: grpc.ServicerContext) -> pb.GetFeatureViewResponse:
        """Give a version of a view."""
        return pb.GetFeatureViewResponse(view=convert.view_proto(self._views.get(request.name, request.version)))

    def ListFeatureViews(
        self, request: pb.ListFeatureViewsRequest, _: grpc.ServicerContext
    ) -> pb.ListFeatureViewsResponse:
        """List views."""
        views, token = self._views.page(
            entity=request.entity, name=request.name, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListFeatureViewsResponse(views=map(convert.view_proto, views), next_page_token=token)

    def UpdateFeatureView(
        self, request: pb.UpdateFeatureViewRequest, _: grpc.ServicerContext
    ) -> pb.UpdateFeatureViewResponse:
        """Change a version of a view."""
        view = self._views.update(request.name, request.version, convert.change(request))
        return pb.UpdateFeatureViewResponse(view=convert.view_proto(view))

    def DeleteFeatureView(
        self, request: pb.DeleteFeatureViewRequest, _: grpc.ServicerContext
    ) -> pb.DeleteFeatureViewResponse:
        """Delete a version of a view."""
        self._views.delete(request.name, convert.named_version(request.version))
        return pb.DeleteFeatureViewResponse()
