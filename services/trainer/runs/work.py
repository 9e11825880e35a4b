"""The work on one run: bring its rows, have its recipe run, register what it left, and try it.

Each step is safe to do again: what a step left is kept before the next begins, the name of the version is kept before
it is registered, and the registry knows both version and evaluation by the run's id.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from services.common.errors import DomainError
from services.common.jobs import JobRun, JobStore
from services.trainer.datasets.materialising import Datasets, Materialised
from services.trainer.faults import TrainingFailed
from services.trainer.registering.models import Registration
from services.trainer.registering.registering import Registering
from services.trainer.runs.folders import CHECKPOINT, OUT, Folders
from services.trainer.runs.models import ExecutorName, Phase, RunSpec
from services.trainer.runs.parents import Parents
from services.trainer.runs.planning import OWN_PARAMETERS, slices_of
from services.trainer.runs.splitting import split_of
from services.trainer.runs.store import RunStore
from services.trainer.runs.telling import Telling
from services.trainer.scripts.catalog import Scripts
from services.trainer.task import Executor, Outcome, Part, RunFolder, Stopping, Task, TrainingType
from services.trainer.validating.models import Trial, Validation
from services.trainer.validating.store import ValidationStore, said
from services.trainer.validating.validating import Validating


class Profiling(Protocol):
    """Makes reference profiles."""

    def profile(self, stopping: Stopping, model: str, version: str, outcome: Outcome, rows: Path) -> str:
        """Make one of the rows in a Parquet file, for a version, and give its id; raises DomainError."""
        ...


@dataclass(frozen=True, slots=True)
class WorkLimits:
    """What one attempt may take: seconds, bytes of memory; and where runs have their folders (None: the system's)."""

    time_limit_s: float
    memory_limit_bytes: int
    work_folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Steps:
    """What does the steps of a run. `reads_parent` says of a recipe whether it always begins with the parent."""

    datasets: Datasets
    scripts: Scripts
    parents: Parents
    executors: Mapping[ExecutorName, Executor]
    registering: Registering
    profiling: Profiling
    validating: Validating
    reads_parent: Callable[[str], bool]


class TrainingWork:
    """Does runs; call it with one."""

    def __init__(self, jobs: JobStore, store: RunStore, folders: Folders, steps: Steps, limits: WorkLimits) -> None:
        self._jobs = jobs
        self._store = store
        self._folders = folders
        self._steps = steps
        self._limits = limits
        self._validations = ValidationStore()

    def __call__(self, run: JobRun) -> Mapping[str, Any]:
        """Do a run to its end. What it raises says how it ended, see `common.jobs.Work`."""
        spec = RunSpec.of(run.job.payload)
        with tempfile.TemporaryDirectory(
            prefix="penstock-run-", dir=self._limits.work_folder, ignore_cleanup_errors=True
        ) as path:
            folder = RunFolder(Path(path))
            folder.make()
            rows = self._rows(run, spec, folder)
            outcome = self._outcome(run, spec, folder)
            spec = self._registered(run, replace(spec, outcome=outcome), rows, folder)
            validation = self._validated(run, spec, rows, folder)
        return {"version": spec.new_version, "validation_passed": validation.passed}

    def _rows(self, run: JobRun, spec: RunSpec, folder: RunFolder) -> Materialised | None:
        """Write the run's rows into its folder; None: it has none."""
        if not spec.data_source:
            return None
        self._say(run, f"gathering rows of {spec.data_source}")
        split = split_of(spec.parameters)
        given = self._steps.datasets.materialise(run.job.job_id, spec.data_source, spec.model, split, folder, run)
        with run.holding() as connection:
            self._store.prepared(connection, run.job.job_id, given.dataset, given.split_id, given.counts)
        return given

    def _outcome(self, run: JobRun, spec: RunSpec, folder: RunFolder) -> Outcome:
        """Have the recipe run, unless an attempt before has come so far."""
        if spec.outcome is not None and self._folders.restore(run, OUT, folder.out):
            return spec.outcome
        self._steps.parents.bring(run, spec, folder, always=self._steps.reads_parent(spec.recipe))
        if spec.script:
            self._steps.scripts.bring(spec.script, folder, run.check)
        resumed = self._folders.restore(run, CHECKPOINT, folder.checkpoint)
        executor = self._steps.executors.get(spec.executor)
        if executor is None:
            sentence = f"no executor {spec.executor.lower()} is configured here; docs/training.md says what it needs"
            raise TrainingFailed(sentence, reason="RECIPE_NOT_ALLOWED")
        self._say(run, "training, from the last checkpoint" if resumed else "training")
        task = self._task(run, spec)
        task.write(folder.task)

        def keep_checkpoint() -> None:
            self._folders.keep(run, CHECKPOINT, folder.checkpoint)

        with Telling(run, self._jobs, self._store, keep_checkpoint) as tell:
            outcome = executor.execute(task, folder, tell, run)
        self._folders.keep(run, OUT, folder.out)
        with run.holding() as connection:
            self._store.trained(connection, run.job.job_id, outcome)
        return outcome

    def _task(self, run: JobRun, spec: RunSpec) -> Task:
        parameters = {name: value for name, value in spec.parameters.items() if name not in OWN_PARAMETERS}
        return Task(
            run_id=str(run.job.job_id),
            model=spec.model,
            recipe=spec.recipe,
            parameters=parameters,
            type=TrainingType(spec.type),
            attempt=run.job.attempt,
            time_limit_s=min(self._limits.time_limit_s, float(spec.parameters.get("time_limit_s", math.inf))),
            memory_limit_bytes=self._limits.memory_limit_bytes,
            resources=spec.parameters.get("resources", {}),
        )

    def _registered(self, run: JobRun, spec: RunSpec, rows: Materialised | None, folder: RunFolder) -> RunSpec:
        """Make a version of what the recipe left; the same run makes the same one."""
        run_id = run.job.job_id
        with run.holding() as connection:
            self._store.enter(connection, run_id, Phase.VALIDATING, "registering the version")
        if spec.outcome is None:
            raise TrainingFailed("the recipe left no outcome", reason="INVALID_OUTCOME")

        def keep_name(version: str) -> None:
            with run.holding() as connection:
                self._store.name(connection, run_id, version)

        registration = Registration(
            run_id=str(run_id),
            model=spec.model,
            outcome=spec.outcome,
            folder=folder,
            version=spec.new_version,
            generated=spec.version_generated,
            recipe=spec.recipe,
            config_version=spec.config_version,
            dataset=rows.dataset if rows else "",
            dataset_digest=rows.digest if rows else "",
            created_by=run.job.created_by,
            note=spec.trigger.note,
        )
        made = self._steps.registering.register(run, registration, keep_name)
        with run.holding() as connection:
            self._store.registered(connection, run_id, made.version, made.stage)
        return replace(spec, new_version=made.version, new_version_stage=made.stage, registered=True)

    def _validated(self, run: JobRun, spec: RunSpec, rows: Materialised | None, folder: RunFolder) -> Validation:
        """Keep what the training rows look like, and try the version on rows that it has not seen."""
        run_id = run.job.job_id
        unprofiled = self._profile(run, spec, folder)
        self._say(run, f"validating version {spec.new_version} as it is served")
        test, keys = folder.rows(Part.TEST), folder.groups(Part.TEST)
        trial = Trial(
            trial_id=str(run_id),
            model=spec.model,
            version=spec.new_version,
            files=(test,) if test.exists() else (),
            label=spec.outcome.label if spec.outcome and spec.outcome.label else "label",
            against=spec.parent_version,
            against_production=True,
            dataset=rows.dataset if rows else "",
            task_type=spec.outcome.task_type if spec.outcome else "",
            slices=slices_of(spec.parameters),
            groups=(keys,) if test.exists() and keys.exists() else (),
            note=spec.trigger.note,
            config_version=spec.config_version,
        )
        validation = self._steps.validating.validate(run, trial)
        with run.holding() as connection:
            self._store.validated(
                connection,
                run_id,
                passed=validation.passed,
                shortfalls=validation.shortfalls,
                evaluation_id=validation.evaluation_id,
            )
            told = [said(spec.new_version, validation), unprofiled]
            self._store.at(connection, run_id, "; ".join(filter(None, told)))
            self._validations.of_run(connection, run_id, trial, validation)
        return validation

    def _profile(self, run: JobRun, spec: RunSpec, folder: RunFolder) -> str:
        """Have monitoring keep what the rows look like; gives why it did not, "" where it did.

        Drift has nothing to compare with then, and no more: a monitoring that is away is asked again by later attempts,
        and the last one goes on without it.
        """
        train = folder.rows(Part.TRAIN)
        if spec.outcome is None or not train.exists() or spec.profile_id:
            return ""
        self._say(run, "making a reference profile of the training rows")
        try:
            profile_id = self._steps.profiling.profile(run, spec.model, spec.new_version, spec.outcome, train)
        except DomainError as error:
            if error.retryable and run.job.attempt < run.job.max_attempts:
                raise
            return f"no reference profile was made: {error.message}"
        with run.holding() as connection:
            self._store.profiled(connection, run.job.job_id, profile_id)
        return ""

    def _say(self, run: JobRun, message: str) -> None:
        run.check()
        with run.holding() as connection:
            self._jobs.report(connection, run.lease, self._store.at(connection, run.job.job_id, message))
