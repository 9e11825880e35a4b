"""One run, from its token to its end: bring its files, have its recipe run, hand in what it made."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from penstock.api.trainer.v1 import training_pb2
from penstock.api.trainer.v1 import worker_pb2 as pb
from penstock.errors import InvalidArgument, PenstockError, PermissionDenied, Unauthenticated
from penstock.training_worker import TrainingWorkerClient
from penstock.values import to_struct
from services.common.checks import file_path
from services.common.errors import DomainError
from services.common.jobs import Stopped, StopReason
from services.trainer.executing.plain_files import plain_files
from services.trainer.runs.convert import plain_parameters
from services.trainer.task import Executor, Outcome, Part, RunFolder, Task, TrainingType
from services.trainer.worker.reporting import Reporting

_log = structlog.get_logger(__name__)
WORKER_LOST = "WORKER_LOST"
MakeExecutor = Callable[[int], Executor]
"""Makes what runs recipes, given the most bytes that a run may write."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """Does runs. `started` hears of each that begins, so that it can be stopped; `folder`: where they have theirs."""

    client: TrainingWorkerClient
    make_executor: MakeExecutor
    started: Callable[[Reporting | None], None]
    folder: Path | None = None

    def __call__(self, run_token: str) -> bool:
        """Do the run of a token; gives whether its end is known to the trainer, whichever it is."""
        try:
            task = self.client.get_task(run_token)
        except PenstockError as error:
            _log.error("no task", reason=error.reason, message=error.message)
            return False
        with tempfile.TemporaryDirectory(prefix="penstock-run-", dir=self.folder, ignore_cleanup_errors=True) as path:
            folder = RunFolder(Path(path))
            folder.make()
            with Reporting(self.client, run_token, folder, task.report_interval_ms / 1000) as reporting:
                self.started(reporting)
                try:
                    return self._done(run_token, task, folder, reporting)
                finally:
                    self.started(None)

    def _done(self, run_token: str, task: pb.TrainingTask, folder: RunFolder, reporting: Reporting) -> bool:
        _log.info("training", run=task.run_id, model=task.model, recipe=task.recipe, attempt=task.attempt)
        try:
            self._train(run_token, task, folder, reporting)
        except Stopped as stopped:
            if stopped.reason is not StopReason.DRAINING:
                _log.info("stopped", run=task.run_id, reason=stopped.reason.value)
                return True
            return self._failed(run_token, reporting, WORKER_LOST, "it was told to end")
        except (PermissionDenied, Unauthenticated) as error:
            _log.info("the run is nobody's any more", run=task.run_id, reason=error.reason)
            return True
        except DomainError as error:
            reason = WORKER_LOST if error.retryable else error.reason
            return self._failed(run_token, reporting, reason, error.message)
        except InvalidArgument as error:
            sentence = f"the trainer does not take what was made: {error.message}"
            return self._failed(run_token, reporting, "INVALID_OUTCOME", sentence)
        except PenstockError as error:
            return self._failed(run_token, reporting, WORKER_LOST, f"it could not go on: {error.message}")
        except OSError as error:
            return self._failed(run_token, reporting, WORKER_LOST, f"it could not go on: {error.strerror}")
        _log.info("completed", run=task.run_id)
        return True

    def _train(self, run_token: str, task: pb.TrainingTask, folder: RunFolder, reporting: Reporting) -> None:
        for file in task.inputs:
            file_path("inputs.path", file.path)
            self.client.download_input(run_token, file, folder.path, check=reporting.check)
        executor = self.make_executor(task.max_artifact_bytes)
        outcome = executor.execute(_task(task), folder, reporting.tell, reporting)
        reporting.flush()
        files = {plain.path: plain for plain in plain_files(folder.artifact) if not plain.is_folder}
        self.client.upload(run_token, "ARTIFACT", files)
        reporting.check()
        self.client.complete(run_token, outcome_proto(outcome))

    def _failed(self, run_token: str, reporting: Reporting, reason: str, message: str) -> bool:
        _log.info("failed", reason=reason, message=message)
        try:
            reporting.flush()
            self.client.fail(run_token, reason, message[:2_000])
        except (PermissionDenied, Unauthenticated):
            return True
        except PenstockError as error:
            _log.error("the failure could not be told", reason=error.reason, message=error.message)
            return False
        return True


def outcome_proto(outcome: Outcome) -> pb.TrainingOutcome:
    """Write what a recipe made."""
    return pb.TrainingOutcome(
        framework=outcome.framework,
        label_column=outcome.label,
        features=[pb.OutcomeColumn(name=column.name, datatype=column.datatype) for column in outcome.features],
        input_name=outcome.input_name,
        train_metrics=outcome.metrics.get(Part.TRAIN),
        validation_metrics=outcome.metrics.get(Part.VALIDATION),
        test_metrics=outcome.metrics.get(Part.TEST),
        task_type=outcome.task_type,
        classes=outcome.classes,
        environment=outcome.environment,
        code_sha256=outcome.code_sha256,
        metadata=to_struct(outcome.metadata),
        notes=outcome.notes,
    )


def processors() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _task(task: pb.TrainingTask) -> Task:
    return Task(
        run_id=task.run_id,
        model=task.model,
        recipe=task.recipe,
        parameters=plain_parameters(task.parameters),
        type=TrainingType(training_pb2.TrainingType.Name(task.type).removeprefix("TRAINING_TYPE_")),
        attempt=task.attempt,
        time_limit_s=task.time_limit_ms / 1000,
        memory_limit_bytes=task.memory_limit_bytes,
    )
