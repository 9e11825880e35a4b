"""Trying a version: predict, measure, compare, and have the registry judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog
from numpy.typing import NDArray

from penstock import Client
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.errors import NotFound, PenstockError
from services.common.errors import DomainError
from services.trainer.registering.answers import registry_answers
from services.trainer.task import Stopping
from services.trainer.validating.grouped import MIN_GROUPS, Groups
from services.trainer.validating.held_out import HeldOut, held_out
from services.trainer.validating.inputs import all_inputs, finite_rows
from services.trainer.validating.measuring import bounded, compared, measured, sliced
from services.trainer.validating.models import Criterion, Trial, Untried, Validation, VersionFails
from services.trainer.validating.outputs import Answers, answers_of, task_type_of
from services.trainer.validating.predicting import Predicting

MAX_LOOKED_THROUGH: Final = 100
"""Evaluations of a version, the newest, among which the trial's own is looked for."""
MAX_NOTE_CHARS: Final = 4_096
MAX_DATASET_CHARS: Final = 256
Told = Callable[[int, int], None]
"""Hears how many rows are predicted, and how many there will be."""
_log = structlog.get_logger(__name__)


class Validating:
    """Tries versions as the inference service serves them."""

    def __init__(self, open_client: Callable[[], Client]) -> None:
        """Take what opens a client of registry and inference: each trial has its own, which closes when it ends."""
        self._open_client = open_client

    def validate(self, stopping: Stopping, trial: Trial, told: Told = lambda _done, _total: None) -> Validation:
        """Try a version, and record how it did in the registry, which judges it by the model's success criteria.

        A version that does not load, or fails, has not passed; that is an answer, and no fault. It is recorded with its
        reason, so that the registry refuses it STAGING where the model has criteria, whatever it could do before. Of
        rows that it cannot be given nothing is recorded: they say nothing of it. The same trial again (a rescue) gives
        what was recorded.

        Raises:
            RegistrationFailed: the registry refuses what is recorded.
            RegistryUnavailable, InferenceUnavailable: they give no answer; the same again may help.
            Stopped: it is to end.
        """
        with self._open_client() as client:
            stopping.on_stop(client.close)
            try:
                return _Trying(client, stopping, trial, told).validation()
            except (PenstockError, DomainError):
                stopping.check()  # what it stumbled over may be its own end
                raise
            finally:
                stopping.forget(client.close)


class _Trying:
    """One trial."""

    def __init__(self, client: Client, stopping: Stopping, trial: Trial, told: Told) -> None:
        self._client = client
        self._stopping = stopping
        self._trial = trial
        self._told = told
        self._notes: list[str] = []
        self._mark = f"validation {trial.trial_id}"

    def validation(self) -> Validation:
        trial = self._trial
        with registry_answers():
            version = self._client.registry.get_version(trial.model, trial.version)
            model = self._client.registry.get_model(trial.model)
            criteria = model.training_config.success_criteria
            live = self._live(model.production_version)
            done = self._recorded()
        if done is not None:
            return self._judged(done, live, criteria, done.note.splitlines()[1:])
        if trial.config_version not in (0, model.training_config.number):
            self._notes.append(
                f"it was trained by config {trial.config_version}, and is judged by the criteria of config "
                f"{model.training_config.number}, which stand now"
            )
        rows, failure, metrics = None, "", {"size_bytes": float(version.size_bytes)}
        try:
            rows = self._rows(criteria)
            if rows is not None:
                metrics |= self._measured(version, live, rows)
        except VersionFails as fails:
            failure = str(fails)
        except Untried as untried:
            shortfalls = (str(untried), *(f"{each.metric} was not measured" for each in criteria))
            return Validation(
                False, {}, shortfalls, live_version=_name(live), notes=tuple(self._notes), criteria=_kept(criteria)
            )
        evaluation = self._record({} if failure else bounded(metrics, [each.metric for each in criteria]), failure)
        validation = self._judged(evaluation, live, criteria, self._notes)
        return replace(validation, row_count=rows.row_count if rows is not None and not failure else 0)

    def _record(self, metrics: dict[str, float], failure: str) -> registry.Evaluation:
        trial = self._trial
        with registry_answers():
            return self._client.registry.record_evaluation(
                trial.model,
                trial.version,
                metrics,
                dataset=trial.dataset[:MAX_DATASET_CHARS],
                note="\n".join(filter(None, (self._mark, trial.note, *self._notes)))[:MAX_NOTE_CHARS],
                request_id=f"validation-{trial.trial_id}",
                failure=failure[:MAX_NOTE_CHARS],
            )

    def _live(self, production: str) -> registry.ModelVersion | None:
        """Find what it is compared with; one that is gone is no reason not to judge the new one by itself."""
        against = self._trial.against
        if self._trial.against_production and production not in ("", self._trial.version):
            against = production
        if not against or against == self._trial.version:
            return None
        try:
            return self._client.registry.get_version(self._trial.model, against)
        except NotFound:
            self._notes.append(f"version {against}, which it was to be compared with, is gone")
            return None

    def _recorded(self) -> registry.Evaluation | None:
        """Find what an attempt before this one recorded."""
        found = self._client.registry.evaluations(self._trial.model, self._trial.version)
        for _, evaluation in zip(range(MAX_LOOKED_THROUGH), found, strict=False):
            if evaluation.note.splitlines()[:1] == [self._mark]:
                return evaluation
        return None

    def _judged(
        self,
        evaluation: registry.Evaluation,
        live: registry.ModelVersion | None,
        criteria: Sequence[registry.SuccessCriterion],
        notes: Sequence[str],
    ) -> Validation:
        return Validation(
            evaluation.passed,
            dict(evaluation.metrics),
            tuple(evaluation.shortfalls),
            evaluation.id,
            live_version=_name(live),
            notes=tuple(notes),
            criteria=_kept(criteria),
        )

    def _rows(self, criteria: Sequence[registry.SuccessCriterion]) -> HeldOut | None:
        """Give the rows to judge by; None where there are none, and nobody wants to know."""
        rows = held_out(self._trial, self._stopping.check)
        if rows is not None:
            self._notes += rows.notes
            return rows
        sentence = (
            "there are no held-out rows to judge it by: have the split leave some for the test, or validate it with "
            f"others (penstock validate {self._trial.model} {self._trial.version} --dataset NAME)"
        )
        if criteria:
            raise Untried(sentence)
        self._notes.append(sentence)
        return None

    def _measured(
        self, version: registry.ModelVersion, live: registry.ModelVersion | None, rows: HeldOut
    ) -> dict[str, float]:
        task_type = task_type_of(version, self._trial.task_type, rows.labels)
        labels = rows.as_labels(task_type)
        total = rows.row_count * (1 if live is None else 2)
        inputs = all_inputs(version, rows, self._stopping.check)
        asking = Predicting(self._client, self._stopping, version)
        outputs = asking.outputs(inputs, rows.row_count, lambda done: self._told(done, total))
        new = answers_of(version, outputs, task_type, lambda: finite_rows(inputs))
        found = measured(labels, new) | asking.latencies(inputs)
        by_slice, notes = sliced(labels, new, rows.slices, self._trial.slices)
        self._notes += notes
        found |= by_slice
        if live is not None:
            found |= self._compared(labels, new, live, rows, total)
        return found

    def _compared(
        self, labels: NDArray[Any], new: Answers, live: registry.ModelVersion, rows: HeldOut, total: int
    ) -> dict[str, float]:
        """Have the live version answer the same rows; where it cannot, criteria on the difference are not met."""
        before = rows.row_count
        try:
            asking = Predicting(self._client, self._stopping, live)
            inputs = all_inputs(live, rows, self._stopping.check)
            outputs = asking.outputs(inputs, before, lambda done: self._told(before + done, total))
            answers = answers_of(live, outputs, new.task_type, lambda: finite_rows(inputs))
            self._notes += _said_of(rows.groups)
            return compared(labels, new, answers, self._stopping.check, rows.groups)
        except Untried as untried:
            self._notes.append(f"it was not compared with {live.version}: {untried}")
            return {}


def _said_of(groups: Groups | None) -> list[str]:
    if groups is None:
        return []
    if (weight := groups.weight) < MIN_GROUPS:
        sentence = f"there are no intervals: the held-out rows have {groups.count:,} keys by which they were divided"
        alike = f", which say as much as {math.floor(weight * 10) / 10} of one size" if weight < groups.count else ""
        return [f"{sentence}{alike}, and {MIN_GROUPS} are needed to see how much these differ"]
    return [f"intervals allow for rows of one key belonging together: there are {groups.count:,} keys"]


def _name(version: registry.ModelVersion | None) -> str:
    return version.version if version is not None else ""


def _kept(criteria: Sequence[registry.SuccessCriterion]) -> tuple[Criterion, ...]:
    return tuple(
        Criterion(each.metric, each.comparison == registry.COMPARISON_AT_MOST, each.threshold) for each in criteria
    )
