"""The errors that use cases raise. They know no transport: `common.status` maps them to gRPC codes.

Each error has a `reason`, which is the stable contract that programs test for, and a sentence for people
that says what to do. A message is shown to clients: it must name nothing that they may not know.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field of a request: its path, and what came and what is allowed."""

    field: str
    description: str


class DomainError(Exception):
    """A failure with a meaning for the caller. Subclasses say which kind; `reason` says which one."""

    default_reason = "UNKNOWN"
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: dict[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = metadata or {}
        self.retry_after_s = retry_after_s


class InvalidArgument(DomainError):
    """The request is malformed whatever the state of the system; `violations` names each bad field."""

    default_reason = "INVALID_ARGUMENT"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        violations: tuple[FieldViolation, ...] = (),
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.violations = violations

    @classmethod
    def field(cls, name: str, description: str, *, reason: str | None = None) -> InvalidArgument:
        """Build the error for one bad field; the message is `name: description`."""
        return cls(f"{name}: {description}", reason=reason, violations=(FieldViolation(name, description),))


class NotFound(DomainError):
    """What the request names does not exist."""

    default_reason = "NOT_FOUND"


class AlreadyExists(DomainError):
    """What the request would create exists; the existing one is untouched."""

    default_reason = "ALREADY_EXISTS"


class FailedPrecondition(DomainError):
    """The system is not in the state that the request needs; trying again alone won't help."""

    default_reason = "FAILED_PRECONDITION"


class Aborted(DomainError):
    """Another caller won a race; read the state again and decide anew."""

    default_reason = "ABORTED"
    retryable = True


class EtagMismatch(Aborted):
    """Somebody changed `what` since it was read. The same request again would only hear the same."""

    default_reason = "ETAG_MISMATCH"
    retryable = False

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} was changed since it was read; read it again and decide anew")


class OutOfRange(DomainError):
    """The position asked for is no longer, or not yet, there."""

    default_reason = "OUT_OF_RANGE"


class ResourceExhausted(DomainError):
    """A limit or quota is reached."""

    default_reason = "RESOURCE_EXHAUSTED"
    retryable = True


class Unauthenticated(DomainError):
    """No credentials came, or unknown ones."""

    default_reason = "UNAUTHENTICATED"


class PermissionDenied(DomainError):
    """The caller is known, and its role does not allow this."""

    default_reason = "PERMISSION_DENIED"


class Unavailable(DomainError):
    """A dependency is down; the same request may succeed later."""

    default_reason = "UNAVAILABLE"
    retryable = True


class DeadlineExceeded(DomainError):
    """The time allowed ran out before the work was done."""

    default_reason = "DEADLINE_EXCEEDED"
    retryable = True


class Cancelled(DomainError):
    """The caller went away; the work was dropped."""

    default_reason = "CANCELLED"


class DataLoss(DomainError):
    """Stored bytes no longer match their digest."""

    default_reason = "DATA_LOSS"


class Unimplemented(DomainError):
    """This server does not do that, and the message says what does."""

    default_reason = "UNIMPLEMENTED"


class Internal(DomainError):
    """The work itself broke, through no fault of the caller's; of an unknown error the interceptor makes one."""

    default_reason = "INTERNAL"
