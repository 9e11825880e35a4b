"""What a trial is worth to a search: its metric on the validation rows, with the sign by which larger is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.scores import REGRESSION
from services.trainer.recipes.search_parameters import SearchParameters, direction_of
from services.trainer.task import Outcome, Part


@dataclass(frozen=True, slots=True)
class Measured:
    """A trial's metric and its value; `worth`: the same, larger the better it is."""

    metric: str
    value: float
    worth: float


def measured(outcome: Outcome, parameters: SearchParameters) -> Measured:
    """Read what a version is worth.

    Raises:
        TrainingFailed: INVALID_DATA: there are no validation rows, or they have no such metric.
    """
    found = outcome.metrics.get(Part.VALIDATION, {})
    if not found:
        sentence = "a search chooses by validation rows, and there are none: give the split a validation share"
        raise TrainingFailed(sentence, reason="INVALID_DATA")
    metric = parameters.metric or ("rmse" if outcome.task_type == REGRESSION else "accuracy")
    if metric not in found:
        sentence = f"there is no metric {metric!r} of the validation rows; there are {', '.join(sorted(found)[:30])}"
        raise TrainingFailed(sentence, reason="INVALID_DATA")
    value = float(found[metric])
    return Measured(metric, value, _sign(metric, parameters) * value)


def pruned_by(metrics: Mapping[str, float], parameters: SearchParameters) -> float | None:
    """Read what an epoch is worth; None: it says nothing of what is looked at."""
    names = (parameters.pruning_metric,) if parameters.pruning_metric else (f"validation_{parameters.metric}",)
    for name in (*names, *(() if parameters.pruning_metric else ("validation_loss",))):
        if name in metrics:
            return _sign(name, parameters) * metrics[name]
    return None


def _sign(metric: str, parameters: SearchParameters) -> float:
    """1: larger is better; -1: smaller. What was said is said of the metric; others are known by their names."""
    said = parameters.direction if parameters.direction != "auto" else ""
    direction = (said or direction_of(metric)) if metric == parameters.metric else (direction_of(metric) or said)
    return 1.0 if direction == "maximize" else -1.0
