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

import pyarrow as pa
import pyarrow.parquet as pq

from services.common.jobs import JobRun, JobStore, Progress
from services.trainer.datasets.materialising import Datasets
from services.trainer.runs.splitting import split_of
from services.trainer.task import Part, RunFolder
from services.trainer.validating.jobs import Rows, ValidationSpec
from services.trainer.validating.models import Trial
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
        rows, dataset = self._rows(run, spec)
        trial = Trial(
            trial_id=str(run.job.job_id),
            model=spec.model,
            version=spec.version,
            rows=rows,
            label=spec.label_column,
            against=spec.against,
            dataset=dataset,
            slices=spec.slices,
            note=spec.note,
        )
        compared = f" beside {spec.against}" if spec.against else ""
        self._say(run, f"predicting {rows.num_rows if rows else 0:,} rows with version {spec.version}{compared}")
        progress = run.job.progress

        def told(done: int, total: int) -> None:
            nonlocal progress
            progress = Progress(done=done, total=total)
            run.report(progress)

        validation = self._validating.validate(run, trial, told)
        self._say(run, said(spec.version, validation), progress)
        return asdict(validation)

    def _rows(self, run: JobRun, spec: ValidationSpec) -> tuple[pa.Table | None, str]:
        """Gather the rows that are predicted; None: there are none."""
        self._say(run, f"gathering rows of {spec.data_source}")
        split = split_of({"split": spec.split} if spec.split is not None else {})
        with tempfile.TemporaryDirectory(
            prefix="penstock-validation-", dir=self._work_folder, ignore_cleanup_errors=True
        ) as path:
            folder = RunFolder(Path(path))
            folder.make()
            given = self._datasets.materialise(
                run.job.job_id, spec.data_source, spec.model, split, folder, run, label=spec.label_column
            )
            parts = [Part.TEST] if spec.rows is Rows.TEST else list(Part)
            tables = [pq.read_table(folder.rows(part)) for part in parts if folder.rows(part).exists()]
        with run.holding() as connection:
            self._store.prepared(connection, run.job.job_id, given.dataset)
        return (pa.concat_tables(tables) if tables else None), given.dataset

    def _say(self, run: JobRun, message: str, progress: Progress | None = None) -> None:
        run.check()
        with run.holding() as connection:
            self._store.at(connection, run.job.job_id, message)
            self._jobs.report(connection, run.lease, progress or run.job.progress)
