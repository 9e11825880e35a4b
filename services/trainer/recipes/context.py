"""What a recipe works with, in the process of its run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from services.trainer.faults import TrainingFailed
from services.trainer.task import CheckpointWritten, Epoch, Event, Part, RunFolder, Task, checked_metrics


class Context:
    """A run, as its recipe sees it. What a script of your own gets, too: see docs/training.md.

    Attributes:
        task: what is to be done.
        folder: where everything lies.
    """

    def __init__(self, task: Task, folder: RunFolder, tell: Callable[[Event], None]) -> None:
        """`tell` gives an event to whoever runs this, and comes back once it is heard; for a checkpoint, once it is
        kept.
        """
        self.task = task
        self.folder = folder
        self._tell = tell

    def with_task(self, task: Task) -> Context:
        """Give the same with another task, such as one that was told less."""
        return Context(task, self.folder, self._tell)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What the recipe was told."""
        return self.task.parameters

    @property
    def checkpoint(self) -> Path:
        """The folder of the last checkpoint; empty where there is none."""
        return self.folder.checkpoint

    @property
    def artifact(self) -> Path:
        """Where the version's files go."""
        return self.folder.artifact

    def rows(self, part: Part | str) -> pa.Table:
        """Read a part's rows: `train`, `validation` or `test`; one that has none has no rows, and the same columns."""
        path, learned_from = self.folder.rows(Part(part)), self.folder.rows(Part.TRAIN)
        if path.exists():
            return pq.read_table(path)
        if not learned_from.exists():
            raise TrainingFailed("this recipe needs rows; name a data source", reason="INVALID_DATA")
        return pq.read_schema(learned_from).empty_table()

    def report(self, number: int, metrics: Mapping[str, float], *, total: int = 0) -> None:
        """Tell of an epoch or a trial: 1, 2, 3 … of `total`.

        Raises:
            TrainingFailed: a metric is no finite number (LOSS_NOT_FINITE).
        """
        try:
            checked = checked_metrics(metrics)
        except ValueError as error:
            sentence = f"in epoch {number}: {error}; a smaller learning rate, or scaled features, may help"
            raise TrainingFailed(sentence, reason="LOSS_NOT_FINITE") from error
        self._tell(Epoch(number, checked, total))

    def save_checkpoint(self, epoch: int) -> None:
        """Have the folder `checkpoint` kept: a run that is rescued later finds it as it is now."""
        self._tell(CheckpointWritten(epoch))
