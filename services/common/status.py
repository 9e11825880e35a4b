"""Domain errors as gRPC statuses: one table, by the error's most specific class."""

from __future__ import annotations

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from penstock.api.status.v1.status_pb2 import BadRequest, ErrorInfo, RetryInfo, Status
from services.common import errors

DETAILS_KEY = "grpc-status-details-bin"
MAX_VIOLATIONS = 100
# Trailing metadata is bounded (8 KiB by default in gRPC); a sentence that quotes a request must not burst it.
MAX_MESSAGE_CHARS = 2_000

CODES: dict[type[errors.DomainError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.DataLoss: grpc.StatusCode.DATA_LOSS,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.Internal: grpc.StatusCode.INTERNAL,
    errors.DomainError: grpc.StatusCode.UNKNOWN,
}


def code_of(error: errors.DomainError) -> grpc.StatusCode:
    """Find the code of an error, by its class or the nearest one above it."""
    return next(CODES[cls] for cls in type(error).__mro__ if cls in CODES)


def details_of(error: errors.DomainError) -> bytes:
    """Encode the error's details as a google.rpc.Status, for the trailing metadata."""
    info = ErrorInfo(
        reason=error.reason,
        domain="penstock",
        metadata={**error.metadata, "retryable": "true" if error.retryable else "false"},
    )
    parts: list[Message] = [info]
    if isinstance(error, errors.InvalidArgument) and error.violations:
        parts.append(
            BadRequest(
                field_violations=[
                    BadRequest.FieldViolation(field=violation.field, description=violation.description[:500])
                    for violation in error.violations[:MAX_VIOLATIONS]
                ]
            )
        )
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        parts.append(RetryInfo(retry_delay=delay))
    return Status(
        code=code_of(error).value[0], message=sentence_of(error), details=[_pack(part) for part in parts]
    ).SerializeToString()


def sentence_of(error: errors.DomainError) -> str:
    """Cut the error's message to what the wire bears."""
    return error.message[:MAX_MESSAGE_CHARS]


def _pack(message: Message) -> Any:
    # The URL names google.rpc, which the bytes are: clients that know those types then read them.
    return Any(
        type_url=f"type.googleapis.com/google.rpc.{message.DESCRIPTOR.name}",
        value=message.SerializeToString(),
    )
