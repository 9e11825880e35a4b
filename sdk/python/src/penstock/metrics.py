"""How models did: series from rollups, and the last five minutes as they go by."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from datetime import datetime, timedelta
from typing import TypeAlias

from penstock.api.monitoring.v1 import metrics_pb2 as pb
from penstock.durations import parse_duration
from penstock.errors import PenstockError, Unavailable
from penstock.monitoring_connection import MonitoringConnected, to_window
from penstock.retries import Tries
from penstock.values import enum_number

Granularity: TypeAlias = "pb.Granularity.ValueType | timedelta | str | None"
"""5 minutes, an hour or a day: as a timedelta, as `5m`, `1h`, `1d`, or by name; None: what gives at most 500 points."""
STEPS = {
    timedelta(minutes=5): pb.GRANULARITY_FIVE_MINUTES,
    timedelta(hours=1): pb.GRANULARITY_HOUR,
    timedelta(days=1): pb.GRANULARITY_DAY,
}


class MetricsClient(MonitoringConnected):
    """Counts, errors, latencies (in ms), confidence and accuracy. What can't be told is unset: test `HasField`."""

    def list(
        self,
        model: str,
        version: str = "",
        *,
        from_time: datetime | None = None,
        to_time: datetime | None = None,
        window: timedelta | str | None = None,
        granularity: Granularity = None,
        by_version: bool = False,
        histograms: bool = False,
    ) -> pb.ListMetricsResponse:
        """Give series over a window, a point a step; steps without predictions are left out.

        Args:
            model: the model.
            version: only this version.
            from_time: from here on, rounded down to a step; None: one day before `to_time`.
            to_time: up to here, exclusive, rounded up; None: now.
            window: how long, in place of `from_time`: a timedelta, or text such as `6h`.
            granularity: how long a step is.
            by_version: each version by itself, in place of one series.
            histograms: with those of the latencies, over the whole window.

        Raises:
            InvalidArgument: the window is none (INVALID_WINDOW), or has over 10,000 steps (TOO_MANY_POINTS).
            NotFound: neither the registry nor monitoring knows the model (MODEL_NOT_FOUND); it names those near it.
        """
        since, until = to_window(from_time, to_time, window)
        request = pb.ListMetricsRequest(
            model=model,
            version=version,
            from_time=since,
            to_time=until,
            granularity=granularity_number(granularity),
            by_version=by_version,
            histograms=histograms,
        )
        return self._connection.unary(self._connection.stub.ListMetrics, request)

    def realtime(self, model: str, version: str = "") -> pb.GetRealtimeMetricsResponse:
        """Give the last 5 minutes in 30 steps of 10 s, the oldest first; the last one is under way.

        Raises:
            NotFound: as `list`.
        """
        request = pb.GetRealtimeMetricsRequest(model=model, version=version)
        return self._connection.unary(self._connection.stub.GetRealtimeMetrics, request)

    def watch(
        self, model: str, version: str = "", *, interval: timedelta = timedelta(seconds=10)
    ) -> Generator[pb.WatchMetricsResponse, None, None]:
        """Give the last 5 minutes again and again, every 1 to 60 s, without end; a break is mended.

        Leaving the iterator ends the watch.

        Raises:
            NotFound: as `list`.
        """
        interval_ms = round(interval.total_seconds() * 1000)
        request = pb.WatchMetricsRequest(model=model, version=version, interval_ms=interval_ms)
        patience_s = max(self._connection.idle_timeout_s, 3 * interval.total_seconds())
        tries = Tries(self._connection.retry)
        while True:
            method = self._connection.stub.WatchMetrics
            try:
                with closing(self._connection.stream(method, request, idle_timeout_s=patience_s)) as answers:
                    for answer in answers:
                        tries.progressed()
                        yield answer
                raise Unavailable("monitoring ended the watch", reason="WATCH_ENDED", retryable=True)
            except PenstockError as error:
                tries.again(error)


def granularity_number(granularity: Granularity) -> pb.Granularity.ValueType:
    """Find what a step's length is called in the contract.

    Raises:
        InvalidArgument: there is no such step (UNKNOWN_NAME).
    """
    if not isinstance(granularity, str | timedelta):
        return enum_number("granularity", pb.Granularity, granularity)
    try:
        step = parse_duration(granularity) if isinstance(granularity, str) else granularity
        return STEPS[step]
    except (ValueError, KeyError):
        return enum_number("granularity", pb.Granularity, str(granularity))
