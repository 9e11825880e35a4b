"""Data quality: what is wrong with live data."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice

from penstock.api.monitoring.v1 import quality_pb2 as pb
from penstock.drift import CHECK_TIMEOUT_S
from penstock.monitoring_connection import MonitoringConnected, page_size_of, to_window
from penstock.paging import pages
from penstock.values import enum_number


class QualityClient(MonitoringConnected):
    """Looks windows of live data over."""

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
    ) -> pb.QualityCheck:
        """Look now for what is wrong with the data; the result is kept as one that came by schedule is.

        Args:
            model: the model.
            version: the version; empty: the one that answered most in the window.
            from_time: from here on; None: the configured window before `to_time`.
            to_time: up to here, exclusive; None: now.
            window: how long, in place of `from_time`: a timedelta, or text such as `6h`.
            as_scheduled: make the check that is next by schedule now, which rules of alerts judge; without a window.
            timeout_s: in seconds.
            retry: try again where the service is unavailable; each try that got through is kept.

        Raises:
            FailedPrecondition: quality checks are off (QUALITY_OFF), or what the schedule's next would look at is still
                being counted (BUCKETS_WAIT).
            ResourceExhausted: two checks are being made already (TOO_MANY_CHECKS).
            NotFound: nothing answered in the window, and no version was named (VERSION_NOT_SEEN), or nobody knows the
                model (MODEL_NOT_FOUND).
        """
        since, until = to_window(from_time, to_time, window)
        request = pb.CheckQualityRequest(
            model=model, version=version, from_time=since, to_time=until, as_scheduled=as_scheduled
        )
        method = self._connection.stub.CheckQuality
        return self._connection.unary(method, request, timeout_s=timeout_s, retry=retry).check

    def get(self, check_id: str) -> pb.QualityCheck:
        """Give a check with its findings; raises NotFound (CHECK_NOT_FOUND)."""
        request = pb.GetQualityCheckRequest(id=check_id)
        return self._connection.unary(self._connection.stub.GetQualityCheck, request).check

    def list(
        self,
        *,
        model: str = "",
        version: str = "",
        status: pb.QualityStatus.ValueType | str | None = None,
        limit: int | None = None,
    ) -> Iterator[pb.QualityCheck]:
        """List checks without their findings, the newest first, fetched as they are iterated.

        Args:
            model: only this model.
            version: only this version.
            status: only `ok`, `violated` or `insufficient_data`.
            limit: so many at most; None: all.
        """
        wanted = enum_number("status", pb.QualityStatus, status)

        def fetch(token: str) -> pb.ListQualityChecksResponse:
            request = pb.ListQualityChecksRequest(
                model=model, version=version, status=wanted, page_size=page_size_of(limit), page_token=token
            )
            return self._connection.unary(self._connection.stub.ListQualityChecks, request)

        return islice((check for page in pages(fetch) for check in page.checks), limit)
