"""The feature store as predictions read it: one call to the registry, with a tight deadline, and never a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Final

from penstock import Client
from penstock import errors as sdk
from penstock.feature_columns import FeatureValues
from services.common import errors
from services.common.counters import Cell, Counters, Tally
from services.inference.engine.requests import late_error

RETRY_AFTER_S: Final = 1.0
# What the caller of a prediction should hear where the registry refuses: another request would be refused alike.
_REFUSALS: Final = (sdk.InvalidArgument, sdk.NotFound, sdk.Unauthenticated, sdk.PermissionDenied, sdk.Unimplemented)


LOOKUPS: Final = "lookups"


class LookupCounters(Tally):
    """Reads of feature views: all, those that gave no values, and how long they took, in µs."""

    reads = Cell()
    failures = Cell()
    duration_us = Cell()


class FeatureReader:
    """Reads the latest values of entities. At most `max_at_once` reads are under way: a registry that hangs holds so
    many threads, and no more."""

    def __init__(self, client: Client, *, timeout_s: float, max_at_once: int) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._room = threading.BoundedSemaphore(max_at_once)
        self._counting = threading.Lock()
        self._counters = LookupCounters()

    def keep_counts_in(self, counters: Counters) -> None:
        """Count on where this worker's slot says; before the first read."""
        self._counters.keep_in(counters, LOOKUPS)

    def read(self, view: str, features: Sequence[str], keys: Sequence[str], left_s: float | None) -> FeatureValues:
        """Read some features of entities; `view` is `name` or `name@2`, `left_s` the time that the caller has left.

        Raises:
            Unavailable: the registry did not give them in time, or too many reads are under way (FEATURES_UNAVAILABLE).
            DeadlineExceeded: the caller had less time than that (REQUEST_TIMEOUT).
            ResourceExhausted: they are more than a message holds (TOO_LARGE).
            FailedPrecondition: there is no such view or feature, or this service may not read it; the reason is the
                registry's.
        """
        began_ns = time.perf_counter_ns()
        try:
            values = self._read(view, features, keys, left_s)
        except Exception:
            self._count(began_ns, failures=1)
            raise
        self._count(began_ns, failures=0)
        return values

    def _count(self, began_ns: int, *, failures: int) -> None:
        counters = self._counters
        with self._counting:
            counters.reads += 1
            counters.failures += failures
            counters.duration_us += (time.perf_counter_ns() - began_ns) // 1_000

    def _read(self, view: str, features: Sequence[str], keys: Sequence[str], left_s: float | None) -> FeatureValues:
        if not self._room.acquire(blocking=False):
            raise _unavailable(view, "too many reads are under way")
        timeout_s = self._timeout_s if left_s is None else min(left_s, self._timeout_s)
        try:
            (values,) = self._client.features.get({view: features}, keys, timeout_s=timeout_s).values()
        except sdk.DeadlineExceeded as error:
            if timeout_s < self._timeout_s:
                raise late_error() from error
            raise _unavailable(view, f"the registry did not answer within {timeout_s:g} s") from error
        except _REFUSALS as error:
            raise errors.FailedPrecondition(f"the feature view {view!r}: {error}", reason=error.reason) from error
        except sdk.ResourceExhausted as error:
            if error.reason != "TOO_LARGE":
                raise _unavailable(view, str(error)) from error
            raise errors.ResourceExhausted(f"the feature view {view!r}: {error}", reason=error.reason) from error
        except sdk.PenstockError as error:
            raise _unavailable(view, str(error)) from error
        finally:
            self._room.release()
        return values


def _unavailable(view: str, why: str) -> errors.Unavailable:
    return errors.Unavailable(
        f"the feature view {view!r} cannot be read: {why}; try again, or send all inputs",
        reason="FEATURES_UNAVAILABLE",
        retry_after_s=RETRY_AFTER_S,
    )
