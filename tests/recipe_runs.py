"""Recipes run in this process: rows in, an outcome and a version's files out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.registry.validation.report import ValidationReport
from services.registry.validation.validator import ValidationLimits, Validator
from services.trainer.faults import TrainingFailed
from services.trainer.recipes.context import Context
from services.trainer.recipes.recipe import Recipe
from services.trainer.task import Epoch, Event, Outcome, Part, RunFolder, Task, TrainingType

Rows = Mapping[str, Any]
"""Columns by name."""


@dataclass
class Run:
    """A run's folder, and what its recipe told."""

    recipe: Recipe
    path: Path
    told: list[Event] = field(default_factory=list)
    when_told: Callable[[Event], None] = lambda _: None

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.path)

    @property
    def epochs(self) -> list[Epoch]:
        return [event for event in self.told if isinstance(event, Epoch)]

    def train(
        self,
        train: Rows,
        validation: Rows | None = None,
        test: Rows | None = None,
        *,
        type: TrainingType = TrainingType.INITIAL,  # noqa: A002 - as the task has it
        **parameters: Any,
    ) -> Outcome:
        """Run it on these rows, in the folder as it is."""
        self.folder.make()
        for part, rows in ((Part.TRAIN, train), (Part.VALIDATION, validation), (Part.TEST, test)):
            if rows is not None:
                pq.write_table(pa.table(dict(rows)), self.folder.rows(part))
        task = Task("run", "model", self.recipe.name, parameters, type)
        outcome = self.recipe.train(Context(task, self.folder, self._hear))
        outcome.write(self.folder.outcome)  # everything in it can be written down
        return outcome

    def refused(self, reason: str, train: Rows, *parts: Rows, **more: Any) -> str:
        """Give the sentence that it fails with, for this reason."""
        with pytest.raises(TrainingFailed) as caught:
            self.train(train, *parts, **more)
        assert caught.value.reason == reason
        return caught.value.message

    def _hear(self, event: Event) -> None:
        self.told.append(event)
        self.when_told(event)


def judged(folder: Path, framework: str) -> ValidationReport:
    """Have the registry's validator look at a version's files, in its own sandboxed process."""
    limits = ValidationLimits(timeout_s=180.0)
    return Validator(limits).validate(folder, framework)
