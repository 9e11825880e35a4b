"""The client of the trainer: runs that make a version of a model."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any, TypeAlias

from penstock.api.trainer.v1 import training_pb2 as pb
from penstock.channels import Connection
from penstock.errors import PenstockError
from penstock.ids import uuid7
from penstock.paging import pages
from penstock.retries import WATCH_PATIENCE_S, Broken, Tries
from penstock.stubs import TrainerStub
from penstock.values import enum_number, to_struct

TERMINAL = (pb.TRAINING_RUN_STATE_COMPLETED, pb.TRAINING_RUN_STATE_FAILED, pb.TRAINING_RUN_STATE_CANCELLED)

Type: TypeAlias = "pb.TrainingType.ValueType | str | None"
"""INITIAL, RETRAIN or FINETUNE, by number or by name in any case; None: the trainer chooses."""


class TrainingClient:
    """Calls the trainer."""

    def __init__(self, connection: Connection[TrainerStub]) -> None:
        self._connection = connection

    def create_run(
        self,
        model: str,
        *,
        type: Type = None,  # noqa: A002 - the contract's name
        parent_version: str = "",
        config_version: int = 0,
        requested_by: str = "",
        retraining_request_id: str = "",
        note: str = "",
        data_source: str = "",
        parameters: Mapping[str, Any] | None = None,
        version: str = "",
        recipe: str = "",
        executor: pb.TrainingExecutor.ValueType | str | None = None,
        request_id: str = "",
    ) -> pb.TrainingRun:
        """Queue a run: with the model's training config, and with what is said here in its place.

        Args:
            model: the model.
            type: what the run begins with; None: RETRAIN where the model has a version, else INITIAL.
            parent_version: what the new version comes from, and a finetune begins with; empty: the one in production.
            config_version: of the training config; 0: the latest.
            requested_by: who wanted it; heeded where the caller is a service.
            retraining_request_id: the retraining request that it answers.
            note: why, in at most 1,000 characters.
            data_source: where the rows come from: a dataset as NAME or NAME/VERSION, `traffic` or `traffic:7d`, or
                several with `+` between them.
            parameters: of the recipe, and `split`, `slices`; those that are not named stay as the config has them.
            version: what the new version is called; empty: a name is generated.
            recipe: in place of the config's; a model that is not there is created.
            executor: LOCAL, RAY, KUBERNETES or REMOTE; None: as the parameters say, else LOCAL.
            request_id: the same again returns the first result; empty: one is made, so that a retry makes no second
                run.

        Raises:
            NotFound: the model (MODEL_NOT_FOUND) or the parent (VERSION_NOT_FOUND).
            FailedPrecondition: the model has no training config (NO_TRAINING_CONFIG), or the recipe can't be used
                (RECIPE_NOT_ALLOWED, EXECUTOR_NOT_CONFIGURED, NO_PARENT).
            InvalidArgument: a parameter or the data source is malformed; `violations` names it.
            ResourceExhausted: too many runs of this key have not ended (TOO_MANY_JOBS).
        """
        request = pb.CreateTrainingRunRequest(
            model=model,
            type=enum_number("type", pb.TrainingType, type),
            parent_version=parent_version,
            config_version=config_version,
            trigger=pb.TrainingTrigger(
                requested_by=requested_by, retraining_request_id=retraining_request_id, note=note
            ),
            data_source=data_source,
            parameters=to_struct(parameters) if parameters else None,
            version=version,
            recipe=recipe,
            executor=enum_number("executor", pb.TrainingExecutor, executor),
            request_id=request_id or uuid7(),
        )
        return self._connection.unary(self._connection.stub.CreateTrainingRun, request).run

    def get_run(self, run_id: str) -> pb.TrainingRun:
        """Give a run as it stands; raises NotFound (RUN_NOT_FOUND)."""
        request = pb.GetTrainingRunRequest(id=run_id)
        return self._connection.unary(self._connection.stub.GetTrainingRun, request).run

    def watch_run(
        self, run_id: str, *, after_epoch: int = 0, broken: Broken | None = None
    ) -> Generator[pb.WatchTrainingRunResponse, None, None]:
        """Give a run at once, again with each epoch and whenever it changes, until it has ended.

        A stream that breaks is taken up again after the last epoch that came, for a minute at the least. `broken` is
        called once for each break that is about to be mended, with its error.

        Raises:
            NotFound: there is none such (RUN_NOT_FOUND).
            PenstockError: the service stayed away. The run goes on without; watch it again.
        """
        tries = Tries(self._connection.retry, patience_s=WATCH_PATIENCE_S, broken=broken)
        while True:
            request = pb.WatchTrainingRunRequest(id=run_id, after_epoch=after_epoch)
            try:
                with closing(self._connection.stream(self._connection.stub.WatchTrainingRun, request)) as answers:
                    for answer in answers:
                        tries.progressed()
                        if answer.epochs:
                            after_epoch = answer.epochs[-1].number
                        yield answer
                        if answer.run.state in TERMINAL:
                            return
            except PenstockError as error:
                tries.again(error)

    def wait_run(self, run_id: str) -> pb.TrainingRun:
        """Wait until a run has ended, however, and give it; raises as `watch_run`."""
        for answer in self.watch_run(run_id):
            run = answer.run
        return run

    def list_runs(
        self,
        *,
        model: str = "",
        states: Iterable[pb.TrainingRunState.ValueType | str] = (),
        page_size: int = 0,
    ) -> Iterator[pb.TrainingRun]:
        """List runs, the newest first, page by page as they are wanted; `states` by number or by name in any case."""
        wanted = [enum_number("states", pb.TrainingRunState, state) for state in states]

        def fetch(token: str) -> pb.ListTrainingRunsResponse:
            request = pb.ListTrainingRunsRequest(model=model, states=wanted, page_size=page_size, page_token=token)
            return self._connection.unary(self._connection.stub.ListTrainingRuns, request)

        for page in pages(fetch):
            yield from page.runs

    def epochs(self, run_id: str) -> Iterator[pb.TrainingEpoch]:
        """Give a run's epochs in order, page by page; raises NotFound (RUN_NOT_FOUND)."""

        def fetch(token: str) -> pb.ListTrainingEpochsResponse:
            request = pb.ListTrainingEpochsRequest(id=run_id, page_token=token)
            return self._connection.unary(self._connection.stub.ListTrainingEpochs, request)

        for page in pages(fetch):
            yield from page.epochs

    def log(
        self, run_id: str, *, offset: int = 0, follow: bool = False, broken: Broken | None = None
    ) -> Generator[pb.ReadTrainingLogResponse, None, None]:
        """Give what a run printed, from a byte on; with `follow` until it has ended. A break is mended.

        Where a piece does not begin at the end of the one before, what lies between was not kept.
        """
        tries = Tries(self._connection.retry, patience_s=WATCH_PATIENCE_S, broken=broken)
        while True:
            request = pb.ReadTrainingLogRequest(id=run_id, offset=offset, follow=follow)
            try:
                with closing(self._connection.stream(self._connection.stub.ReadTrainingLog, request)) as pieces:
                    for piece in pieces:
                        tries.progressed()
                        offset = piece.offset + len(piece.chunk)
                        yield piece
                return
            except PenstockError as error:
                tries.again(error)

    def cancel_run(self, run_id: str) -> pb.TrainingRun:
        """Ask for a run's end; its processes end within seconds. Raises FailedPrecondition (JOB_ENDED)."""
        request = pb.CancelTrainingRunRequest(id=run_id)
        return self._connection.unary(self._connection.stub.CancelTrainingRun, request).run

    def delete_run(self, run_id: str) -> None:
        """Delete a run that has ended, its epochs and log; raises FailedPrecondition (WRONG_STATE)."""
        self._connection.unary(self._connection.stub.DeleteTrainingRun, pb.DeleteTrainingRunRequest(id=run_id))

    def recipes(self) -> list[pb.Recipe]:
        """List the recipes, what each takes, and whether it can be used."""
        return list(self._connection.unary(self._connection.stub.ListRecipes, pb.ListRecipesRequest()).recipes)
