"""Datasets over gRPC: decode, call, encode."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

import grpc

from penstock.api.trainer.v1 import datasets_pb2 as pb
from penstock.api.trainer.v1.datasets_pb2_grpc import DatasetServiceServicer, add_DatasetServiceServicer_to_server
from services.common.keys import Role, caller
from services.common.server import Service
from services.trainer.datasets import convert
from services.trainer.datasets.builds import Builds
from services.trainer.datasets.catalog import Catalog
from services.trainer.datasets.uploads import Uploads

NAME = "penstock.api.trainer.v1.DatasetService"
ROLES = {
    "UploadDataset": Role.OPERATOR,
    "BuildDataset": Role.OPERATOR,
    "GetDataset": Role.VIEWER,
    "ListDatasets": Role.VIEWER,
    "PreviewDataset": Role.VIEWER,
    "DownloadDataset": Role.VIEWER,
    "SplitDataset": Role.OPERATOR,
    "DeleteDataset": Role.ADMIN,
}


class DatasetServicer(DatasetServiceServicer):
    """See datasets.proto for what each RPC promises."""

    def __init__(self, catalog: Catalog, uploads: Uploads, builds: Builds) -> None:
        self._catalog = catalog
        self._uploads = uploads
        self._builds = builds

    def UploadDataset(
        self, request_iterator: Iterator[pb.UploadDatasetRequest], context: grpc.ServicerContext
    ) -> pb.UploadDatasetResponse:
        """Make a version of rows that are sent."""
        new, chunks = convert.upload(request_iterator)
        dataset, existed = self._uploads.upload(new, chunks, caller(), context.is_active)
        return pb.UploadDatasetResponse(dataset=convert.dataset_proto(dataset), existed=existed)

    def BuildDataset(self, request: pb.BuildDatasetRequest, context: grpc.ServicerContext) -> pb.BuildDatasetResponse:
        """Begin a version of rows that lie elsewhere."""
        dataset = self._builds.create(convert.build(request, datetime.now(UTC)), caller())
        return pb.BuildDatasetResponse(dataset=convert.dataset_proto(dataset))

    def GetDataset(self, request: pb.GetDatasetRequest, context: grpc.ServicerContext) -> pb.GetDatasetResponse:
        """Give a version."""
        return pb.GetDatasetResponse(dataset=convert.dataset_proto(self._catalog.get(*convert.name(request))))

    def ListDatasets(self, request: pb.ListDatasetsRequest, context: grpc.ServicerContext) -> pb.ListDatasetsResponse:
        """Give a page of versions."""
        found, token = self._catalog.page(
            convert.listed(request), page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListDatasetsResponse(datasets=map(convert.dataset_proto, found), next_page_token=token)

    def PreviewDataset(
        self, request: pb.PreviewDatasetRequest, context: grpc.ServicerContext
    ) -> pb.PreviewDatasetResponse:
        """Give some rows."""
        rows = self._catalog.preview(*convert.name(request), *convert.preview(request))
        return pb.PreviewDatasetResponse(rows=convert.rows_proto(rows))

    def DownloadDataset(
        self, request: pb.DownloadDatasetRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DownloadDatasetResponse]:
        """Stream a version, or a part of it."""
        name, version = convert.name(request)
        part = convert.part(request)
        file, chunks = self._catalog.download(
            name, version, split_id=request.split_id, part=part, columns=request.columns, offset=request.offset
        )
        yield pb.DownloadDatasetResponse(
            dataset=convert.dataset_proto(file.dataset), sha256=file.sha256, size_bytes=file.size_bytes
        )
        for chunk in chunks:
            yield pb.DownloadDatasetResponse(chunk=chunk)

    def SplitDataset(self, request: pb.SplitDatasetRequest, context: grpc.ServicerContext) -> pb.SplitDatasetResponse:
        """Divide a version."""
        kept = self._catalog.split(*convert.name(request), convert.split(request.split))
        return pb.SplitDatasetResponse(split=convert.split_proto(kept))

    def DeleteDataset(
        self, request: pb.DeleteDatasetRequest, context: grpc.ServicerContext
    ) -> pb.DeleteDatasetResponse:
        """Delete a version."""
        self._catalog.delete(*convert.deleted(request), force=request.force)
        return pb.DeleteDatasetResponse()


def service(catalog: Catalog, uploads: Uploads, builds: Builds) -> Service:
    """Describe the service to the kit."""
    return Service(
        name=NAME,
        register=partial(add_DatasetServiceServicer_to_server, DatasetServicer(catalog, uploads, builds)),
        roles=ROLES,
    )
