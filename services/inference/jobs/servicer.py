"""Batch prediction over gRPC: decode, call, encode."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import grpc

from penstock.api.inference.v1 import prediction_jobs_pb2 as pb
from penstock.api.inference.v1.prediction_jobs_pb2_grpc import (
    PredictionJobServiceServicer,
    add_PredictionJobServiceServicer_to_server,
)
from services.common.jobs import Job
from services.common.keys import Role, caller
from services.common.server import Service
from services.inference.jobs import convert
from services.inference.jobs.inputs import InputFiles
from services.inference.jobs.predictions import Predictions
from services.inference.remaining import remaining_s

NAME = "penstock.api.inference.v1.PredictionJobService"
ROLES = {
    "UploadPredictionInput": Role.VIEWER,
    "CreatePredictionJob": Role.VIEWER,
    "GetPredictionJob": Role.VIEWER,
    "WaitPredictionJob": Role.VIEWER,
    "WatchPredictionJob": Role.VIEWER,
    "ListPredictionJobs": Role.VIEWER,
    "CancelPredictionJob": Role.VIEWER,
    "RetryPredictionJob": Role.VIEWER,
    "DeletePredictionJob": Role.VIEWER,
    "DownloadPredictionResult": Role.VIEWER,
    "ListPredictionWorkers": Role.VIEWER,
}
ENDLESS = frozenset({"WatchPredictionJob"})


class PredictionJobServicer(PredictionJobServiceServicer):
    """See prediction_jobs.proto for what each RPC promises."""

    def __init__(self, predictions: Predictions, inputs: InputFiles) -> None:
        self._do = predictions
        self._inputs = inputs

    def UploadPredictionInput(
        self, request_iterator: Iterator[pb.UploadPredictionInputRequest], context: grpc.ServicerContext
    ) -> pb.UploadPredictionInputResponse:
        """Store a file of rows."""
        sha256, size_bytes, chunks = convert.upload(request_iterator)
        uri, blob = self._inputs.upload(chunks, sha256=sha256, size_bytes=size_bytes, principal=caller())
        return pb.UploadPredictionInputResponse(uri=uri, sha256=blob.sha256, size_bytes=blob.size_bytes)

    def CreatePredictionJob(
        self, request: pb.CreatePredictionJobRequest, context: grpc.ServicerContext
    ) -> pb.CreatePredictionJobResponse:
        """Queue a job."""
        job = self._do.create(convert.new_prediction(request), caller())
        return pb.CreatePredictionJobResponse(job=self._written(job))

    def GetPredictionJob(
        self, request: pb.GetPredictionJobRequest, context: grpc.ServicerContext
    ) -> pb.GetPredictionJobResponse:
        """Give a job."""
        job = self._do.get(convert.job_id(request.id), caller())
        return pb.GetPredictionJobResponse(job=self._written(job))

    def WaitPredictionJob(
        self, request: pb.WaitPredictionJobRequest, context: grpc.ServicerContext
    ) -> pb.WaitPredictionJobResponse:
        """Wait for a job's end."""
        timeout_s = convert.wait_s(request, remaining_s(context))
        job = self._do.wait(convert.job_id(request.id), caller(), timeout_s)
        return pb.WaitPredictionJobResponse(job=self._written(job))

    def WatchPredictionJob(
        self, request: pb.WatchPredictionJobRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchPredictionJobResponse]:
        """Give a job whenever it changes."""
        for job in self._do.watch(convert.job_id(request.id), caller(), context.is_active):
            yield pb.WatchPredictionJobResponse(job=self._written(job))

    def ListPredictionJobs(
        self, request: pb.ListPredictionJobsRequest, context: grpc.ServicerContext
    ) -> pb.ListPredictionJobsResponse:
        """Give a page of jobs."""
        jobs, token = self._do.page(
            convert.states(request),
            request.model,
            caller(),
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return pb.ListPredictionJobsResponse(jobs=map(self._written, jobs), next_page_token=token)

    def CancelPredictionJob(
        self, request: pb.CancelPredictionJobRequest, context: grpc.ServicerContext
    ) -> pb.CancelPredictionJobResponse:
        """Ask for a job's end."""
        job = self._do.cancel(convert.job_id(request.id), caller())
        return pb.CancelPredictionJobResponse(job=self._written(job))

    def RetryPredictionJob(
        self, request: pb.RetryPredictionJobRequest, context: grpc.ServicerContext
    ) -> pb.RetryPredictionJobResponse:
        """Queue a job again."""
        job = self._do.retry(convert.job_id(request.id), caller())
        return pb.RetryPredictionJobResponse(job=self._written(job))

    def DeletePredictionJob(
        self, request: pb.DeletePredictionJobRequest, context: grpc.ServicerContext
    ) -> pb.DeletePredictionJobResponse:
        """Delete a job."""
        self._do.delete(convert.job_id(request.id), caller())
        return pb.DeletePredictionJobResponse()

    def DownloadPredictionResult(
        self, request: pb.DownloadPredictionResultRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DownloadPredictionResultResponse]:
        """Stream a result."""
        result, reader = self._do.open_result(convert.job_id(request.id), caller(), convert.offset(request))
        with reader:
            yield pb.DownloadPredictionResultResponse(result=convert.result_proto(result))
            for chunk in reader:
                yield pb.DownloadPredictionResultResponse(chunk=chunk)

    def ListPredictionWorkers(
        self, request: pb.ListPredictionWorkersRequest, context: grpc.ServicerContext
    ) -> pb.ListPredictionWorkersResponse:
        """Give the workers."""
        return pb.ListPredictionWorkersResponse(workers=map(convert.worker_proto, self._do.workers()))

    def _written(self, job: Job) -> pb.PredictionJob:
        return convert.job_proto(job, caller(), self._do.limits.retention)


def service(predictions: Predictions, inputs: InputFiles) -> Service:
    """Describe the service to the kit."""
    return Service(
        name=NAME,
        register=partial(add_PredictionJobServiceServicer_to_server, PredictionJobServicer(predictions, inputs)),
        roles=ROLES,
        endless=ENDLESS,
    )
