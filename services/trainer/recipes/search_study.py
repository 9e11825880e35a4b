"""The trials of a search: chosen by optuna, kept in the checkpoint beside the best version so far."""

from __future__ import annotations

import gc
import json
import shutil
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import optuna
from optuna.trial import TrialState

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.context import Context
from services.trainer.recipes.recipe import Recipe
from services.trainer.recipes.search_parameters import SearchParameters
from services.trainer.recipes.search_trials import chosen, distribution_of, kept_of, trial_of
from services.trainer.recipes.search_values import Measured, measured, pruned_by
from services.trainer.task import Epoch, Event, Outcome, RunFolder

_TRIALS: Final = "trials.jsonl"
_BEST: Final = "best"
_STARTUP_TRIALS: Final = 5
_HOPELESS_TRIALS: Final = 10
"""After so many trials that all failed, another is not begun."""
_HOPELESS: Final = frozenset({"INVALID_DATA", "RECIPE_NOT_ALLOWED"})
"""Reasons that every trial would have."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best trial: what it left, and what is to be said of it."""

    outcome: Outcome
    said: Mapping[str, Any]
    sentence: str


class Study:
    """One search. Its state is in the checkpoint's folder: a line for each trial, and the best version so far.

    To optuna larger is always better: what is to be small, it is told with its sign turned.
    """

    def __init__(self, context: Context, parameters: SearchParameters, recipe: Recipe) -> None:
        self._context = context
        self._parameters = parameters
        self._recipe = recipe
        self._begun = time.monotonic()
        self._failure: TrainingFailed | None = None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._kept = context.checkpoint / _TRIALS
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if parameters.pruning == "median":
            pruner = optuna.pruners.MedianPruner(_STARTUP_TRIALS, parameters.pruning_epochs)
        self._study = optuna.create_study(direction="maximize", pruner=pruner)
        if self._kept.exists():
            for line in self._kept.read_text().splitlines():
                self._study.add_trial(trial_of(json.loads(line), parameters.space))

    def goes_on(self) -> bool:
        """Whether another trial is to begin."""
        budget_s, done = self._parameters.time_budget_s, len(self._trials())
        over = budget_s is not None and time.monotonic() - self._begun >= budget_s
        return done < self._parameters.trials and not (over and self._trials(TrialState.COMPLETE))

    def try_once(self) -> None:
        """Do a trial, keep it and tell of it; raises TrainingFailed where no other would do better."""
        number = len(self._trials()) + 1
        # By its number, so that a search that was interrupted tries what it would have tried.
        seed = self._parameters.seed + number
        samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        self._study.sampler = samplers[self._parameters.sampler](seed=seed)
        space = self._parameters.space
        trial = self._study.ask({name: distribution_of(each) for name, each in space.items()})
        values = {name: chosen(space[name], each) for name, each in trial.params.items()}
        folder = self._folder()
        try:
            found = self._tried(trial, values, folder)
            if found is not None and self._is_best(found):
                self._keep(folder)
        finally:
            shutil.rmtree(folder.path)
            _free()
        self._end(trial, found)
        self._tell(number, values, found)
        with self._kept.open("a") as kept:
            kept.write(json.dumps(kept_of(self._trials()[-1])) + "\n")
        self._context.save_checkpoint(number)
        if self._failure is not None and number >= _HOPELESS_TRIALS and not self._ended_well():
            raise self._none_did()

    def best(self) -> Best:
        """Bring the best trial's files to where the version's go; raises TrainingFailed where every trial failed."""
        if not self._trials(TrialState.COMPLETE):
            raise self._none_did()
        kept, best = self._context.checkpoint / _BEST, self._study.best_trial
        shutil.copytree(kept / "artifact", self._context.artifact, dirs_exist_ok=True)
        outcome = Outcome.of(json.loads((kept / "outcome.json").read_text()))
        metric, value, tried = best.user_attrs["metric"], best.user_attrs["value"], len(self._trials())
        said = {
            "recipe": self._recipe.name,
            "parameters": {name: chosen(self._parameters.space[name], each) for name, each in best.params.items()},
            "metric": metric,
            "value": value,
            "trial": best.number + 1,
            "trials": tried,
            "pruned": len(self._trials(TrialState.PRUNED)),
            "failed": len(self._trials(TrialState.FAIL)),
        }
        sentence = f"trial {said['trial']} of {tried} was the best: {metric} {value:.6g} on the validation rows, with "
        return Best(outcome, said, (sentence + json.dumps(said["parameters"]))[:1_000])

    def _tried(self, trial: optuna.Trial, values: Mapping[str, Any], folder: RunFolder) -> Measured | None:
        """Train a version; None: it was given up, or failed for a reason of its own."""
        told = replace(self._context.task, recipe=self._recipe.name, parameters=self._parameters.with_values(values))
        try:
            outcome = self._recipe.train(Context(told, folder, _Told(trial, self._parameters)))
            outcome.write(folder.outcome)
            return measured(outcome, self._parameters)
        except optuna.TrialPruned:
            trial.set_user_attr("pruned", value=True)
        except TrainingFailed as error:
            if error.reason in _HOPELESS:
                raise
            self._failure = error
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - what one trial stumbles over, the next may not
            traceback.print_exc()
            self._failure = TrainingFailed(f"the recipe raised {type(error).__name__}: {error}")
        return None

    def _end(self, trial: optuna.Trial, found: Measured | None) -> None:
        if found is not None:
            trial.set_user_attr("metric", found.metric)
            trial.set_user_attr("value", found.value)
            self._study.tell(trial, found.worth)
        else:
            given_up = "pruned" in trial.user_attrs
            self._study.tell(trial, state=TrialState.PRUNED if given_up else TrialState.FAIL)

    def _tell(self, number: int, values: Mapping[str, Any], found: Measured | None) -> None:
        numbers = {f"parameters.{name}": each for name, each in values.items() if _is_number(each)}
        metrics = dict(numbers)
        said = "failed" if self._trials()[-1].state is TrialState.FAIL else "given up"
        if found is not None:
            best = self._study.best_trial.user_attrs["value"]
            metrics = {found.metric: found.value, f"best_{found.metric}": best, **numbers}
            said = f"{found.metric} {found.value:.6g}, {best:.6g} at best"
        elif self._failure is not None and said == "failed":
            said = f"failed: {self._failure.message}"
        print(f"trial {number} of {self._parameters.trials}: {said}; {json.dumps(dict(values))}", flush=True)  # noqa: T201 - this is the log
        self._context.report(number, metrics, total=self._parameters.trials)

    def _folder(self) -> RunFolder:
        """Make a trial a folder like a run's, with the same rows, script and parent."""
        folder = RunFolder(self._context.folder.path / "tmp" / "trial")
        shutil.rmtree(folder.path, ignore_errors=True)
        folder.make()
        for name in ("data", "script", "parent"):
            (folder.path / name).rmdir()
            (folder.path / name).symlink_to(self._context.folder.path.resolve() / name, target_is_directory=True)
        return folder

    def _is_best(self, found: Measured) -> bool:
        ended = self._trials(TrialState.COMPLETE)
        # An equal one is not, so that the first of them stays.
        return not ended or found.worth > self._study.best_value

    def _keep(self, folder: RunFolder) -> None:
        kept = self._context.checkpoint / _BEST
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        shutil.move(folder.artifact, kept / "artifact")
        shutil.move(folder.outcome, kept / "outcome.json")

    def _trials(self, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
        return list(self._study.get_trials(deepcopy=False, states=states or None))

    def _ended_well(self) -> bool:
        return bool(self._trials(TrialState.COMPLETE, TrialState.PRUNED))

    def _none_did(self) -> TrainingFailed:
        tried = len(self._trials())
        if self._failure is None:
            return TrainingFailed(f"none of {tried} trials came to an end; each was given up: set pruning to none")
        sentence = f"none of {tried} trials came to an end; the last: {self._failure.message}"
        return TrainingFailed(sentence[:1_000], reason=self._failure.reason)


class _Told:
    """Hears a trial's epochs, and gives it up where those before did better."""

    def __init__(self, trial: optuna.Trial, parameters: SearchParameters) -> None:
        self._trial = trial
        self._parameters = parameters

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Epoch) or self._parameters.pruning == "none":
            return
        worth = pruned_by(event.metrics, self._parameters)
        if worth is not None:
            self._trial.report(worth, event.number)
            if self._trial.should_prune():
                raise optuna.TrialPruned


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _free() -> None:
    """Let go of what a trial leaves in memory: Keras keeps every network that it made."""
    if "keras" in sys.modules:
        sys.modules["keras"].backend.clear_session()
        gc.collect()
