"""Uploads in parts over gRPC: decode, call, encode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import grpc

from penstock.api.registry.v1 import uploads_pb2 as pb
from penstock.api.registry.v1 import uploads_pb2_grpc
from services.common.keys import Role
from services.registry.parts import convert
from services.registry.parts.ownership import upload_id
from services.registry.parts.part_uploads import PartUploads

NAME = "penstock.api.registry.v1.UploadService"
ROLES: Mapping[str, Role] = {
    "CreateUpload": Role.OPERATOR,
    "UploadPart": Role.OPERATOR,
    "GetUpload": Role.OPERATOR,
    "FinishUpload": Role.OPERATOR,
    "AbortUpload": Role.OPERATOR,
}


class UploadServicer(uploads_pb2_grpc.UploadServiceServicer):
    """See uploads.proto for what each RPC promises."""

    def __init__(self, uploads: PartUploads) -> None:
        self._uploads = uploads

    def CreateUpload(self, request: pb.CreateUploadRequest, _: grpc.ServicerContext) -> pb.CreateUploadResponse:
        """See uploads.proto."""
        upload = self._uploads.create(convert.new_upload(request))
        return pb.CreateUploadResponse(upload=convert.upload(upload))

    def UploadPart(
        self, request_iterator: Iterator[pb.UploadPartRequest], _: grpc.ServicerContext
    ) -> pb.UploadPartResponse:
        """See uploads.proto."""
        upload = self._uploads.put(convert.new_part(request_iterator))
        return pb.UploadPartResponse(upload=convert.upload(upload))

    def GetUpload(self, request: pb.GetUploadRequest, _: grpc.ServicerContext) -> pb.GetUploadResponse:
        """See uploads.proto."""
        upload = self._uploads.get(upload_id(request.upload_id))
        return pb.GetUploadResponse(upload=convert.upload(upload))

    def FinishUpload(
        self, request: pb.FinishUploadRequest, _: grpc.ServicerContext
    ) -> Iterator[pb.FinishUploadResponse]:
        """See uploads.proto."""
        yield from map(convert.progress, self._uploads.finish(upload_id(request.upload_id)))

    def AbortUpload(self, request: pb.AbortUploadRequest, _: grpc.ServicerContext) -> pb.AbortUploadResponse:
        """See uploads.proto."""
        self._uploads.abort(upload_id(request.upload_id))
        return pb.AbortUploadResponse()
