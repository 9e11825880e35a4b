"""The work on one validation: gather its rows, try the version, and keep how it did.

Each step is safe to do again: the rows are held while it has not ended, and the registry knows the evaluation by the
validation's id.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.common.jobs import JobRun, JobStore, Progress
from services.trainer.datasets.materialising import Datasets, Materialised
from services.trainer.runs.splitting import split_of
from services.trainer.task import Part, RunFolder
from services.trainer.validating.held_out import MAX_ROWS
from services.trainer.validating.jobs import Rows, ValidationSpec
from services.trainer.validating.models import Trial, Validation
from services.trainer.validating.store import ValidationStore, said
from services.trainer.validating.validating import Validating


class ValidationWork:
    """Does validations; call it with one."""

    def __init__(
        self,
        jobs: JobStore,
        store: ValidationStore,
        datasets: Datasets,
        validating: Validating,
        work_folder: Path | None = None,
    ) -> None:
        self._jobs = jobs
        self._store = store
        self._datasets = datasets
        self._validating = validating
        self._work_folder = work_folder

    def __call__(self, run: JobRun) -> Mapping[str, Any]:
        """Do a validation to its end. What it raises says how it ended, see `common.jobs.Work`."""
        spec = ValidationSpec.of(run.job.payload)
        with tempfile.TemporaryDirectory(
            prefix="penstock-validation-", dir=self._work_folder, ignore_cleanup_errors=True
        ) as path:
            folder = RunFolder(Path(path))
            folder.make()
            given = self._gathered(run, spec, folder)
            return asdict(self._tried(run, spec, given, folder))

    def _gathered(self, run: JobRun, spec: ValidationSpec, folder: RunFolder) -> Materialised:
        """Write the rows into a folder."""
        self._say(run, f"gathering rows of {spec.data_source}")
        split = split_of({"split": spec.split} if spec.split is not None else {})
        given = self._datasets.materialise(run.job.job_id, spec.data_source, spec.model, split, folder, run)
        with run.holding() as connection:
            self._store.prepared(connection, run.job.job_id, given.dataset)
        return given

    def _tried(self, run: JobRun, spec: ValidationSpec, given: Materialised, folder: RunFolder) -> Validation:
        parts = [part for part in Part if given.counts[part] and (spec.rows is Rows.ALL or part is Part.TEST)]
        trial = Trial(
            trial_id=str(run.job.job_id),
            model=spec.model,
            version=spec.version,
            files=[folder.rows(part) for part in parts],
            label=spec.label_column,
            against=spec.against,
            dataset=given.dataset,
            slices=spec.slices,
            groups=[folder.groups(part) for part in parts if folder.groups(part).exists()],
            note=spec.note,
        )
        compared = f" beside {spec.against}" if spec.against else ""
        count = sum(given.counts[part] for part in parts)
        self._say(run, f"predicting {min(count, MAX_ROWS):,} rows with version {spec.version}{compared}")
        progress = run.job.progress

        def told(done: int, total: int) -> None:
            nonlocal progress
            progress = Progress(done=done, total=total)
            run.report(progress)

        validation = self._validating.validate(run, trial, told)
        self._say(run, said(spec.version, validation), progress)
        return validation

    def _say(self, run: JobRun, message: str, progress: Progress | None = None) -> None:
        run.check()
        with run.holding() as connection:
            self._store.at(connection, run.job.job_id, message)
            self._jobs.report(connection, run.lease, progress or run.job.progress)
