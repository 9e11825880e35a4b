"""Going round all versions with traffic, and which of a model's is meant where none is named."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final

import structlog

from services.common.errors import DomainError, FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from services.monitoring.chores import Turn
from services.monitoring.models import Window
from services.monitoring.profiles.models import BUCKET
from services.monitoring.rollups.metrics import MetricsReader
from services.monitoring.window_checks.keeping import KEPT
from services.monitoring.window_checks.store import CheckStore, Version
from services.monitoring.window_checks.window import Completeness

_log = structlog.get_logger(__name__)
Clock = Callable[[], datetime]
LATELY: Final = timedelta(days=1)
"""Versions with traffic within this long are looked at."""
QUARTER: Final = timedelta(days=91)
MOST_WAIT: Final = timedelta(hours=1)
"""A check that is due waits so long at most for buckets that are over to be counted."""
MOST_AT_ONCE: Final = 2
"""Checks by hand that are made at once: one of 2,000 features takes hundreds of megabytes."""
_PLACE_WAIT_S = 5.0
_LOOKS = 10
_PAUSE_S = 0.5
_USUAL_LAG = timedelta(minutes=1)
"""A bucket that is over is counted within this long, and was counted while it was open."""
_DROPPED_AT_ONCE = 1_000


def scheduled_level(level: float, interval: timedelta, versions: int = 1) -> float:
    """Give the level of each check by schedule: all those of a model's versions are wrong once a quarter at most.

    That is an average, where as many `versions` are checked at this interval, all the while.
    """
    return min(level, interval / QUARTER / max(versions, 1))


class Rounds:
    """A chore: each version is looked at, and what is past its time is dropped."""

    def __init__(
        self,
        store: CheckStore,
        seen: Callable[[Window], Collection[Version]],
        clock: Clock,
        intervals: Callable[[Collection[Version]], Mapping[Version, timedelta]],
        check: Callable[[str, str], None],
    ) -> None:
        """`seen` lists what had traffic, `intervals` says how often each of it is checked and leaves out what is not,
        and `check` makes the check of one whose time has come."""
        self._store = store
        self._seen = seen
        self._clock = clock
        self._intervals = intervals
        self._check = check

    def go(self, turn: Turn) -> None:
        """Look at each version with traffic. What goes wrong with one is logged, and tried again in the next turn."""
        for model, version in self._store.due(self._intervals(self._seen_lately())):
            if not turn.renew():
                return
            with _by_itself(model=model, version=version):
                self._check(model, version)
        while turn.renew() and self._store.drop_older(KEPT, limit=_DROPPED_AT_ONCE):
            pass

    def versions_checked(self, model: str) -> int:
        """Say how many versions of a model are checked by schedule now."""
        return len(self._intervals([each for each in self._seen_lately() if each[0] == model]))

    def _seen_lately(self) -> list[Version]:
        now = self._clock()
        return [(model, version) for model, version in self._seen(Window(now - LATELY, now)) if version]

    def put_off(self, model: str, version: str, interval: timedelta) -> None:
        """Have the next check of a version come an interval later, without one now."""
        self._store.put_off(model, version, interval)

    def waits(self, model: str, version: str, complete: Completeness, interval: timedelta) -> bool:
        """Say whether a check that is due comes again in the next turn: a whole interval is not spent on half the data.

        Late events may leave some bucket to be counted anew at any time, so that it waits MOST_WAIT at most.
        """
        return bool(complete.uncounted_bucket_count) and self._store.wait(model, version) < min(interval, MOST_WAIT)


@contextmanager
def one_of_few(places: threading.BoundedSemaphore) -> Iterator[None]:
    """Take one of the places for checks by hand, once there is one.

    Raises:
        ResourceExhausted: there was none for seconds (TOO_MANY_CHECKS).
    """
    if not places.acquire(timeout=_PLACE_WAIT_S):
        sentence = f"{MOST_AT_ONCE} checks are being made just now; try again when one is done"
        raise ResourceExhausted(sentence, reason="TOO_MANY_CHECKS", retry_after_s=5.0)
    try:
        yield
    finally:
        places.release()


def await_counts(look: Callable[[], Completeness], clock: Clock) -> None:
    """Wait some seconds for buckets of a window to be counted; one that was over just now is no matter.

    Raises:
        FailedPrecondition: they still wait (BUCKETS_WAIT).
    """
    for _ in range(_LOOKS):
        complete = look()
        until = complete.complete_until or clock()
        if not complete.uncounted_bucket_count or until >= clock() - BUCKET - _USUAL_LAG:
            return
        time.sleep(_PAUSE_S)
    count = complete.uncounted_bucket_count
    buckets = "1 bucket" if count == 1 else f"{count:,} buckets"
    raise FailedPrecondition(
        f"{buckets} of 5 minutes of the window still to be counted, the first of {until.isoformat()}; ask again in a "
        "minute, and if that goes on look at the monitoring service's log",
        reason="BUCKETS_WAIT",
    )


@contextmanager
def _by_itself(**which: str) -> Iterator[None]:
    """Let one's error end nothing of the others', unless the database is away: so it is for all."""
    try:
        yield
    except Unavailable:
        raise
    except DomainError as error:
        _log.warning("check not made, trying again", **which, reason=error.reason, message=error.message)
    except Exception:  # noqa: BLE001 - logged, and tried again: one version's data must not end the others' checks
        _log.exception("check failed, trying again", **which)


def busiest(metrics: MetricsReader, model: str, window: Window) -> str:
    """Name the version of a model that answered most in a window.

    Raises:
        NotFound: none had traffic (VERSION_NOT_SEEN).
    """
    counts = {
        version: metrics.total(model, version, window, latencies=False).counts.inference_count
        for version in metrics.versions(model, window)
        if version
    }
    if not counts:
        raise NotFound(
            f"no version of {model} answered between {window.from_time.isoformat()} and "
            f"{window.to_time.isoformat()}; take another window, or name a version",
            reason="VERSION_NOT_SEEN",
        )
    return max(counts, key=lambda version: counts[version])
