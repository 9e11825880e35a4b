"""Trials as optuna has them, and as a checkpoint keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from services.trainer.recipes.search_parameters import Dimension


def distribution_of(dimension: Dimension) -> BaseDistribution:
    """Say in optuna's words what a parameter is tried with."""
    low, high, log = dimension.low or 0.0, dimension.high or 0.0, dimension.log
    if dimension.type == "int":
        return IntDistribution(int(low), int(high), log=log, step=int(dimension.step or 1))
    if dimension.type == "float":
        return FloatDistribution(low, high, log=log, step=dimension.step)
    return CategoricalDistribution([json.dumps(each) for each in dimension.choices])


def chosen(dimension: Dimension, value: Any) -> Any:
    """Read what optuna chose: among texts, where ours may be lists."""
    return json.loads(value) if dimension.type == "categorical" else value


def kept_of(trial: FrozenTrial) -> dict[str, Any]:
    """Write down a trial that has ended."""
    return {
        "state": trial.state.name,
        "value": trial.value,
        "params": trial.params,
        "told": list(trial.intermediate_values.items()),
        "attributes": trial.user_attrs,
    }


def trial_of(kept: Mapping[str, Any], space: Mapping[str, Dimension]) -> FrozenTrial:
    """Read what `kept_of` wrote."""
    return optuna.trial.create_trial(
        state=TrialState[kept["state"]],
        value=kept["value"],
        params=kept["params"],
        distributions={name: distribution_of(space[name]) for name in kept["params"]},
        user_attrs=kept["attributes"],
        intermediate_values={int(step): value for step, value in kept["told"]},
    )
