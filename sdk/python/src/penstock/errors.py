"""What goes wrong, as typed exceptions: one class per canonical gRPC code, and a stable `reason` to test for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from penstock.api.status.v1.status_pb2 import BadRequest, ErrorInfo, RetryInfo, Status

if TYPE_CHECKING:
    from penstock.api.registry.v1.registry_pb2 import ModelVersion

DETAILS_KEY = "grpc-status-details-bin"
Detail = TypeVar("Detail", ErrorInfo, BadRequest, RetryInfo)


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field of a request: its path, and what came and what is allowed."""

    field: str
    description: str


class PenstockError(Exception):
    """A call failed. The subclass says how; `reason` says exactly why, and stays the same between releases.

    Attributes:
        code: the canonical gRPC code.
        message: a sentence for people that says what to do.
        reason: UPPER_SNAKE_CASE; the code's name where the server gave no reason.
        retryable: the same call may succeed later. Whether it is *safe* to repeat, `penstock.retries` knows.
        metadata: what else the reason's documentation names.
        violations: the bad fields of the request, with INVALID_ARGUMENT.
        retry_after_s: the least time to wait before the next try, in seconds; None where the server named none.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        retryable: bool = False,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.code.name
        self.retryable = retryable
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s


class InvalidArgument(PenstockError):
    """The request is malformed whatever the state of the system; `violations` names each bad field."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(PenstockError):
    """What the request names does not exist."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(PenstockError):
    """What the request would create exists; the existing one is untouched."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(PenstockError):
    """The system is not in the state that the request needs; trying again alone won't help."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class ValidationFailed(FailedPrecondition):
    """The registry refused the version's files; `reason` is the version's, and `version` the version, FAILED."""

    def __init__(self, version: ModelVersion) -> None:
        super().__init__(
            f"{version.model} {version.version} failed validation: {version.failure_message}",
            reason=version.failure_reason,
        )
        self.version = version

    def __reduce__(self) -> tuple[type[ValidationFailed], tuple[ModelVersion]]:
        return type(self), (self.version,)


class Aborted(PenstockError):
    """Another caller won a race; read the state again and decide anew."""

    code = grpc.StatusCode.ABORTED


class OutOfRange(PenstockError):
    """The position asked for is no longer, or not yet, there."""

    code = grpc.StatusCode.OUT_OF_RANGE


class ResourceExhausted(PenstockError):
    """A limit or quota is reached."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unauthenticated(PenstockError):
    """No token came, or an unknown one."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(PenstockError):
    """The caller is known, and its role does not allow this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Unavailable(PenstockError):
    """The service, or something that it stands on, can't be reached; the same call may succeed later."""

    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(PenstockError):
    """The time allowed ran out. Whether the server did the work is not known."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(PenstockError):
    """The call was given up by this side."""

    code = grpc.StatusCode.CANCELLED


class DataLoss(PenstockError):
    """Bytes do not match their digest."""

    code = grpc.StatusCode.DATA_LOSS


class Internal(PenstockError):
    """A defect of the server; the message bears the id under which its log has the cause."""

    code = grpc.StatusCode.INTERNAL


class Unimplemented(PenstockError):
    """The server does not do that: it is another service, or an older one."""

    code = grpc.StatusCode.UNIMPLEMENTED


CLASSES: dict[grpc.StatusCode, type[PenstockError]] = {
    cls.code: cls
    for cls in (
        InvalidArgument, NotFound, AlreadyExists, FailedPrecondition, Aborted, OutOfRange, ResourceExhausted,
        Unauthenticated, PermissionDenied, Unavailable, DeadlineExceeded, Cancelled, DataLoss, Internal, Unimplemented,
    )
}  # fmt: skip


def from_rpc(error: grpc.RpcError, *, rpc: str, target: str, tls: bool = False) -> PenstockError:
    """Make the typed error of a failed call.

    Args:
        error: what grpc raised, at the call or while its stream was read.
        rpc: the RPC's name, for the sentence.
        target: the server's address, for the sentence.
        tls: whether TLS is spoken to it, for the sentence.
    """
    code = error.code()
    details = error.details() or ""
    mapped = _with_details(code, error) or CLASSES.get(code, PenstockError)(
        _sentence(code, details, rpc=rpc, target=target, tls=tls),
        reason="TLS_FAILED" if code is grpc.StatusCode.UNAVAILABLE and _tls_trouble(details) else "",
        retryable=code is grpc.StatusCode.UNAVAILABLE,
    )
    mapped.__cause__ = error
    return mapped


def _with_details(code: grpc.StatusCode, error: grpc.RpcError) -> PenstockError | None:
    """Read the details that a Penstock server sends along; None where none came or they are of another kind."""
    # Typed as objects, each is in truth a pair.
    metadata: Iterable[tuple[str, bytes]] = error.trailing_metadata() or ()  # type: ignore[assignment]
    raw = dict(metadata).get(DETAILS_KEY)
    if raw is None:
        return None
    try:
        return _of_details(code, error.details() or "", Status.FromString(raw).details)
    except DecodeError:
        return None


def from_status(status: Status) -> PenstockError:
    """Make the typed error of what failed within a call that goes on, such as one request of a stream."""
    code = next((code for code in grpc.StatusCode if code.value[0] == status.code), grpc.StatusCode.UNKNOWN)
    try:
        known = _of_details(code, status.message, status.details)
    except DecodeError:
        known = None
    return known or CLASSES.get(code, PenstockError)(status.message)


def _of_details(code: grpc.StatusCode, message: str, details: Sequence[Any]) -> PenstockError | None:
    """Read the details; None where there is no ErrorInfo, raises DecodeError where they are none of ours."""
    info = _find(details, ErrorInfo)
    bad_request = _find(details, BadRequest) or BadRequest()
    retry_info = _find(details, RetryInfo)
    if info is None:
        return None
    return CLASSES.get(code, PenstockError)(
        message,
        reason=info.reason,
        retryable=info.metadata.get("retryable") == "true",
        metadata={key: value for key, value in info.metadata.items() if key != "retryable"},
        violations=[FieldViolation(each.field, each.description) for each in bad_request.field_violations],
        retry_after_s=None if retry_info is None else retry_info.retry_delay.ToNanoseconds() / 1e9,
    )


def _find(details: Sequence[Any], kind: type[Detail]) -> Detail | None:
    # The URL says google.rpc, our descriptors say penstock.api.status.v1: Any.Unpack would refuse the very same bytes.
    name = f"google.rpc.{kind.__name__}"
    found = next((detail for detail in details if detail.type_url.rpartition("/")[2] == name), None)
    return None if found is None else kind.FromString(found.value)


def _sentence(code: grpc.StatusCode, details: str, *, rpc: str, target: str, tls: bool) -> str:
    if code is grpc.StatusCode.UNAVAILABLE and (trouble := _tls_trouble(details)):
        return f"no TLS connection with {target}: {trouble} ({details})"
    if code is grpc.StatusCode.UNAVAILABLE and tls:
        # Under TLS 1.3 a server that refuses a certificate just hangs up.
        return f"no answer from {target}: {details}; does it run there, and take this client's certificate?"
    if code is grpc.StatusCode.UNAVAILABLE and details.startswith("failed to connect") and "Socket closed" in details:
        return f"{target} hung up at once: it may speak TLS; write grpcs:// before the address ({details})"
    if code is grpc.StatusCode.UNAVAILABLE:
        return f"no answer from {target}: {details}; is it running, and is the address right?"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{target} did not answer {rpc} within the time allowed"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f"{target} does not know {rpc}: it is another service, or an older one"
    return details or f"{rpc} at {target} ended with {code.name}"


_TLS_TROUBLES = (
    ("WRONG_VERSION_NUMBER", "the server speaks plain text there; write grpc:// before the address"),
    ("certificate has expired", "the server's certificate has expired"),
    ("certificate is not yet valid", "the server's certificate is not valid yet"),
    ("Hostname Verification", "the server's certificate is for another name than the address has"),
    ("CERTIFICATE_VERIFY_FAILED", "the server's certificate is signed by none that ca_file vouches for"),
    ("handshake failed", "the TLS handshake failed"),
)


def _tls_trouble(details: str) -> str | None:
    """Say in words what grpc tells of a TLS handshake; None where it tells of none."""
    return next((meaning for sign, meaning in _TLS_TROUBLES if sign in details), None)
