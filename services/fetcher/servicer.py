"""Fetching over gRPC: decode, call, encode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import grpc

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.api.fetcher.v1.fetch_jobs_pb2_grpc import FetchJobServiceServicer, add_FetchJobServiceServicer_to_server
from services.common.jobs import Job
from services.common.keys import Role, caller
from services.common.server import Service
from services.fetcher import convert
from services.fetcher.fetches import Fetches

NAME = "penstock.api.fetcher.v1.FetchJobService"
ROLES = {
    "CreateFetchJob": Role.OPERATOR,
    "GetFetchJob": Role.VIEWER,
    "WatchFetchJob": Role.VIEWER,
    "ListFetchJobs": Role.VIEWER,
    "CancelFetchJob": Role.OPERATOR,
    "RetryFetchJob": Role.OPERATOR,
    "DeleteFetchJob": Role.OPERATOR,
}
ENDLESS = frozenset({"WatchFetchJob"})


class FetchJobServicer(FetchJobServiceServicer):
    """See fetch_jobs.proto for what each RPC promises."""

    def __init__(self, fetches: Fetches) -> None:
        self._do = fetches

    def CreateFetchJob(
        self, request: pb.CreateFetchJobRequest, context: grpc.ServicerContext
    ) -> pb.CreateFetchJobResponse:
        """Queue a job."""
        job = self._do.create(convert.new_fetch(request), caller())
        return pb.CreateFetchJobResponse(job=self._written(job))

    def GetFetchJob(self, request: pb.GetFetchJobRequest, context: grpc.ServicerContext) -> pb.GetFetchJobResponse:
        """Give a job."""
        return pb.GetFetchJobResponse(job=self._written(self._do.get(convert.job_id(request.id))))

    def WatchFetchJob(
        self, request: pb.WatchFetchJobRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchFetchJobResponse]:
        """Give a job whenever it changes."""
        for job in self._do.watch(convert.job_id(request.id), context.is_active):
            yield pb.WatchFetchJobResponse(job=self._written(job))

    def ListFetchJobs(
        self, request: pb.ListFetchJobsRequest, context: grpc.ServicerContext
    ) -> pb.ListFetchJobsResponse:
        """Give a page of jobs."""
        jobs, token = self._do.page(
            convert.filters(request), page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListFetchJobsResponse(jobs=self._all_written(jobs), next_page_token=token)

    def CancelFetchJob(
        self, request: pb.CancelFetchJobRequest, context: grpc.ServicerContext
    ) -> pb.CancelFetchJobResponse:
        """Ask for a job's end."""
        return pb.CancelFetchJobResponse(job=self._written(self._do.cancel(convert.job_id(request.id))))

    def RetryFetchJob(
        self, request: pb.RetryFetchJobRequest, context: grpc.ServicerContext
    ) -> pb.RetryFetchJobResponse:
        """Queue a job again."""
        return pb.RetryFetchJobResponse(job=self._written(self._do.retry(convert.job_id(request.id))))

    def DeleteFetchJob(
        self, request: pb.DeleteFetchJobRequest, context: grpc.ServicerContext
    ) -> pb.DeleteFetchJobResponse:
        """Delete a job."""
        self._do.delete(convert.job_id(request.id))
        return pb.DeleteFetchJobResponse()

    def _written(self, job: Job) -> pb.FetchJob:
        (written,) = self._all_written([job])
        return written

    def _all_written(self, jobs: Sequence[Job]) -> list[pb.FetchJob]:
        deliveries = self._do.deliveries(jobs)
        return [convert.job_proto(job, self._do.limits.retention, deliveries) for job in jobs]


def service(fetches: Fetches) -> Service:
    """Describe the service to the kit."""
    return Service(
        name=NAME,
        register=partial(add_FetchJobServiceServicer_to_server, FetchJobServicer(fetches)),
        roles=ROLES,
        endless=ENDLESS,
    )
