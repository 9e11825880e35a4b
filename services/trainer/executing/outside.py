"""Runs that are trained elsewhere: begun at a place, followed by what their workers tell, and collected.

Whoever takes a run over goes on with what still runs there: the task's row says what it is called, and its worker tells
whoever reads. Only where nothing runs any more is it begun anew, from the last checkpoint that was handed in.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol
from uuid import UUID

import structlog

from services.common.errors import DomainError, Unavailable
from services.common.jobs import Stopped, StopReason
from services.common.jobs.news import JobNews
from services.trainer.executing.outcomes import check_files
from services.trainer.executing.resources import Resources
from services.trainer.faults import ExecutorUnavailable, TrainingFailed
from services.trainer.task import CheckpointWritten, Event, Flush, Log, Outcome, RunFolder, Stopping, Task
from services.trainer.workers.artifact_urls import ArtifactUrls
from services.trainer.workers.callbacks import WORKER_LOST
from services.trainer.workers.calling import Calls, Waiting
from services.trainer.workers.files import OutsideFiles
from services.trainer.workers.models import OutputKind, OutsideTask, RemoteFile, TaskState
from services.trainer.workers.store import OutsideStore
from services.trainer.workers.tokens import new_token

_log = structlog.get_logger(__name__)
LOOK_S: Final = 1.0
STANDING_LOOKS: Final = 5
"""A place is asked how a submission stands at every so many looks."""
Tell = Callable[[Event], None]


class Standing(enum.Enum):
    """How a submission stands where it was made."""

    GOING = enum.auto()
    """It waits there, or runs."""
    ENDED = enum.auto()
    """Nothing of it runs any more."""
    UNKNOWN = enum.auto()
    """There is none of this name."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What is submitted: its name, which is nobody else's, and what its worker needs to know."""

    name: str
    token: str = field(repr=False)
    task: Task
    resources: Resources
    environment: Mapping[str, str] = field(repr=False)


class Place(Protocol):
    """Where workers run. Each call is bounded in time, and raises ExecutorUnavailable where nobody answers."""

    @property
    def name(self) -> str:
        """RAY, KUBERNETES, REMOTE."""
        ...

    @property
    def submits(self) -> bool:
        """Whether workers are started there; else they ask for runs themselves."""
        ...

    def submit(self, submission: Submission) -> None:
        """Have a worker begin; the same name again is the same one. Raises TrainingFailed where it is refused."""
        ...

    def standing(self, name: str) -> tuple[Standing, str]:
        """Say how a submission stands, and the place's own word for it."""
        ...

    def stop(self, name: str) -> None:
        """End a submission, whatever is left of it."""
        ...

    def log_tail(self, name: str) -> bytes:
        """Give the end of what its worker printed; empty where nobody knows."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a worker may be silent, and how long a run waits for one that asks; in seconds."""

    silence_s: float = 120.0
    wait_s: float = 1_800.0


@dataclass(frozen=True, slots=True)
class OutsideParts:
    """What runs elsewhere are followed by. `environment`: of each submission, beside the token."""

    store: OutsideStore
    files: OutsideFiles
    urls: ArtifactUrls
    news: JobNews
    calls: Calls
    patience: Patience
    environment: Mapping[str, str]


class Ear:
    """Hears what the workers of one run tell, and what is answered where they are called.

    `trouble`: why the last call has not arrived, as far as it was heard; '' where there is nothing to say.
    """

    def __init__(self, parts: OutsideParts, folder: RunFolder, tell: Tell) -> None:
        self._store = parts.store
        self._files = parts.files
        self._calls = parts.calls
        self._folder = folder
        self._tell = tell
        self._told: tuple[UUID | None, int] = (None, 0)
        self.trouble = ""

    def hear(self, outside: OutsideTask) -> bool:
        """Tell on what was told and not read; gives whether there was some. It is forgotten once it is kept."""
        told = self._store.told(outside.task_id)
        for number, events in told:
            # What could not be kept the last time is told already.
            if self._told[0] == outside.task_id and number <= self._told[1]:
                continue
            for event in events:
                # One whose place another has taken meanwhile is passed over: that one is told of as well.
                if not isinstance(event, CheckpointWritten) or self._brought(outside):
                    self._tell(event)
            self._told = (outside.task_id, number)
        if told:
            self._tell(Flush())
            self._store.read(outside.task_id, told[-1][0])
        return bool(told)

    def hear_calls(self, outside: OutsideTask) -> None:
        """Tell on in the log why a task's worker could not be called, each time that it is something else."""
        before, self.trouble = self.trouble, self._calls.trouble(outside.task_id)
        if self.trouble and self.trouble != before:
            self._tell(Log(f"{self.trouble}\n".encode()))

    def _brought(self, outside: OutsideTask) -> bool:
        return self._files.fetch(outside, OutputKind.CHECKPOINT, self._folder.checkpoint)


class OutsideExecutor:
    """Runs tasks at a place; see `Executor`."""

    def __init__(self, place: Place, parts: OutsideParts) -> None:
        self.name = place.name
        self._place = place
        self._parts = parts
        self._store = parts.store
        self._files = parts.files
        self._urls = parts.urls
        self._news = parts.news
        self._calls = parts.calls
        self._patience = parts.patience
        self._environment = parts.environment

    def execute(self, task: Task, folder: RunFolder, tell: Tell, stopping: Stopping) -> Outcome:
        """Run a task to its end; see `Executor`. What goes on there goes on while a trainer drains or has died."""
        stopping.check()
        ear = Ear(self._parts, folder, tell)
        outside = self._resumed(task, ear) or self._begun(task, folder, stopping)
        try:
            ended = self._followed(outside, task.attempt, ear, tell, stopping)
        except Stopped as stopped:
            # Where the lease is lost, or this process drains, another follows what goes on.
            if stopped.reason in (StopReason.CANCELLED, StopReason.SOFT_LIMIT):
                self._give_up(outside, task.attempt)
            raise
        return self._collected(ended, folder, stopping)

    def _resumed(self, task: Task, ear: Ear) -> OutsideTask | None:
        """Go on with what an attempt before began; None where nothing goes on. What it told is heard in any case."""
        last = self._store.latest(UUID(task.run_id))
        if last is None or last.executor != self.name:
            return None
        if last.state in (TaskState.WAITING, TaskState.RUNNING) and self._goes_on(last):
            self._store.adopt(last.task_id, task)
            return last
        while ear.hear(last):
            pass
        last = self._store.get(last.task_id)
        if last.state is TaskState.COMPLETED:
            return last
        if last.state is not TaskState.VOID:
            self._give_up(last, task.attempt)
        return None

    def _goes_on(self, outside: OutsideTask) -> bool:
        if not self._place.submits:
            return True
        try:
            return self._place.standing(outside.submission)[0] is Standing.GOING
        except ExecutorUnavailable as error:  # its worker may well be heard meanwhile; silence tells
            _log.info("standing not known", run=str(outside.run_id), message=error.message)
            return True

    def _begun(self, task: Task, folder: RunFolder, stopping: Stopping) -> OutsideTask:
        try:
            resources = Resources.of(task.resources)
        except ValueError as error:
            raise TrainingFailed(str(error), reason="INVALID_PARAMETERS") from error
        token = new_token() if self._place.submits else ""
        outside = self._store.add(task, self.name, resources.labels, token)
        self._files.offer(outside, folder, stopping.check)
        stopping.check()
        with self._store.transaction() as connection:
            since = self._store.ready(connection, outside, task)
            if not self._place.submits:
                self._calls.call(connection, Waiting(outside, task, since, self._patience.wait_s))
        if self._place.submits:
            environment = {**self._environment, "PENSTOCK_RUN_TOKEN": token}
            submission = Submission(outside.submission, token, task, resources, environment)
            try:
                self._place.submit(submission)
            except DomainError:
                self._give_up(outside, task.attempt)
                raise
        return outside

    def _followed(self, outside: OutsideTask, attempt: int, ear: Ear, tell: Tell, stopping: Stopping) -> OutsideTask:
        """Tell on what the worker tells, until it has ended well."""
        looks = 0
        while True:
            stopping.check()
            seen = self._news.count
            try:
                now = self._store.get(outside.task_id)
                heard = ear.hear(outside)  # after it: what came before an end is there with it
                if now.state is TaskState.WAITING and not self._place.submits:
                    ear.hear_calls(now)
            except Unavailable as error:  # while the lease holds, the database may be back
                _log.info("outside worker not heard", run=str(outside.run_id), reason=error.reason)
                stopping.wait(LOOK_S)
                continue
            if now.state in (TaskState.COMPLETED, TaskState.FAILED, TaskState.VOID):
                if not heard:
                    return self._ended(now)
                continue
            self._check_silence(now, attempt, ear.trouble)
            looks += 1
            if self._place.submits and looks % STANDING_LOOKS == 0:
                self._check_standing(now, attempt, tell)
            if not heard:
                self._news.wait(seen, LOOK_S)

    def _ended(self, outside: OutsideTask) -> OutsideTask:
        if outside.state is TaskState.COMPLETED:
            return outside
        if outside.state is TaskState.VOID:
            raise ExecutorUnavailable("another worker was given the run", reason=WORKER_LOST)
        if outside.reason == WORKER_LOST:
            raise ExecutorUnavailable(f"the worker gave the run up: {outside.message}", reason=WORKER_LOST)
        raise TrainingFailed(outside.message, reason=outside.reason)

    def _check_silence(self, outside: OutsideTask, attempt: int, trouble: str) -> None:
        """Give the run up where nothing is heard of its worker, or nobody asks for it; it is tried again."""
        if outside.state is TaskState.RUNNING and outside.silent_s > self._patience.silence_s:
            self._give_up(outside, attempt)
            who = outside.worker or outside.submission
            sentence = f"nothing was heard of the worker {who} for {outside.silent_s:.0f} s"
            raise ExecutorUnavailable(sentence, reason=WORKER_LOST)
        if not self._place.submits and outside.state is TaskState.WAITING and outside.silent_s > self._patience.wait_s:
            self._give_up(outside, attempt)
            wanted = f" with the labels {', '.join(outside.labels)}" if outside.labels else ""
            raise ExecutorUnavailable(f"no remote worker{wanted} asked for the run; {trouble or 'see that one runs'}")

    def _check_standing(self, outside: OutsideTask, attempt: int, tell: Tell) -> None:
        """Look whether the place says that nothing runs there any more, although the worker has said no such thing."""
        try:
            standing, word = self._place.standing(outside.submission)
        except ExecutorUnavailable as error:  # the worker may well be heard meanwhile
            _log.info("standing not known", run=str(outside.run_id), message=error.message)
            return
        if standing is Standing.GOING:
            return
        if self._store.get(outside.task_id).state is not outside.state:  # it ended in between, and has said so
            return
        if tail := self._log_tail(outside):
            tell(Log(tail))
        self._give_up(outside, attempt)
        sentence = f"{outside.submission} ended there ({word}), and its worker had not said how; see the log"
        raise ExecutorUnavailable(sentence, reason=WORKER_LOST)

    def _log_tail(self, outside: OutsideTask) -> bytes:
        try:
            return self._place.log_tail(outside.submission)
        except ExecutorUnavailable:
            return b""

    def _give_up(self, outside: OutsideTask, attempt: int) -> None:
        """Have a task's token be void, and nothing of it run; what cannot be reached ends by its token.

        Raises LeaseLost where the attempt is over: what goes on is another's to follow then.
        """
        self._store.give_up(outside.run_id, attempt)
        if self._place.submits:
            try:
                self._place.stop(outside.submission)
            except ExecutorUnavailable as error:
                _log.warning("submission not stopped", submission=outside.submission, message=error.message)

    def _collected(self, outside: OutsideTask, folder: RunFolder, stopping: Stopping) -> Outcome:
        """Have the run's folder hold what was made, as if it had been made here."""
        outcome = Outcome.of(outside.outcome or {})
        self._files.fetch(outside, OutputKind.ARTIFACT, folder.artifact)
        left_bytes = self._files.max_bytes
        for file in (RemoteFile(**each) for each in outside.artifacts):
            target = folder.artifact.joinpath(*file.path.split("/"))
            left_bytes -= self._urls.bring(file, target, left_bytes, stopping)
        outcome.write(folder.outcome)
        check_files(folder.artifact, self._files.max_bytes)
        return outcome
