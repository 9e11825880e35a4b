"""What goes wrong while rows are gathered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from penstock import Client
from penstock.errors import DeadlineExceeded, PenstockError
from services.common.errors import DomainError, FailedPrecondition, Unavailable
from services.trainer.task import Stopping


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


@contextmanager
def asked_until_stopped(open_client: Callable[[], Client], stopping: Stopping) -> Iterator[Client]:
    """Lend a client that closes as soon as the run is to end: what waits for an answer hears of it then."""
    with open_client() as client:
        stopping.on_stop(client.close)
        try:
            yield client
        finally:
            stopping.forget(client.close)


def _meaning(error: PenstockError, unavailable: type[Unavailable], whom: str) -> DomainError:
    if error.retryable or isinstance(error, DeadlineExceeded):
        return unavailable(f"{whom} gives no answer now: {error.message}")
    return BuildFailed(f"{whom} refuses: {error.message}", reason=error.reason or None)
