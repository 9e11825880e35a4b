"""What raises requests as time goes by: what still stands, how often predictions fail, and the calendar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import chain

import structlog

from services.common.errors import DomainError, FailedPrecondition, Unavailable
from services.monitoring.alerts.mistakes import server_error_count, valid_count
from services.monitoring.chores import Turn
from services.monitoring.configuration.configurations import Configurations
from services.monitoring.configuration.models import Effective, RetrainingConfiguration
from services.monitoring.models import Retention, Window
from services.monitoring.retraining.models import Cause, Details, Past, Reason
from services.monitoring.retraining.requests import Counted, RetrainingRequests
from services.monitoring.retraining.store.causes import CauseStore
from services.monitoring.rollups.metrics import MetricsReader
from services.monitoring.rollups.models import Totals

_log = structlog.get_logger(__name__)
Clock = Callable[[], datetime]


class Watch:
    """Looks at every model that had traffic. Safe to run twice and at once: a model has one open request."""

    def __init__(
        self,
        requests: RetrainingRequests,
        queue: CauseStore,
        configurations: Configurations,
        metrics: MetricsReader,
        retention: Retention,
        clock: Clock,
    ) -> None:
        self._requests = requests
        self._queue = queue
        self._configurations = configurations
        self._metrics = metrics
        self._retention = retention
        self._clock = clock

    def work(self, turn: Turn) -> None:
        """Do what there is to do now: the chore."""
        now = self._clock()
        for model in self._metrics.models(Window(self._retention.oldest(now), now)):
            if not turn.renew():
                return
            try:
                self._look_at(model, now)
            except Unavailable:
                raise
            except DomainError as error:  # a model of too many rows, say, keeps nobody from the others
                _log.warning("model not looked at", model=model, reason=error.reason, message=error.message)

    def _look_at(self, model: str, now: datetime) -> None:
        standing, past = self._queue.standing(model), self._requests.past(model)
        counted: Counted = {}
        if past.open_request is None:
            raising = (cause for cause in standing if cause.raises)
            for cause in chain(raising, self._causes(model, past, now)):
                # Why none comes of it is what the causes' own rules say; it is looked at again soon.
                with suppress(FailedPrecondition):
                    self._requests.raise_for(cause, counted)
                    break
        for cause in standing:
            self._requests.join(cause)

    def _causes(self, model: str, past: Past, now: datetime) -> Iterator[Cause]:
        window = self._configurations.effective(model).drift.window
        for version in self._metrics.versions(model, Window(now - window, now)):
            # What failed before a version was chosen has none, and no training would help.
            cause = self._error_rate(model, version, now) if version else None
            if cause is not None:
                yield cause
        last = self._requests.last_version(model)
        configuration = self._configurations.effective(model, last).retraining
        if is_due(configuration, past, now):
            details = {"schedule_interval_s": configuration.schedule_interval.total_seconds()}
            yield Cause(model, self._requests.current_version(model), Reason.SCHEDULED, details)

    def _error_rate(self, model: str, version: str, now: datetime) -> Cause | None:
        effective = self._configurations.effective(model, version)
        totals = self._metrics.total(model, version, Window(now - effective.drift.window, now))
        details = too_many_errors(totals, effective)
        return None if details is None else Cause(model, version, Reason.ERROR_RATE_THRESHOLD, details)


def too_many_errors(totals: Totals, effective: Effective) -> Details | None:
    """Say what is wrong where predictions fail too often; None where they do not, or there are too few to say.

    Callers' mistakes do not count. One failure of three predictions is no rate: as many as a drift check needs rows are
    wanted.
    """
    least = effective.retraining.error_rate
    count, failed = valid_count(totals.counts), server_error_count(totals.counts)
    if count < max(effective.drift.min_rows, 1) or failed / count < least:
        return None
    rate = failed / count
    return {
        "metric": "server_error_rate",
        "value": rate,
        "threshold": least,
        "inference_count": count,
        "error_count": failed,
        "from_time": totals.window.from_time.isoformat(),
        "to_time": totals.window.to_time.isoformat(),
        "summary": f"{failed} of {count} predictions failed ({rate:.1%}); {least:.1%} are too many.",
    }


def is_due(configuration: RetrainingConfiguration, past: Past, now: datetime) -> bool:
    """Say whether the time for a retraining by schedule has come: so long after the last one began, or was asked for.

    Where there was none yet, it has come at once: the safety rules see to it that there is enough to learn from.
    """
    interval = configuration.schedule_interval
    if interval <= timedelta():
        return False
    times = [time for time in (past.train_time, past.schedule_time) if time is not None]
    return not times or max(times) + interval <= now
