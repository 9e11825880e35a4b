"""What is tried, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


class Untried(Exception):
    """A version cannot be tried: it fails, or these rows or the surroundings are not fit. The sentence says why."""


class VersionFails(Untried):
    """The version itself is at fault: it does not load, fails on rows that were accepted, or answers rows of finite
    values with what is no finite number."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A version to be tried.

    Attributes:
        trial_id: the run's id, or the validation's: the same one again is one evaluation in the registry.
        model: whose version it is.
        version: the exact version.
        files: Parquet of the held-out rows, with the columns that versions take and the label; none: there are none.
        label: the label's column.
        against: the exact version that it is compared with; '': none.
        against_production: what is in production when the trial begins goes before `against`.
        dataset: what the rows are of, as NAME/VERSION; goes with the evaluation.
        task_type: `binary-classification`, `classification` or `regression`; '': as the version's metadata say, else as
            its outputs and the labels do.
        slices: columns of the rows whose values are judged one by one.
        groups: of each of `files`, in the same order, a file with the keys of its rows in a column: those of one key
            belong together; none: rows are independent.
        note: goes with the evaluation.
        config_version: of the training config that it was made by; 0: of none.
    """

    trial_id: str
    model: str
    version: str
    files: Sequence[Path]
    label: str = "label"
    against: str = ""
    against_production: bool = False
    dataset: str = ""
    task_type: str = ""
    slices: Sequence[str] = ()
    groups: Sequence[Path] = ()
    note: str = ""
    config_version: int = 0


@dataclass(frozen=True, slots=True)
class Criterion:
    """A success criterion: the metric is at most (`at_most`), or at least, the threshold."""

    metric: str
    at_most: bool
    threshold: float

    def met(self, metrics: Mapping[str, float]) -> bool:
        """Whether it is met; what was not measured meets nothing."""
        value = metrics.get(self.metric)
        if value is None:
            return False
        return value <= self.threshold if self.at_most else value >= self.threshold


@dataclass(frozen=True, slots=True)
class Validation:
    """How a trial went.

    Attributes:
        passed: whether every success criterion of the model is met, and nothing else stood in the way.
        metrics: what criteria may bound, by name: `accuracy`, `accuracy_vs_live` (the version's less the live one's),
            `accuracy_vs_live_low` and `…_high` (the ends of its 95 % interval), `latency_p95_ms`, `size_bytes`,
            `accuracy[COLUMN=VALUE]`, `worst_slice_accuracy[COLUMN]`.
        shortfalls: a sentence for each criterion that is not met, and for whatever else stood in the way.
        notes: sentences for whoever looks at it: what was left out, and why.
        evaluation_id: of the evaluation in the registry; 0: none, since nothing was learned of the version.
        live_version: what it was compared with; '': nothing.
        row_count: rows that were predicted.
        criteria: the model's, as they stood.
    """

    passed: bool
    metrics: Mapping[str, float]
    shortfalls: Sequence[str] = ()
    evaluation_id: int = 0
    live_version: str = ""
    notes: Sequence[str] = ()
    row_count: int = 0
    criteria: Sequence[Criterion] = ()

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` wrote."""
        criteria = tuple(Criterion(**each) for each in columns.get("criteria", ()))
        return cls(**{**columns, "criteria": criteria})
