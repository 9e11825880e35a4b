"""Domain errors as gRPC statuses: one table, by the error's most specific class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NoReturn

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from penstock.api.status.v1.status_pb2 import BadRequest, ErrorInfo, RetryInfo, Status
from services.common import errors

DETAILS_KEY = "grpc-status-details-bin"
# Trailing metadata is bounded (8 KiB by default in gRPC), and what quotes a request must not burst it: the client
# would read RESOURCE_EXHAUSTED and no reason. The sentence goes out twice, once with three bytes for an odd one.
MAX_MESSAGE_BYTES = 1_000
MAX_VIOLATIONS_BYTES = 2_000
MAX_FIELD_BYTES = 200
MAX_DESCRIPTION_BYTES = 500

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
    return status_of(error).SerializeToString()


def status_of(error: errors.DomainError) -> Status:
    """Write an error with its details, for an answer that holds errors of its parts."""
    info = ErrorInfo(
        reason=error.reason,
        domain="penstock",
        metadata={**error.metadata, "retryable": "true" if error.retryable else "false"},
    )
    parts: list[Message] = [info]
    if isinstance(error, errors.InvalidArgument) and error.violations:
        parts.append(BadRequest(field_violations=_fitting(error.violations)))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        parts.append(RetryInfo(retry_delay=delay))
    return Status(code=code_of(error).value[0], message=sentence_of(error), details=[_pack(part) for part in parts])


def sentence_of(error: errors.DomainError) -> str:
    """Cut the error's message to what the wire bears."""
    return _cut(error.message, MAX_MESSAGE_BYTES)


def set_status(context: grpc.ServicerContext, error: errors.DomainError) -> None:
    """Put an error where grpc takes a call's status from."""
    context.set_code(code_of(error))
    context.set_details(sentence_of(error))
    context.set_trailing_metadata(((DETAILS_KEY, details_of(error)),))


def abort(context: grpc.ServicerContext, error: errors.DomainError) -> NoReturn:
    """End a call with an error."""
    context.set_trailing_metadata(((DETAILS_KEY, details_of(error)),))
    context.abort(code_of(error), sentence_of(error))


def _fitting(violations: Iterable[errors.FieldViolation]) -> Iterator[BadRequest.FieldViolation]:
    """Encode as many violations as fit; the first always does."""
    room_bytes = MAX_VIOLATIONS_BYTES
    for violation in violations:
        encoded = BadRequest.FieldViolation(
            field=_cut(violation.field, MAX_FIELD_BYTES),
            description=_cut(violation.description, MAX_DESCRIPTION_BYTES),
        )
        room_bytes -= encoded.ByteSize()
        if room_bytes < 0:
            return
        yield encoded


def _cut(text: str, most_bytes: int) -> str:
    if len(text) <= most_bytes // 4:  # no character has more than four
        return text
    return text.encode()[:most_bytes].decode(errors="ignore")


def _pack(message: Message) -> Any:
    # The URL names google.rpc, which the bytes are: clients that know those types then read them.
    return Any(
        type_url=f"type.googleapis.com/google.rpc.{message.DESCRIPTOR.name}",
        value=message.SerializeToString(),
    )
