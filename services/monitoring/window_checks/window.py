"""The window of a check: whole buckets, by the contract's defaults and bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from services.common.errors import FieldViolation, InvalidArgument
from services.monitoring.models import FUTURE_TOLERANCE, Window
from services.monitoring.profiles.models import BUCKET

LONGEST_WINDOW: Final = timedelta(days=30)
_DAY = timedelta(days=1)
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
    if begin >= to_time:
        raise InvalidArgument.field(
            "from_time",
            f"{begin.isoformat()} is not before {to_time.isoformat()}, where the window ends; give an earlier one",
            reason="INVALID_WINDOW",
        )
    if to_time - begin > LONGEST_WINDOW + BUCKET:
        asked = end - (from_time or begin)
        # Of several fields that say it one is named for programs, none to people.
        violation = FieldViolation(
            "from_time", f"at most {LONGEST_WINDOW.days} days before the window's end are allowed"
        )
        raise InvalidArgument(
            f"the window is {asked / _DAY:.1f} days long, and at most {LONGEST_WINDOW.days} days are checked; give a "
            "shorter one",
            reason="INVALID_WINDOW",
            violations=(violation,),
        )
    return Window(begin, to_time)


def not_ahead(from_time: datetime | None, to_time: datetime | None, now: datetime) -> None:
    """Refuse times that have not come yet; clocks may differ a little.

    The end goes first: where a client reckoned the beginning from it, that is what somebody gave.

    Raises:
        InvalidArgument: one is ahead (INVALID_WINDOW).
    """
    for name, time in (("to_time", to_time), ("from_time", from_time)):
        if time is not None and time > now + FUTURE_TOLERANCE:
            what = "give an earlier one" if name == "from_time" else "leave it out for a window up to now"
            sentence = f"{time.isoformat(timespec='seconds')} has not come yet, and nothing came after now; {what}"
            raise InvalidArgument.field(name, sentence, reason="INVALID_WINDOW")


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
