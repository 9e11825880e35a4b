"""Commands that every worker carries out: load, unload, register shared memory, whatever holds for the whole service.

A part that can be told something adds a handler to `Commands`; a servicer sends by `Broadcast` and hears from all of
them. Arguments and results are JSON values, for they may travel between processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from services.common.errors import DomainError

Arguments = Mapping[str, Any]
Result = dict[str, Any]
Handler = Callable[[Arguments], Result]
Key = tuple[str, ...]
"""Names what is decided, from the general to the particular, such as ("shared memory", "a region's name")."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a command decides for the workers that come later.

    Attributes:
        key: names it; of the commands that decide the same only the last is kept.
        keeps: whether the command is kept. One that is not ends those whose keys begin with its own: what it undoes
            is as if it had never been said, and nothing is left of either.
    """

    key: Key
    keeps: bool = True


Remember = Callable[[Arguments], Decision | None]


@dataclass(frozen=True, slots=True)
class Reply:
    """What one worker, numbered from 0, said: a result, or the error that it raised."""

    worker: int
    result: Result
    error: DomainError | None = None


class Commands:
    """What this process can be told to do."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._remember: dict[str, Remember] = {}
        self._slow: set[str] = set()

    def add(self, name: str, handler: Handler, *, remember: Remember | None = None, slow: bool = False) -> None:
        """Let `handler` carry out the command; each name has one handler.

        Args:
            name: the command.
            handler: carries it out, on a thread of its own; twice must be as good as once.
            remember: for what holds until something else is said: a worker that comes later is told too, unless
                every worker refused it. None of a command: it decides nothing.
            slow: whether it may take as long as a load; such commands wait for each other, and no other for them.
        """
        if name in self._handlers:
            raise ValueError(f"{name} has a handler already")
        self._handlers[name] = handler
        if remember is not None:
            self._remember[name] = remember
        if slow:
            self._slow.add(name)

    def is_slow(self, name: str) -> bool:
        """Whether a command may take as long as a load."""
        return name in self._slow

    def decides(self, name: str, arguments: Arguments) -> Decision | None:
        """Say what a command decides for workers that come later; None: nothing."""
        remember = self._remember.get(name)
        return None if remember is None else remember(arguments)

    def carry_out(self, name: str, arguments: Arguments, *, worker: int = 0) -> Reply:
        """Carry out a command here; a DomainError is a reply, anything else is a defect and raised."""
        try:
            return Reply(worker, self._handlers[name](arguments))
        except DomainError as error:
            return Reply(worker, {}, error)


class Broadcast(Protocol):
    """Reaches every worker of the service."""

    def send(self, name: str, arguments: Arguments, timeout_s: float) -> Sequence[Reply]:
        """Have every worker carry out a command, and give their replies in the order of their numbers.

        A worker that is just starting says nothing here; it is told what is to be remembered before it serves. Raises
        Unavailable(WORKER_SILENT) where one does not reply in time; the others have carried it out.
        """
        ...


class OneProcess:
    """The broadcast of a service that is one process."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def send(self, name: str, arguments: Arguments, timeout_s: float) -> Sequence[Reply]:  # noqa: ARG002 - carried out by the caller
        """Carry the command out here; see `Broadcast.send`."""
        return [self._commands.carry_out(name, arguments)]


def results(replies: Sequence[Reply]) -> list[Result]:
    """Give all results; raises the first worker's error, where there is one."""
    for reply in replies:
        if reply.error is not None:
            raise reply.error
    return [reply.result for reply in replies]
