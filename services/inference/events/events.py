"""The event that every prediction leaves behind: slim always, with its payloads by the version's capture policy."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from penstock import Client
from penstock import errors as sdk
from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from services.common.errors import InvalidArgument, Unavailable
from services.common.traces import CURRENT
from services.inference.events.delivery import Result, Verdict
from services.inference.models import Caller, CapturePolicy, Lookup, ResolvedVersion
from services.inference.tensors import Tensor

MAX_PAYLOAD_BYTES = 2**20
"""What monitoring takes of either payload, whatever the policy says; it would refuse the whole event for more."""


class Event:
    """What is known of a prediction. Filled in on the hot path, written out by the spool's own thread."""

    __slots__ = (
        "caller",
        "confidences",
        "error_code",
        "inference_id",
        "inputs",
        "latency_ms",
        "lookup",
        "model",
        "outputs",
        "resolved",
        "row_count",
        "trace",
    )

    def __init__(self, inference_id: str, model: str, caller: Caller) -> None:
        self.inference_id = inference_id
        self.model = model
        self.caller = caller
        self.resolved: ResolvedVersion | None = None
        self.inputs: Mapping[str, Tensor] = {}
        self.outputs: Mapping[str, Tensor] = {}
        self.lookup: Lookup | None = None
        self.confidences: Sequence[float] = ()
        self.row_count = 1
        self.latency_ms = 0.0
        self.error_code = ""
        self.trace = CURRENT.get()


def captured(inference_id: str, policy: CapturePolicy) -> bool:
    """Whether an inference's payloads are kept: the same answer for the same id, wherever it is asked."""
    if policy.disabled:
        return False
    return policy.share >= 1 or zlib.crc32(inference_id.encode()) < policy.share * 2**32


class EventQueue(Protocol):
    """Where events wait to be told: the spool, or what stands before it."""

    def append(self, item: Event, /) -> object:
        """Take an event."""


class EventLog:
    """Takes the events of this process into the spool."""

    def __init__(self, spool: EventQueue | None) -> None:
        self._spool = spool

    def record(self, event: Event) -> None:
        """Take an event, unless it is to leave none; about a microsecond, unless the spool is full and told to wait."""
        spool = self._spool
        if spool is None or event.caller.unrecorded:
            return
        resolved = event.resolved
        # Tensors that will not be kept must not wait in the queue: while the disk is full it holds thousands.
        if resolved is not None and not _small_enough(event, resolved.capture):
            event.inputs = event.outputs = {}
        spool.append(event)


def _small_enough(event: Event, policy: CapturePolicy) -> bool:
    """Weigh the tensors before anything is written."""
    return not policy.disabled and payload_bytes(event) <= min(policy.max_bytes, 2 * MAX_PAYLOAD_BYTES)


def payload_bytes(event: Event) -> int:
    """Say what an event's tensors take, the texts in them counted."""
    size = 0
    for tensors in (event.inputs, event.outputs):
        for array in tensors.values():
            size += array.nbytes
            if array.dtype.hasobject:
                size += sum(map(len, array.flat))
    return size


class MonitoringSender:
    """Hands batches of written events to monitoring, and its answers back to the spool."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __call__(self, batch: list[bytes]) -> Sequence[Result]:
        """Send a batch.

        Raises:
            InvalidArgument: monitoring refuses the batch itself: to send it again would help nobody.
            Unavailable: it was not answered, whatever the cause.
        """
        try:
            (answer,) = self._client.monitoring.record_encoded([batch])
        except sdk.InvalidArgument as error:
            raise InvalidArgument(error.message, reason=error.reason) from error
        except sdk.PenstockError as error:
            raise Unavailable(f"monitoring did not answer: {error}", reason=error.reason or "UNAVAILABLE") from error
        # Nearly all are stored, and such results are all alike.
        return [
            _STORED if (outcome := result.outcome) == _IS_STORED else Result(_VERDICTS[outcome], result.reason)
            for result in answer.results
        ]


_IS_STORED = pb.EVENT_OUTCOME_STORED
_STORED = Result(Verdict.STORED)
_VERDICTS = {
    pb.EVENT_OUTCOME_STORED: Verdict.STORED,
    pb.EVENT_OUTCOME_DUPLICATE: Verdict.DUPLICATE,
    pb.EVENT_OUTCOME_REJECTED: Verdict.REJECTED,
}
