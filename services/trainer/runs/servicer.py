"""Training over gRPC: decode, call, encode."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import grpc

from penstock.api.trainer.v1 import training_pb2 as pb
from penstock.api.trainer.v1.training_pb2_grpc import TrainingServiceServicer, add_TrainingServiceServicer_to_server
from services.common.keys import Role, caller
from services.common.server import Service
from services.trainer.runs import convert
from services.trainer.runs.runs import Runs

NAME = "penstock.api.trainer.v1.TrainingService"
ROLES = {
    "CreateTrainingRun": Role.OPERATOR,
    "GetTrainingRun": Role.VIEWER,
    "ListTrainingRuns": Role.VIEWER,
    "WatchTrainingRun": Role.VIEWER,
    "CancelTrainingRun": Role.OPERATOR,
    "ListTrainingEpochs": Role.VIEWER,
    "ReadTrainingLog": Role.VIEWER,
    "DeleteTrainingRun": Role.ADMIN,
    "ListRecipes": Role.VIEWER,
}
ENDLESS = frozenset({"WatchTrainingRun", "ReadTrainingLog"})


class TrainingServicer(TrainingServiceServicer):
    """See training.proto for what each RPC promises."""

    def __init__(self, runs: Runs) -> None:
        self._do = runs

    def CreateTrainingRun(
        self, request: pb.CreateTrainingRunRequest, context: grpc.ServicerContext
    ) -> pb.CreateTrainingRunResponse:
        """Queue a run."""
        job = self._do.create(convert.new_run(request, caller()), caller())
        return pb.CreateTrainingRunResponse(run=convert.run_proto(job))

    def GetTrainingRun(
        self, request: pb.GetTrainingRunRequest, context: grpc.ServicerContext
    ) -> pb.GetTrainingRunResponse:
        """Give a run."""
        return pb.GetTrainingRunResponse(run=convert.run_proto(self._do.get(convert.run_id(request.id))))

    def ListTrainingRuns(
        self, request: pb.ListTrainingRunsRequest, context: grpc.ServicerContext
    ) -> pb.ListTrainingRunsResponse:
        """Give a page of runs."""
        jobs, token = self._do.page(
            convert.filters(request), page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListTrainingRunsResponse(runs=map(convert.run_proto, jobs), next_page_token=token)

    def WatchTrainingRun(
        self, request: pb.WatchTrainingRunRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchTrainingRunResponse]:
        """Give a run whenever it changes, with its new epochs."""
        for job, epochs in self._do.watch(convert.run_id(request.id), request.after_epoch, context.is_active):
            yield pb.WatchTrainingRunResponse(run=convert.run_proto(job), epochs=map(convert.epoch_proto, epochs))

    def CancelTrainingRun(
        self, request: pb.CancelTrainingRunRequest, context: grpc.ServicerContext
    ) -> pb.CancelTrainingRunResponse:
        """Ask for a run's end."""
        return pb.CancelTrainingRunResponse(run=convert.run_proto(self._do.cancel(convert.run_id(request.id))))

    def ListTrainingEpochs(
        self, request: pb.ListTrainingEpochsRequest, context: grpc.ServicerContext
    ) -> pb.ListTrainingEpochsResponse:
        """Give a page of a run's epochs."""
        epochs, token = self._do.epochs(
            convert.run_id(request.id), page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListTrainingEpochsResponse(epochs=map(convert.epoch_proto, epochs), next_page_token=token)

    def ReadTrainingLog(
        self, request: pb.ReadTrainingLogRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ReadTrainingLogResponse]:
        """Give what a run printed."""
        found = self._do.log(
            convert.run_id(request.id), request.offset, follow=request.follow, active=context.is_active
        )
        for piece in found:
            yield pb.ReadTrainingLogResponse(chunk=piece.chunk, offset=piece.offset)

    def DeleteTrainingRun(
        self, request: pb.DeleteTrainingRunRequest, context: grpc.ServicerContext
    ) -> pb.DeleteTrainingRunResponse:
        """Delete a run."""
        self._do.delete(convert.run_id(request.id))
        return pb.DeleteTrainingRunResponse()

    def ListRecipes(self, request: pb.ListRecipesRequest, context: grpc.ServicerContext) -> pb.ListRecipesResponse:
        """List the recipes."""
        return pb.ListRecipesResponse(recipes=map(convert.recipe_proto, self._do.recipes()))


def service(runs: Runs) -> Service:
    """Describe the service to the kit."""
    return Service(
        name=NAME,
        register=partial(add_TrainingServiceServicer_to_server, TrainingServicer(runs)),
        roles=ROLES,
        endless=ENDLESS,
    )
