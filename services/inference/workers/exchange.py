"""What the supervisor asks of the workers, and what it remembers for those that come later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.inference.workers.commands import Decision, Key
from services.inference.workers.replies import Document
from services.inference.workers.wires import Frame, Kind

MAX_REMEMBERED = 10_000
Done = Callable[[dict[int, Document]], None]


@dataclass(slots=True)
class Question:
    """A command that several workers were given, and what they have replied so far, by their numbers."""

    waiting: set[int]
    deadline: float
    done: Done
    replies: dict[int, Document] = field(default_factory=dict)


class Questions:
    """The questions that are open. Used by the supervisor's one thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: dict[int, Question] = {}
        self._count = 0

    def ask(self, workers: Sequence[int], timeout_s: float, done: Done) -> int:
        """Number a question; `done` hears the replies once all are there, or all that are by the end of the time."""
        self._count += 1
        question = Question(set(workers), self._clock() + timeout_s, done)
        self._open[self._count] = question
        self._close_if_answered(self._count, question)
        return self._count

    def reply(self, number: int, worker: int, document: Document) -> None:
        """Take a reply; one that comes too late says nothing any more."""
        question = self._open.get(number)
        if question is not None and worker in question.waiting:
            question.waiting.discard(worker)
            question.replies[worker] = document
            self._close_if_answered(number, question)

    def forget(self, worker: int) -> None:
        """Wait no more for a worker that is gone."""
        for number, question in list(self._open.items()):
            question.waiting.discard(worker)
            self._close_if_answered(number, question)

    def expire(self) -> None:
        """Close the questions whose time is over."""
        now = self._clock()
        for number, question in list(self._open.items()):
            if now >= question.deadline:
                del self._open[number]
                question.done(question.replies)

    def _close_if_answered(self, number: int, question: Question) -> None:
        if not question.waiting:
            del self._open[number]
            question.done(question.replies)


class Remembered:
    """The commands that still hold, in the order in which they were given."""

    def __init__(self) -> None:
        self._commands: dict[Key, dict[str, Any]] = {}

    def take(self, decision: Decision, name: str, arguments: dict[str, Any]) -> None:
        """Keep a command in place of the one that decided the same, or forget what it ends; see `Decision`."""
        key = decision.key
        ended = [each for each in self._commands if each[: len(key)] == key and (not decision.keeps or each == key)]
        for each in ended:
            del self._commands[each]
        if decision.keeps:
            self._commands[key] = {"name": name, "arguments": arguments}

    def has_room(self, decision: Decision) -> bool:
        """Whether it can be taken: only what is kept anew needs a place among those that a new worker is told."""
        return not decision.keeps or decision.key in self._commands or len(self._commands) < MAX_REMEMBERED

    @property
    def commands(self) -> list[dict[str, Any]]:
        """What a new worker is told."""
        return list(self._commands.values())


class News:
    """What the registry's watch has said: a snapshot, and the changes since, for workers that come late.

    The bytes are handed on as they are. A snapshot that is still coming in parts is handed on once it is whole.
    """

    def __init__(self) -> None:
        self._snapshot: list[Frame] = []
        self._changes: list[Frame] = []
        self._arriving: list[Frame] = []

    def take(self, frame: Frame) -> list[Frame]:
        """Take a frame of the follower's; gives those that the workers are to hear now."""
        kind, _ = frame
        if kind is Kind.CHANGE:
            self._changes.append(frame)
            return [frame]
        self._arriving.append(frame)
        if kind in (Kind.SNAPSHOT_PART, Kind.BASE_PART):
            return []
        self._snapshot, self._arriving, self._changes = self._arriving, [], []
        return self._snapshot if kind is Kind.SNAPSHOT else []

    def interrupt(self) -> None:
        """Drop what had begun to come: the follower is another."""
        self._arriving = []

    @property
    def so_far(self) -> list[Frame]:
        """What a worker that begins now has to hear."""
        return [*self._snapshot, *self._changes]
