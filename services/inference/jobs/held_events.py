"""The events of rows that are not safe yet."""

from __future__ import annotations

from typing import Final

from services.inference.events.events import Event, EventQueue, payload_bytes

MAX_HELD_BYTES: Final = 64 * 1024 * 1024
"""Of their tensors."""


class HeldEvents:
    """Holds the events of a job's predictions back until their rows are safe; `max_events` are to be held at once.

    Rows that were predicted and not made safe are predicted again, by whoever takes the job over: had their events gone
    out at once, they would count twice. So they go out after the commit, and a worker that is killed in between, or
    does not hear of its commit, leaves rows that are safe and whose events are lost: those of one chunk at most.
    """

    def __init__(self, queue: EventQueue, *, max_events: int) -> None:
        self._queue = queue
        self._max_events = max_events
        self._waiting: list[Event] = []
        self.size_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether they are to be let go soon: more at once than the queue has room for would be dropped."""
        return self.size_bytes >= MAX_HELD_BYTES or len(self._waiting) >= self._max_events

    def append(self, event: Event) -> None:
        """Take an event."""
        self._waiting.append(event)
        self.size_bytes += payload_bytes(event)

    def forget_last(self) -> None:
        """Forget the newest: a batch that failed together is asked again in halves."""
        self.size_bytes -= payload_bytes(self._waiting.pop())

    def release(self) -> None:
        """Let all go: their rows are safe."""
        waiting, self._waiting, self.size_bytes = self._waiting, [], 0
        for event in waiting:
            self._queue.append(event)
