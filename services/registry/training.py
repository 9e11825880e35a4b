"""How a model is trained, what a version of it must reach, and how well one did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class Comparison(StrEnum):
    """On which side of its threshold a metric must be; the threshold itself will do."""

    AT_LEAST = "AT_LEAST"
    AT_MOST = "AT_MOST"


@dataclass(frozen=True, slots=True)
class SuccessCriterion:
    """A bound of one metric."""

    metric: str
    comparison: Comparison
    threshold: float

    def shortfall(self, metrics: Mapping[str, float]) -> str | None:
        """Say what is missing, in a sentence; None where it is met."""
        bound = f"{'at least' if self.comparison is Comparison.AT_LEAST else 'at most'} {self.threshold!r}"
        value = metrics.get(self.metric)
        if value is None:
            return f"{self.metric} was not measured; it must be {bound}"
        met = value >= self.threshold if self.comparison is Comparison.AT_LEAST else value <= self.threshold
        return None if met else f"{self.metric} is {value!r}; it must be {bound}"


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How a model is trained; `parameters` holds JSON values, `number` counts the changes."""

    recipe: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    data_source: str = ""
    success_criteria: tuple[SuccessCriterion, ...] = ()
    number: int = 0

    def shortfalls(self, metrics: Mapping[str, float], failure: str = "") -> tuple[str, ...]:
        """Say why a version could not be tried, and of each success criterion that is not met what is missing; none:
        all are.
        """
        found = (criterion.shortfall(metrics) for criterion in self.success_criteria)
        return tuple(filter(None, (failure, *found)))


@dataclass(frozen=True, slots=True)
class NewEvaluation:
    """An evaluation to keep. `failure`: why the version could not be tried; '': it could."""

    model: str
    version: str
    metrics: Mapping[str, float]
    dataset: str
    note: str
    failure: str
    request_id: str
    body_sha256: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well a version did, judged by the criteria that stood then."""

    evaluation_id: int
    model: str
    version: str
    metrics: Mapping[str, float]
    dataset: str
    note: str
    passed: bool
    shortfalls: tuple[str, ...]
    failure: str
    evaluated_by: str
    evaluate_time: datetime
