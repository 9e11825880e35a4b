"""Listens to a run's process: its log and what it tells, to the end, and never to more than it may say."""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable
from typing import Final

from services.trainer.executing.recipe_process import RecipeProcess
from services.trainer.recipes.lines import MAX_LINE_BYTES, Done, Failed, said_by
from services.trainer.task import CheckpointWritten, Epoch, Event, Log

_READ_BYTES: Final = 65_536
_REST_BYTES: Final = 4 * 1024**2
MAX_EPOCHS: Final = 100_000
"""Epochs and trials of one attempt; more are no progress that anybody would look at."""


class Hearing:
    """What one process says, told on in order. `end` is what it said last: how it ended."""

    def __init__(self, process: RecipeProcess, tell: Callable[[Event], None], max_log_bytes: int) -> None:
        self.end: Done | Failed | None = None
        self._process = process
        self._tell = tell
        self._line = bytearray()
        self._log_bytes_left = max_log_bytes
        self._epochs_left = MAX_EPOCHS
        self._refused = False

    def listen(self) -> None:
        """Hear the process until it has ended, or has said what it may not: then `end` says so.

        Raises whatever `tell` raises.
        """
        with selectors.DefaultSelector() as selector:
            for descriptor in (self._process.life, self._process.events, self._process.log):
                selector.register(descriptor, selectors.EVENT_READ)
            while self._process.life in selector.get_map() and not self._refused:
                for key, _ in selector.select():
                    if not self._hear(key.fd):
                        selector.unregister(key.fd)

    def listen_to_the_rest(self) -> None:
        """Hear what is still in the pipes of a process that has ended."""
        for descriptor in (self._process.log, self._process.events):
            for _ in range(_REST_BYTES // _READ_BYTES):
                if self._refused or not self._hear(descriptor, at_the_end=True):
                    break

    def _hear(self, descriptor: int, *, at_the_end: bool = False) -> bool:
        """Hear a piece; gives whether there may be more."""
        try:
            chunk = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return not at_the_end
        except ConnectionResetError:
            return False
        if chunk and descriptor == self._process.log:
            self._hear_log(chunk)
        elif chunk and descriptor == self._process.events:
            self._hear_events(chunk)
        return bool(chunk)

    def _hear_log(self, chunk: bytes) -> None:
        self._log_bytes_left -= len(chunk)
        if self._log_bytes_left < 0:
            self._refuse("TOO_MUCH_OUTPUT", "the recipe prints without end; print less")
            return
        self._tell(Log(chunk))

    def _hear_events(self, chunk: bytes) -> None:
        self._line += chunk
        *lines, self._line = self._line.split(b"\n")
        for line in lines:
            self._hear_line(bytes(line))
            if self.end is not None:
                return
        if len(self._line) > MAX_LINE_BYTES:
            self._hear_line(bytes(self._line))

    def _refuse(self, reason: str, sentence: str) -> None:
        """End it for what it said; one that itself says how it ended is heard to its end, its log as well."""
        self.end = Failed(reason, sentence)
        self._refused = True

    def _hear_line(self, line: bytes) -> None:
        try:
            if len(line) > MAX_LINE_BYTES:
                raise ValueError(f"it has more than {MAX_LINE_BYTES} bytes")
            said = said_by(line)
        except ValueError as error:
            sentence = f"the recipe's process told what nobody can read: {str(error)[:500]}"
            self._refuse("INVALID_OUTCOME", sentence)
            return
        match said:
            case Done() | Failed():
                self.end = said
            case CheckpointWritten():
                self._tell(said)
                self._process.acknowledge()
            case Epoch():
                self._epochs_left -= 1
                if self._epochs_left < 0:
                    self._refuse("TOO_MUCH_OUTPUT", f"the recipe told of more than {MAX_EPOCHS} epochs; tell fewer")
                else:
                    self._tell(said)
