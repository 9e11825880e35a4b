"""What goes wrong while rows are gathered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from penstock.errors import DeadlineExceeded, PenstockError
from services.common.errors import DomainError, FailedPrecondition, Unavailable


class MonitoringUnavailable(Unavailable):
    """Monitoring gives no answer. Tried again."""

    default_reason = "MONITORING_UNAVAILABLE"


class FeaturesUnavailable(Unavailable):
    """The feature store gives no answer. Tried again."""

    default_reason = "FEATURES_UNAVAILABLE"


class BuildFailed(FailedPrecondition):
    """The rows cannot be gathered: the same again fails the same way."""

    default_reason = "BUILD_FAILED"


@contextmanager
def asking(unavailable: type[Unavailable], whom: str) -> Iterator[None]:
    """Say what another service's error means here: it is away, or it refuses what it was asked for."""
    try:
        yield
    except PenstockError as error:
        raise _meaning(error, unavailable, whom) from error


def _meaning(error: PenstockError, unavailable: type[Unavailable], whom: str) -> DomainError:
    if error.retryable or isinstance(error, DeadlineExceeded):
        return unavailable(f"{whom} gives no answer now: {error.message}")
    return BuildFailed(f"{whom} refuses: {error.message}", reason=error.reason or None)
