"""The event that every prediction leaves behind: slim always, with its payloads by the version's capture policy."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

from penstock import Client
from penstock import errors as sdk
from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from services.common.errors import InvalidArgument, Unavailable
from services.common.traces import CURRENT
from services.inference.events.delivery import Result, Verdict
from services.inference.events.spool import Spool
from services.inference.models import Caller, CapturePolicy, ResolvedVersion
from services.inference.tensor_protos import add_tensor
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
        self.confidences: Sequence[float] = ()
        self.row_count = 1
        self.latency_ms = 0.0
        self.error_code = ""
        self.trace = CURRENT.get()


def encode(event: Event) -> bytes:
    """Write an event as monitoring takes it."""
    caller, resolved = event.caller, event.resolved
    message = pb.InferenceEvent(
        inference_id=event.inference_id,
        model=event.model,
        version=resolved.version if resolved else "",
        framework=resolved.framework if resolved else "",
        request_id=caller.request_id,
        user_id=caller.user_id,
        session_id=caller.session_id,
        latency_ms=event.latency_ms,
        error_code=event.error_code,
        row_count=event.row_count,
        trace_id=event.trace.trace_id,
    )
    if event.confidences:
        message.confidence = sum(event.confidences) / len(event.confidences)
    if resolved is not None and captured(event.inference_id, resolved.capture):
        _attach(message, event, resolved.capture.max_bytes)
    return message.SerializeToString()


def captured(inference_id: str, policy: CapturePolicy) -> bool:
    """Whether an inference's payloads are kept: the same answer for the same id, wherever it is asked."""
    if policy.disabled:
        return False
    return policy.share >= 1 or zlib.crc32(inference_id.encode()) < policy.share * 2**32


def _attach(message: pb.InferenceEvent, event: Event, max_bytes: int) -> None:
    for payload, tensors in ((message.features, event.inputs), (message.prediction, event.outputs)):
        for name, array in tensors.items():
            add_tensor(payload.tensors.tensors, name, array)
    sizes = message.features.ByteSize(), message.prediction.ByteSize()
    if sum(sizes) > max_bytes or max(sizes) > MAX_PAYLOAD_BYTES:
        message.ClearField("features")
        message.ClearField("prediction")


def _weight(event: Event) -> int:
    """Weigh the tensors, in bytes, before anything is written."""
    weight = 0
    for tensors in (event.inputs, event.outputs):
        for array in tensors.values():
            weight += array.nbytes
            if array.dtype.hasobject:
                weight += sum(map(len, array.flat))
    return weight


class EventLog:
    """Takes the events of this process into the spool."""

    def __init__(self, spool: Spool[Event] | None) -> None:
        self._spool = spool

    def record(self, event: Event) -> None:
        """Take an event; about a microsecond, unless the spool is full and told to wait."""
        if self._spool is None:
            return
        # Tensors that will not be kept must not wait in the queue: while the disk is full it holds thousands.
        policy = event.resolved.capture if event.resolved else None
        if policy is not None and (policy.disabled or _weight(event) > min(policy.max_bytes, 2 * MAX_PAYLOAD_BYTES)):
            event.inputs = event.outputs = {}
        self._spool.append(event)


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
        events = [pb.InferenceEvent.FromString(record) for record in batch]
        try:
            results = list(self._client.monitoring.record_events(events))
        except sdk.InvalidArgument as error:
            raise InvalidArgument(error.message, reason=error.reason) from error
        except sdk.PenstockError as error:
            raise Unavailable(f"monitoring did not answer: {error}", reason=error.reason or "UNAVAILABLE") from error
        return [Result(_VERDICTS[result.outcome], result.reason) for result in results]


_VERDICTS = {
    pb.EVENT_OUTCOME_STORED: Verdict.STORED,
    pb.EVENT_OUTCOME_DUPLICATE: Verdict.DUPLICATE,
    pb.EVENT_OUTCOME_REJECTED: Verdict.REJECTED,
}
