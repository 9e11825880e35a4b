"""When a schedule is due: five fields of cron, read in a time zone.

The fields mean what Debian's cron has them mean (cronsim computes them): a star at the beginning of the day of the
month or of the week has both hold, else either does. Where clocks change, an expression that names minutes and hours
keeps to what the clock shows: a time that is left out is due at the end of the gap, and one that comes twice is due at
the first. One with a star as the minute or the hour keeps to the time that passes: nothing in the gap, and both of what
comes twice.
"""

from __future__ import annotations

import functools
import zoneinfo
from datetime import UTC, datetime, timedelta
from typing import Final

from cronsim import CronSim, CronSimError

from services.common.errors import InvalidArgument

MAX_CRON_CHARS: Final = 128
MAX_ZONE_CHARS: Final = 64
FIELDS: Final = 5
ORDINARY: Final = datetime(2001, 1, 1, tzinfo=UTC)
LEAST_MINUTES: Final = 5
DAY_MINUTES: Final = 24 * 60
MOST_AHEAD: Final = timedelta(days=5 * 366)
"""How far ahead an only time may lie."""
FORMS: Final = "minute, hour, day of the month, month, day of the week, such as 0 3 * * * or 30 6 * * mon-fri"


def check_zone(time_zone: str) -> None:
    """See that a time zone is one; raises InvalidArgument (INVALID_TIME_ZONE)."""
    if len(time_zone) > MAX_ZONE_CHARS or time_zone not in _zones():
        sentence = f"got {time_zone[:MAX_ZONE_CHARS]!r}; an IANA name is expected, such as Europe/Berlin or UTC"
        raise InvalidArgument.field("time_zone", sentence, reason="INVALID_TIME_ZONE")


def check_cron(cron: str) -> None:
    """See that an expression is one, that it comes, and that it does not come too often.

    Times are looked at on an ordinary day: where the clocks go on, two may fall closer together, once a year.

    Raises:
        InvalidArgument: INVALID_CRON, TOO_OFTEN, NEVER_DUE.
    """
    if len(cron) > MAX_CRON_CHARS or not cron.isascii() or not cron.isprintable() or len(cron.split()) != FIELDS:
        sentence = f"five fields are expected, of {MAX_CRON_CHARS} characters at most: {FORMS}"
        raise InvalidArgument.field("cron", sentence, reason="INVALID_CRON")
    try:
        expression = CronSim(cron, ORDINARY)
    except CronSimError as error:
        if str(error) == "Bad day-of-month" and _is_day(cron):
            raise never_due(cron) from error
        raise InvalidArgument.field(
            "cron", f"{error}; five fields are expected: {FORMS}", reason="INVALID_CRON"
        ) from error
    _check_often(expression)
    if next(expression, None) is None:
        raise never_due(cron)


def next_time(cron: str, time_zone: str, after: datetime) -> datetime | None:
    """Give the first time after another, in UTC; None where none comes within 50 years.

    Raises:
        InvalidArgument: the expression or the zone is unknown here, by another release or another list of zones.
    """
    check_zone(time_zone)
    try:
        times = CronSim(cron, after.astimezone(zoneinfo.ZoneInfo(time_zone)))
    except CronSimError as error:
        raise InvalidArgument.field("cron", str(error), reason="INVALID_CRON") from error
    # Several times of a gap are one at its end, and in an hour that comes twice the first may be over.
    return next((time for each in times if (time := each.astimezone(UTC)) > after), None)


def _check_often(expression: CronSim) -> None:
    minutes = sorted(60 * hour + minute for hour in expression.hours for minute in expression.minutes)
    following = [*minutes[1:], minutes[0] + DAY_MINUTES]
    gap, first = min((later - earlier, earlier) for earlier, later in zip(minutes, following, strict=True))
    if gap < LEAST_MINUTES:
        one, other = (f"{minute // 60 % 24:02}:{minute % 60:02}" for minute in (first, first + gap))
        sentence = f"{one} and {other} lie {gap} min apart; once in {LEAST_MINUTES} min at most is allowed"
        raise InvalidArgument.field("cron", sentence, reason="TOO_OFTEN")


def _is_day(cron: str) -> bool:
    """Say whether a day of the month that was refused is one in other months."""
    try:
        minute, hour, day, _, week_day = cron.split()
        CronSim(" ".join((minute, hour, day, "*", week_day)), ORDINARY)
    except CronSimError:
        return False
    return True


def never_due(cron: str) -> InvalidArgument:
    """Make the error for an expression that no time meets."""
    return InvalidArgument.field("cron", f"{cron!r} is never due: no such day comes", reason="NEVER_DUE")


@functools.cache
def _zones() -> frozenset[str]:
    """List the zones; `localtime` is whatever this machine was told."""
    return frozenset(zoneinfo.available_timezones() - {"localtime"})
