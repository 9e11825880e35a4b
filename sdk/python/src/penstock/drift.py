"""Drift: whether live data still is what the reference was."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice

from penstock.api.monitoring.v1 import drift_pb2 as pb
from penstock.monitoring_connection import MonitoringConnected, page_size_of, to_window
from penstock.paging import pages
from penstock.values import enum_number

CHECK_TIMEOUT_S = 120.0
"""A check of thousands of features takes its time."""


class DriftClient(MonitoringConnected):
    """Checks windows of live data against reference profiles."""

    def check(
        self,
        model: str,
        version: str = "",
        *,
        from_time: datetime | None = None,
        to_time: datetime | None = None,
        window: timedelta | str | None = None,
        as_scheduled: bool = False,
        timeout_s: float = CHECK_TIMEOUT_S,
        retry: bool = False,
    ) -> pb.DriftCheck:
        """Check now; the result is kept as one that came by schedule is.

        Args:
            model: the model; or `view:NAME`, a feature view.
            version: the version; empty: the one that answered most in the window, of a view the newest.
            from_time: from here on; None: the configured window before `to_time`.
            to_time: up to here, exclusive; None: now.
            window: how long, in place of `from_time`: a timedelta, or text such as `6h`.
            as_scheduled: make the check that is next by schedule now, which rules of alerts judge; without a window.
            timeout_s: in seconds.
            retry: try again where the service is unavailable; each try that got through is kept.

        Raises:
            FailedPrecondition: the version has no profile (NO_REFERENCE), drift checks are off (DRIFT_OFF), or what the
                schedule's next would look at is still being counted (BUCKETS_WAIT).
            ResourceExhausted: two checks are being made already (TOO_MANY_CHECKS).
            NotFound: nothing answered in the window, and no version was named (VERSION_NOT_SEEN), or nobody knows the
                model (MODEL_NOT_FOUND), or the view (VIEW_NOT_FOUND).
            Unavailable: a view cannot be read just now (FEATURES_UNAVAILABLE).
        """
        since, until = to_window(from_time, to_time, window)
        request = pb.CheckDriftRequest(
            model=model, version=version, from_time=since, to_time=until, as_scheduled=as_scheduled
        )
        method = self._connection.stub.CheckDrift
        return self._connection.unary(method, request, timeout_s=timeout_s, retry=retry).check

    def get(self, check_id: str) -> pb.DriftCheck:
        """Give a check with all its comparisons; raises NotFound (CHECK_NOT_FOUND)."""
        request = pb.GetDriftCheckRequest(id=check_id)
        return self._connection.unary(self._connection.stub.GetDriftCheck, request).check

    def list(
        self,
        *,
        model: str = "",
        version: str = "",
        status: pb.DriftStatus.ValueType | str | None = None,
        limit: int | None = None,
    ) -> Iterator[pb.DriftCheck]:
        """List checks without their comparisons, the newest first, fetched as they are iterated.

        Args:
            model: only this model.
            version: only this version.
            status: only `ok`, `drifted` or `insufficient_data`.
            limit: so many at most; None: all.
        """
        wanted = enum_number("status", pb.DriftStatus, status)

        def fetch(token: str) -> pb.ListDriftChecksResponse:
            request = pb.ListDriftChecksRequest(
                model=model, version=version, status=wanted, page_size=page_size_of(limit), page_token=token
            )
            return self._connection.unary(self._connection.stub.ListDriftChecks, request)

        return islice((check for page in pages(fetch) for check in page.checks), limit)
