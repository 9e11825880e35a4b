"""What goes wrong with a fetch: each fault says whether trying again may help, and has a stable reason."""

from __future__ import annotations

from services.common.errors import Aborted, FailedPrecondition, NotFound, ResourceExhausted, Unavailable

RETRYABLE = frozenset(
    {
        "NETWORK_ERROR", "RATE_LIMITED", "STORAGE_ERROR", "REGISTRY_UNAVAILABLE", "SOURCE_CHANGED", "WORKER_LOST",
        "DATABASE_UNAVAILABLE", "DATABASE_TIMEOUT", "LOCK_TIMEOUT", "TRANSACTION_CONFLICT",
    }
)  # fmt: skip
"""Reasons of which the same again may help."""


class NetworkError(Unavailable):
    """The source could not be reached, broke off, or is out of order. Tried again."""

    default_reason = "NETWORK_ERROR"


class RateLimited(ResourceExhausted):
    """The source asks for patience. Tried again, not before `retry_after_s`."""

    default_reason = "RATE_LIMITED"


class HostBusy(RateLimited):
    """The source was not even asked: it wanted patience before, or its turn does not come soon. Costs no attempt."""


class StorageError(Unavailable):
    """The blob store does not keep or give what is fetched. Tried again."""

    default_reason = "STORAGE_ERROR"


class SourceChanged(Aborted):
    """What is fetched became another while it was read: begun anew."""

    default_reason = "SOURCE_CHANGED"


class RegistryUnavailable(Unavailable):
    """The registry gives no answer. Tried again."""

    default_reason = "REGISTRY_UNAVAILABLE"


class RegistryUnauthorized(FailedPrecondition):
    """The registry does not take this service's key, or not for registering."""

    default_reason = "REGISTRY_UNAUTHORIZED"


class ModelNotFound(NotFound):
    """The source has nothing of this name."""

    default_reason = "MODEL_NOT_FOUND"


class Unauthorized(FailedPrecondition):
    """The source does not give it to this service."""

    default_reason = "UNAUTHORIZED"


class Forbidden(FailedPrecondition):
    """It leads where this service must not go."""

    default_reason = "SECURITY"


class UnsupportedFramework(FailedPrecondition):
    """No runtime serves what lies there."""

    default_reason = "UNSUPPORTED_FRAMEWORK"


class FileTooLarge(FailedPrecondition):
    """A file, or all of them, are larger than allowed."""

    default_reason = "FILE_TOO_LARGE"


class DigestMismatch(FailedPrecondition):
    """The bytes are not those that were announced."""

    default_reason = "DIGEST_MISMATCH"


class RegistrationRefused(FailedPrecondition):
    """The registry does not take what was fetched."""

    default_reason = "REGISTRATION_REFUSED"
