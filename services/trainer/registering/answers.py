"""What the registry answers, told from its silence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from penstock.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PenstockError,
    PermissionDenied,
    Unauthenticated,
)
from services.trainer.faults import RegistrationFailed, RegistryUnavailable

_NO = (InvalidArgument, FailedPrecondition, NotFound, AlreadyExists)
_NO_KEY = (Unauthenticated, PermissionDenied)
_OWN_KEY = frozenset({"BROKEN_TOKEN_FILE", "BROKEN_TLS_FILES", "TOKEN_OVER_INSECURE_CHANNEL"})
"""What this service's own settings keep it from asking by: the SDK says so before anything is sent."""


@contextmanager
def registry_answers() -> Iterator[None]:
    """Raise what the registry answers as a fault of a run.

    Raises:
        RegistrationFailed: it said no, and will again; REGISTRY_UNAUTHORIZED where it does not take the trainer's key.
        RegistryUnavailable: it gave no answer, or none that lasts.
    """
    try:
        yield
    except (PenstockError, OSError) as error:
        if not isinstance(error, PenstockError):
            raise RegistryUnavailable(f"the registry gives no answer: {error}") from error
        said = f"{error.message} ({error.reason})"
        if isinstance(error, _NO_KEY) or error.reason in _OWN_KEY:
            sentence = (
                f"the registry lets this trainer register nothing: {said}; an administrator gives it a key with the "
                "role operator, as PENSTOCK_SERVICE_TOKEN or in the file of PENSTOCK_SERVICE_TOKEN_FILE"
            )
            raise RegistrationFailed(sentence, reason="REGISTRY_UNAUTHORIZED") from error
        if isinstance(error, _NO):
            raise RegistrationFailed(f"the registry refused it: {said}") from error
        raise RegistryUnavailable(f"the registry gives no answer: {said}") from error
