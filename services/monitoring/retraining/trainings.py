"""Approved requests at the trainer: handed over once, and followed until their run has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

import structlog

from penstock.api.trainer.v1 import training_pb2 as pb
from penstock.training import TrainingClient
from services.monitoring.chores import Turn
from services.monitoring.clients import CallError, is_outage, is_refusal, sentence_of
from services.monitoring.retraining.models import Request, State, Step
from services.monitoring.retraining.store.requests import Change, RequestStore

_log = structlog.get_logger(__name__)
Clock = Callable[[], datetime]
NO_TRAINER = "It waits for a trainer: none is configured. Set PENSTOCK_TRAINER_ADDRESS where monitoring runs."
MAX_MESSAGE_CHARS = 1_000
_CHUNK = 100
_ENDED = (pb.TRAINING_RUN_STATE_COMPLETED, pb.TRAINING_RUN_STATE_FAILED, pb.TRAINING_RUN_STATE_CANCELLED)


class Trainings:
    """Hands approved requests to the trainer and follows their runs. Safe to run twice and at once.

    The trainer knows a request by its id: handed over again, after a crash say, it gives the same run.
    """

    def __init__(self, store: RequestStore, trainer: TrainingClient | None, clock: Clock) -> None:
        self._store = store
        self._trainer = trainer
        self._clock = clock

    def work(self, turn: Turn) -> None:
        """Do what there is to do now: the chore."""
        for request in self._standing(State.APPROVED, turn):
            if not self._hand_over(request):
                break
        for request in self._standing(State.TRAINING, turn):
            if not self._follow(request):
                break

    def _standing(self, state: State, turn: Turn) -> Iterator[Request]:
        """Give all requests in a state, some at a time, while the turn is ours."""
        after = None
        while chunk := self._store.standing(state, after=after, limit=_CHUNK):
            for request in chunk:
                if not turn.renew():
                    return
                yield request
            after = chunk[-1].id

    def _hand_over(self, request: Request) -> bool:
        """Ask for the run; False where there is no trainer to speak to, so that the others need not try."""
        if self._trainer is None:
            self._say(request, NO_TRAINER)
            return True
        # Held until the answer is there, so that nobody withdraws what the trainer is just taking.
        with self._changing(request) as change:
            if change is None or change.request.expire_time <= self._clock():
                return True
            try:
                run = self._trainer.create_run(
                    request.model,
                    parent_version=request.version,
                    requested_by=request.decided_by,
                    retraining_request_id=str(request.id),
                    note=request.decision_note,
                    request_id=str(request.id),
                )
            except CallError as error:
                if not is_refusal(error):
                    _say(change, f"It waits for the trainer, which gives no answer: {sentence_of(error)}")
                    return not is_outage(error)
                self._move(change, State.FAILED, f"The trainer refused: {sentence_of(error)}")
            else:
                self._move(change, State.TRAINING, _standing_of(run), training_run_id=run.id, train_time=self._clock())
        return True

    def _follow(self, request: Request) -> bool:
        """Ask how the run stands; False where there is no trainer to speak to."""
        if self._trainer is None:
            self._say(request, NO_TRAINER)
            return True
        try:
            run = self._trainer.get_run(request.training_run_id)
        except CallError as error:
            if not is_refusal(error):
                self._say(request, f"The trainer gives no answer: {sentence_of(error)}")
                return not is_outage(error)
            with self._changing(request) as change:
                if change is not None:
                    self._move(change, State.FAILED, f"The trainer no longer knows the run: {sentence_of(error)}")
        else:
            self._note(request, run)
        return True

    def _note(self, request: Request, run: pb.TrainingRun) -> None:
        if run.state not in _ENDED:
            self._say(request, _standing_of(run))
            return
        with self._changing(request) as change:
            if change is None:
                return
            if run.state != pb.TRAINING_RUN_STATE_COMPLETED:
                self._move(change, State.FAILED, f"{_standing_of(run)} {run.message}".strip())
            elif run.new_version:
                self._move(change, State.COMPLETED, _result_of(run), new_version=run.new_version)
            else:
                self._move(change, State.FAILED, "The run has ended and has made no version.")

    @contextmanager
    def _changing(self, request: Request) -> Iterator[Change | None]:
        """Lend a request to change; None where it is another one by now: another replica, or a person, was here."""
        with self._store.changing(request.id) as change:
            yield change if change is not None and change.request.state is request.state else None

    def _say(self, request: Request, message: str) -> None:
        if message[:MAX_MESSAGE_CHARS] != request.message:
            with self._changing(request) as change:
                if change is not None:
                    _say(change, message)

    def _move(self, change: Change, state: State, message: str, **changes: str | datetime) -> None:
        message, request = message[:MAX_MESSAGE_CHARS], change.request
        moved = replace(request, state=state, message=message, **changes)  # type: ignore[arg-type] # by name
        change.write(moved, Step(self._clock(), state, note=message))
        _log.info("retraining moved on", retraining_id=str(request.id), model=request.model, state=state.name)


def _say(change: Change, message: str) -> None:
    """Have a request say what goes on, where it says something else."""
    said = replace(change.request, message=message[:MAX_MESSAGE_CHARS])
    if said != change.request:
        change.write(said)


def _standing_of(run: pb.TrainingRun) -> str:
    state = pb.TrainingRunState.Name(run.state).removeprefix("TRAINING_RUN_STATE_").lower()
    return f"The run {run.id} is {state}."


def _result_of(run: pb.TrainingRun) -> str:
    if not run.HasField("validation_passed"):
        return f"Version {run.new_version} is there."
    met = "meets" if run.validation_passed else "does not meet"
    return f"Version {run.new_version} is there; it {met} the success criteria."
