"""The events of rows that are not safe yet."""

from __future__ import annotations

from services.inference.events.events import Event, EventQueue, payload_bytes


class HeldEvents:
    """Holds the events of a job's predictions back until their rows are safe.

    Rows that were predicted and not made safe are predicted again, by whoever takes the job over: had their events gone
    out at once, they would count twice. What is held when a worker dies goes with its rows.
    """

    def __init__(self, queue: EventQueue) -> None:
        self._queue = queue
        self._waiting: list[Event] = []
        self.size_bytes = 0

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
