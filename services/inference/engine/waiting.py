"""The requests of one version that wait, the most urgent first and within a level the oldest."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from services.inference.engine.requests import State, Ticket
from services.inference.engine.runners import NEVER_NS


class WaitingQueue:
    """A queue for each level of priority. Whoever calls holds the lane's lock."""

    __slots__ = ("_levels", "count", "rows")

    def __init__(self) -> None:
        self._levels: list[deque[Ticket]] = [deque()]
        self.count = 0
        self.rows = 0

    def set_levels(self, count: int) -> None:
        """Have so many levels; what waits on one that is gone waits on the last."""
        levels = self._levels
        while len(levels) < count:
            levels.append(deque())
        while len(levels) > count:
            gone = levels.pop()
            for ticket in gone:
                ticket.level = count - 1
                levels[-1].append(ticket)

    def push(self, ticket: Ticket) -> None:
        """Add a request behind those of its level."""
        self._levels[ticket.level].append(ticket)
        self._added(ticket)

    def push_back(self, ticket: Ticket) -> None:
        """Put a request before those of its level: it has waited once."""
        ticket.level = min(ticket.level, len(self._levels) - 1)
        self._levels[ticket.level].appendleft(ticket)
        self._added(ticket)

    def remove(self, ticket: Ticket) -> None:
        """Take out one that waits."""
        self._levels[ticket.level].remove(ticket)
        self._removed(ticket)

    def first(self) -> Ticket | None:
        """The one whose turn it is."""
        for level in self._levels:
            if level:
                return level[0]
        return None

    def pop_lending(self) -> Ticket | None:
        """Take out the first whose caller lends a thread."""
        for level in self._levels:
            for ticket in level:
                if ticket.done is None:
                    self.remove(ticket)
                    return ticket
        return None

    def pop_first(self) -> Ticket | None:
        """Take out the one whose turn it is."""
        for level in self._levels:
            if level:
                ticket = level.popleft()
                self._removed(ticket)
                return ticket
        return None

    def take(self, key: Hashable, rows: int, now_ns: int) -> tuple[list[Ticket], list[Ticket]]:
        """Take out, in order, what has this key and fits into so many rows, and whatever is late.

        Those that do not fit keep their places: the first of them leads before long. Returns the joined and the late.
        """
        joined: list[Ticket] = []
        late: list[Ticket] = []
        for number, level in enumerate(self._levels):
            kept: deque[Ticket] = deque()
            for ticket in level:
                if ticket.start_by_ns and now_ns >= ticket.start_by_ns:
                    late.append(ticket)
                elif ticket.key == key and ticket.rows <= rows:
                    joined.append(ticket)
                    rows -= ticket.rows
                else:
                    kept.append(ticket)
            self._levels[number] = kept
        for ticket in (*joined, *late):
            self._removed(ticket)
        return joined, late

    def take_late(self, now_ns: int) -> list[Ticket]:
        """Take out whatever is late."""
        return self.take(object(), 0, now_ns)[1]

    def due_ns(self) -> int:
        """When the first of them will be late, on the monotonic clock; NEVER_NS where none will."""
        tickets = (ticket.start_by_ns for level in self._levels for ticket in level)
        return min(filter(None, tickets), default=NEVER_NS)

    def find_displaceable(self, level: int, *, lent: bool) -> Ticket | None:
        """Find the youngest of the lowest priority below `level`; `lent`: of those only whose caller lends a thread."""
        for tickets in reversed(self._levels[level + 1 :]):
            for ticket in reversed(tickets):
                if ticket.done is None or not lent:
                    return ticket
        return None

    def oldest_ns(self) -> int | None:
        """When the one that has been in the engine for longest came, on the monotonic clock; None where none waits."""
        return min((ticket.began_ns for level in self._levels for ticket in level), default=None)

    def _added(self, ticket: Ticket) -> None:
        ticket.state = State.WAITING
        self.count += 1
        self.rows += ticket.rows

    def _removed(self, ticket: Ticket) -> None:
        ticket.state = State.TAKEN
        ticket.request.on_cancel = None
        self.count -= 1
        self.rows -= ticket.rows
