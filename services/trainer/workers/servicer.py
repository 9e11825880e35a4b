"""Outside workers over gRPC: decode, call, encode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import grpc

from penstock.api.trainer.v1 import worker_pb2 as pb
from penstock.api.trainer.v1.worker_pb2_grpc import (
    TrainingWorkerServiceServicer,
    add_TrainingWorkerServiceServicer_to_server,
)
from services.common.keys import Role
from services.common.server import Service
from services.trainer.workers import convert
from services.trainer.workers.callbacks import Assignment, Callbacks

NAME = "penstock.api.trainer.v1.TrainingWorkerService"
ROLES = {
    "ClaimTrainingTask": Role.OPERATOR,
    # The run's own token says who calls these: a job of a cluster has no key.
    "GetTrainingTask": Role.PUBLIC,
    "DownloadTrainingInput": Role.PUBLIC,
    "ReportTrainingProgress": Role.PUBLIC,
    "UploadTrainingOutput": Role.PUBLIC,
    "CompleteTrainingRun": Role.PUBLIC,
    "FailTrainingRun": Role.PUBLIC,
}


@dataclass(frozen=True, slots=True)
class TaskLimits:
    """What a worker is told to keep to."""

    report_interval_ms: int
    max_artifact_bytes: int


class TrainingWorkerServicer(TrainingWorkerServiceServicer):
    """See worker.proto for what each RPC promises."""

    def __init__(self, callbacks: Callbacks, limits: TaskLimits) -> None:
        self._do = callbacks
        self._limits = limits

    def ClaimTrainingTask(
        self, request: pb.ClaimTrainingTaskRequest, context: grpc.ServicerContext
    ) -> pb.ClaimTrainingTaskResponse:
        """Give a run to a worker that asks for one."""
        claimed = self._do.claim(*convert.worker(request))
        if claimed is None:
            return pb.ClaimTrainingTaskResponse()
        assignment, token = claimed
        return pb.ClaimTrainingTaskResponse(task=self._written(assignment), run_token=token)

    def GetTrainingTask(
        self, request: pb.GetTrainingTaskRequest, context: grpc.ServicerContext
    ) -> pb.GetTrainingTaskResponse:
        """Give the task of a token."""
        return pb.GetTrainingTaskResponse(task=self._written(self._do.assignment(request.run_token)))

    def DownloadTrainingInput(
        self, request: pb.DownloadTrainingInputRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DownloadTrainingInputResponse]:
        """Give a file of a task."""
        for piece in self._do.download(request.run_token, request.path, request.offset):
            yield pb.DownloadTrainingInputResponse(chunk=piece)

    def ReportTrainingProgress(
        self, request: pb.ReportTrainingProgressRequest, context: grpc.ServicerContext
    ) -> pb.ReportTrainingProgressResponse:
        """Hear how a training goes."""
        cancelled = self._do.report(request.run_token, request.sequence, *convert.report(request))
        return pb.ReportTrainingProgressResponse(cancelled=cancelled)

    def UploadTrainingOutput(
        self, request_iterator: Iterator[pb.UploadTrainingOutputRequest], context: grpc.ServicerContext
    ) -> pb.UploadTrainingOutputResponse:
        """Take files in."""
        size_bytes = self._do.upload(convert.announced(request_iterator), convert.uploaded(request_iterator))
        return pb.UploadTrainingOutputResponse(size_bytes=size_bytes)

    def CompleteTrainingRun(
        self, request: pb.CompleteTrainingRunRequest, context: grpc.ServicerContext
    ) -> pb.CompleteTrainingRunResponse:
        """End a training well."""
        self._do.complete(request.run_token, *convert.outcome(request))
        return pb.CompleteTrainingRunResponse()

    def FailTrainingRun(
        self, request: pb.FailTrainingRunRequest, context: grpc.ServicerContext
    ) -> pb.FailTrainingRunResponse:
        """End a training badly."""
        self._do.fail(request.run_token, *convert.failure(request))
        return pb.FailTrainingRunResponse()

    def _written(self, assignment: Assignment) -> pb.TrainingTask:
        limits = self._limits
        return convert.task_proto(
            assignment, report_interval_ms=limits.report_interval_ms, max_artifact_bytes=limits.max_artifact_bytes
        )


def service(callbacks: Callbacks, limits: TaskLimits) -> Service:
    """Describe the service to the kit."""
    return Service(
        name=NAME,
        register=partial(add_TrainingWorkerServiceServicer_to_server, TrainingWorkerServicer(callbacks, limits)),
        roles=ROLES,
    )
