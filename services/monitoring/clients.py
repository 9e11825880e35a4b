"""The client by which this service speaks to the registry and to the trainer."""

from __future__ import annotations

from penstock import Client
from penstock.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PenstockError,
    Unauthenticated,
    Unavailable,
)
from penstock.retries import RetryPolicy
from services.common import clients
from services.monitoring.settings import MonitoringSettings

CallError = (PenstockError, OSError)
"""What a call may raise; OSError where a file of ours can't be read."""

TIMEOUT_S = 5.0
"""Of a call with its retries: a person waits for a lineage, and what is not answered in time is said to be missing."""

_REFUSALS = (InvalidArgument, NotFound, FailedPrecondition)
_OWN_TROUBLE = frozenset({"BROKEN_TOKEN_FILE", "BROKEN_TLS_FILES"})


def is_refusal(error: Exception) -> bool:
    """Whether the other side said no for good. All else may pass, also that our own files are broken."""
    return isinstance(error, _REFUSALS) and error.reason not in _OWN_TROUBLE


def is_outage(error: Exception) -> bool:
    """Whether any other call would only meet the same: nothing answers, or not to this key."""
    return isinstance(error, (Unavailable, Unauthenticated, OSError)) or (
        isinstance(error, PenstockError) and error.reason in _OWN_TROUBLE
    )


def sentence_of(error: Exception) -> str:
    """Say what went wrong, and its reason where it has one."""
    return f"{error.message} ({error.reason})" if isinstance(error, PenstockError) else str(error)


def client_of(settings: MonitoringSettings) -> Client:
    """Make a client with this service's own key and certificates; nothing connects before its first call."""
    return clients.client_of(
        settings,
        registry=settings.registry_address,
        trainer=settings.trainer_address,
        timeout_s=TIMEOUT_S,
        retry=RetryPolicy(attempts=2),
    )
