"""The window of a check: whole buckets, by the contract's defaults and bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from services.common.errors import InvalidArgument
from services.monitoring.models import Window
from services.monitoring.profiles.models import BUCKET

LONGEST_WINDOW: Final = timedelta(days=30)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def check_window(from_time: datetime | None, end: datetime, length: timedelta) -> Window:
    """Give the whole buckets from `from_time`, or from `length` before the end, up to `end`.

    Raises:
        InvalidArgument: the window is none, too long, or beyond the calendar (INVALID_WINDOW).
    """
    try:
        to_time = end + (_EPOCH - end) % BUCKET
        begin = to_time - length if from_time is None else from_time - (from_time - _EPOCH) % BUCKET
    except OverflowError as error:
        raise InvalidArgument.field("to_time", "it is beyond the calendar", reason="INVALID_WINDOW") from error
    if begin >= to_time or to_time - begin > LONGEST_WINDOW + BUCKET:
        raise InvalidArgument.field(
            "from_time",
            f"that is {begin.isoformat()} to {to_time.isoformat()}; a window ends after it begins, and is at most "
            f"{LONGEST_WINDOW.days} days long",
            reason="INVALID_WINDOW",
        )
    return Window(begin, to_time)


@dataclass(frozen=True, slots=True)
class Completeness:
    """How much of a window was there when it was checked; the contract says it of `DriftCheck`."""

    uncounted_bucket_count: int = 0
    complete_until: datetime | None = None

    @property
    def note(self) -> str:
        """What is wanting, to follow a sentence; empty: nothing is."""
        count = self.uncounted_bucket_count
        if not count or self.complete_until is None:
            return ""
        since = f"{self.complete_until.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        if count == 1:
            which = f"1 of its buckets of 5 minutes, that of {since}, waits"
        else:
            which = f"{count:,} of its buckets of 5 minutes, the first of {since}, wait"
        return f"; {which} to be counted, and what came in {'it' if count == 1 else 'them'} is missing in part or whole"


def completeness(
    window: Window, uncounted: Sequence[datetime], now: datetime, *, under_way: bool = False
) -> Completeness:
    """Tell it from the buckets of a window that wait to be counted, ascending.

    By schedule the one that is not over is no gap, since the next check has it; who asks wants it too: `under_way`.
    """
    begun = now - (now - _EPOCH) % BUCKET
    until = min([window.to_time, begun, *uncounted[:1]])
    waiting = len(uncounted) if under_way else sum(time < begun for time in uncounted)
    return Completeness(waiting, max(until, window.from_time))


ALL_THERE: Final = Completeness()
