"""Keeping the days: those to come are made ready, those past their retention are dropped."""

from __future__ import annotations

from datetime import timedelta

import structlog

from services.monitoring.store.days import Days

_log = structlog.get_logger(__name__)
KEEP = "days"
"""The chore that keeps the days of events and feedback."""
GRACE = timedelta(hours=1)
"""An event that was just young enough is stored before its day goes."""


def keep_days(days: Days, kept: timedelta) -> None:
    """Make today and tomorrow ready, and drop what is past its retention; see `Days.oldest`. A step of a chore.

    Other days are made when something of theirs comes.
    """
    days.prepare()
    for name in days.drop_before(days.oldest(kept + GRACE)):
        _log.info("day dropped", partition=name)
