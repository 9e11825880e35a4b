"""Rows that the parent has not learned from, as it takes them, and what it answers to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.context import Context
from services.trainer.recipes.onnx_comparison import Reading
from services.trainer.recipes.onnx_parent import Graph, OnnxParent
from services.trainer.recipes.targets import Labels, labels_of, present
from services.trainer.task import Part


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out rows.

    Attributes:
        parent: which answered.
        part: which rows these are.
        feeds: its inputs.
        labels: what really was, of those rows that say so; None where none does.
        labelled: which rows these are.
        own: what the parent answers to all; None where its outputs say neither a label nor a number.
    """

    parent: OnnxParent
    part: Part
    feeds: Mapping[str, NDArray[Any]]
    labels: Labels | None
    labelled: NDArray[Any] | None
    own: Reading | None

    @classmethod
    def of(cls, context: Context, parent: OnnxParent, max_rows: int) -> Self | None:
        """Read the test rows, or where there are none those of a part before; None where no rows are named.

        Raises:
            TrainingFailed: INVALID_DATA: they lack a column that the parent takes.
        """
        if not context.folder.rows(Part.TRAIN).exists() or not parent.reads_rows():
            return None
        tables = ((part, context.rows(part)) for part in (Part.TEST, Part.VALIDATION, Part.TRAIN))
        part, table = next((found for found in tables if found[1].num_rows), (Part.TEST, None))
        return None if table is None else cls._of(parent, part, table.slice(0, max_rows))

    @classmethod
    def _of(cls, parent: OnnxParent, part: Part, table: pa.Table) -> Self:
        labels = labels_of(table, parent.label) if parent.label in table.column_names else None
        labelled = present(labels) if labels is not None else None
        if labels is not None and labelled is not None:
            labels = labels[labelled] if labelled.any() else None
        feeds = parent.feeds(table)
        own = Reading.of(parent.graph.run(feeds), parent.version.task_type, parent.version.classes)
        return cls(parent, part, feeds, labels, labelled, own)

    def read(self, graph: Graph) -> Reading | None:
        """Read what another graph answers to them."""
        return Reading.of(graph.run(self.feeds), self.parent.version.task_type, self.parent.version.classes)

    def compared(self, graph: Graph) -> dict[str, float]:
        """Measure another graph beside the parent.

        `agreement`: of classes, the share of rows of which both say the same; `difference`: of numbers, how far apart
        they are on average, in the parent's standard deviations. Where there are labels, its scores by their names, and
        the parent's as `parent_NAME`.

        Raises:
            TrainingFailed: INVALID_OUTCOME: its answers are no such thing, or not finite.
        """
        other = self.read(graph)
        if self.own is None:
            return {}
        if other is None or other.regression != self.own.regression:
            raise TrainingFailed("the new graph does not answer as the parent does", reason="INVALID_OUTCOME")
        if self.own.regression:
            measured = {"difference": self.own.difference(other)}
        else:
            measured = {"agreement": self.own.agreement(other)}
        if not np.isfinite([*measured.values()]).all():
            raise TrainingFailed("the new graph answers numbers that are not finite", reason="INVALID_OUTCOME")
        if self.labels is None:
            return measured
        parents = {f"parent_{name}": value for name, value in self._scores(self.own).items() if "[" not in name}
        return measured | self._scores(other) | parents

    def _scores(self, reading: Reading) -> dict[str, float]:
        version, labelled = self.parent.version, self.labelled
        if self.labels is None or labelled is None:
            return {}
        probabilities = None if reading.probabilities is None else reading.probabilities[labelled]
        some = Reading(reading.predictions[labelled], probabilities, reading.regression)
        return some.scores(self.labels, version.task_type, version.classes)
