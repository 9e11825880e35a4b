"""What a search for hyper-parameters is told: which recipe, what is fixed, and what is tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, JsonValue, model_validator

from services.trainer.recipes.recipe import Parameters

Number = Annotated[float, Field(allow_inf_nan=False)]
NESTED: Final = "."
"""Between the names of a parameter that stands in another, such as estimator_parameters.max_depth."""
_LARGER_IS_BETTER: Final = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "roc_auc", "r2")
_SMALLER_IS_BETTER: Final = ("loss", "rmse", "mae", "mse", "log_loss", "brier")


class Dimension(Parameters):
    """What one parameter is tried with."""

    type: Literal["float", "int", "categorical"]
    """A number, a whole number, or one of `choices`."""
    low: Number | None = None
    """The least, of a number."""
    high: Number | None = None
    """The most, of a number; it is tried as well."""
    log: bool = False
    """Try it evenly by its order of magnitude."""
    step: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Try it in steps from the least on."""
    choices: Annotated[tuple[JsonValue, ...], Field(max_length=100)] = ()
    """What is chosen among; any JSON, such as [8, 4]."""

    @model_validator(mode="after")
    def _can_be_tried(self) -> Self:
        if self.type == "categorical":
            if not self.choices:
                raise ValueError("a categorical parameter needs choices")
            if self.low is not None or self.high is not None or self.step is not None or self.log:
                raise ValueError("a categorical parameter has choices alone")
            return self
        if self.choices:
            raise ValueError(f"a parameter of type {self.type} has low and high, and no choices")
        if self.low is None or self.high is None or self.low > self.high:
            raise ValueError("low and high are needed, low not above high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("with log, low is above 0, and there is no step")
        whole = (self.low, self.high, self.step or 1.0)
        if self.type == "int" and not all(each.is_integer() for each in whole):
            raise ValueError("of a whole number low, high and step are whole numbers")
        return self

    def examples(self) -> Sequence[JsonValue]:
        """Give both ends of what is tried; of choices, which need not lie between two ends, all."""
        if self.type == "categorical":
            return self.choices
        low, high = self.low or 0.0, self.high or 0.0
        return (int(low), int(high)) if self.type == "int" else (low, high)


class SearchParameters(Parameters):
    """A search."""

    recipe: Annotated[str, Field(min_length=1, max_length=64)]
    """The recipe whose parameters are looked for."""
    parameters: Annotated[dict[str, JsonValue], Field(default_factory=dict)]
    """What the recipe is told in every trial."""
    space: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=100)], Dimension], Field(min_length=1, max_length=32)
    ]
    """What is tried, by the parameter's name: {"type": "float" or "int", "low", "high", and if wished "log": true or
    "step"} or {"type": "categorical", "choices"}. One that stands in another parameter is named with a dot, such as
    estimator_parameters.max_depth."""
    trials: Annotated[int, Field(ge=1, le=10_000)] = 20
    """How many versions are trained; the best is kept."""
    metric: Annotated[str, Field(max_length=128)] = ""
    """A metric of the validation rows; empty: accuracy of classes, rmse of a regression."""
    direction: Literal["auto", "maximize", "minimize"] = "auto"
    """Which is better; auto: as the metric's name tells."""
    sampler: Literal["tpe", "random"] = "tpe"
    """tpe: tries more of what went well; random: tries anything."""
    seed: Annotated[int, Field(ge=0, lt=2**31 - 10_000)] = 0
    """The same seed tries the same."""
    pruning: Literal["none", "median"] = "none"
    """median: give a trial up where it is worse than half of those before at the same epoch."""
    pruning_metric: Annotated[str, Field(max_length=128)] = ""
    """What of an epoch is looked at for it; empty: validation_METRIC."""
    pruning_epochs: Annotated[int, Field(ge=0, le=100_000)] = 5
    """So many epochs of a trial are waited for first."""
    time_budget_s: Annotated[float, Field(gt=0, le=2_592_000)] | None = None
    """No trial begins after so many seconds; the best so far is kept. To be well below the time limit of the run."""

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        for name in self.space:
            if name in self.parameters:
                raise ValueError(f"{name} is both fixed and tried; name it once")
        for example in self.examples():
            del example  # built to see that each name has its place
        return self

    @model_validator(mode="after")
    def _better_is_known(self) -> Self:
        for metric in filter(None, (self.metric, self.pruning_metric)):
            if self.direction == "auto" and not direction_of(metric):
                raise ValueError(f"whether more or less of {metric} is better, its name does not tell; say direction")
        return self

    def with_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Give what the recipe is told in a trial."""
        told: dict[str, Any] = _copied(self.parameters)
        for name, value in values.items():
            *outer, last = name.split(NESTED)
            place = told
            for each in outer:
                inner = place.setdefault(each, {})
                if not isinstance(inner, dict):
                    raise ValueError(f"{name} stands in {each}, which is no object")  # noqa: TRY004 - of a value, not of us
                place = inner
            place[last] = value
        return told

    def examples(self) -> Iterator[dict[str, Any]]:
        """Give what the recipe is told at both ends of the space, and with each choice: 100 at most."""
        of_each = {name: dimension.examples() for name, dimension in self.space.items()}
        for number in range(max(map(len, of_each.values()))):
            yield self.with_values({name: found[min(number, len(found) - 1)] for name, found in of_each.items()})


def direction_of(metric: str) -> str:
    """Say by a metric's name which is better: maximize or minimize; '' where nobody knows."""
    name = metric.partition("[")[0].removeprefix("validation_").removesuffix("_macro")
    if name in _LARGER_IS_BETTER:
        return "maximize"
    return "minimize" if name in _SMALLER_IS_BETTER else ""


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(each) for name, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value
