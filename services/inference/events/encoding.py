"""Events as the bytes of their message, `penstock.api.monitoring.v1.InferenceEvent`.

Written by hand, for every prediction passes here: building the message takes three times as long, beside the
predictions and under the same interpreter lock (`benchmarks/events.py`). What is the same in all events of a version
is encoded once, and so is all of a payload but the tensors' own bytes, for each set of shapes. A test holds the result
to be what protobuf writes, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final

from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.wire import sized, varint
from services.inference.events.events import MAX_PAYLOAD_BYTES, Event, captured
from services.inference.lookups.convert import lookup_message
from services.inference.models import Lookup, ResolvedVersion
from services.inference.tensor_protos import DATATYPE_NUMBERS, add_tensor
from services.inference.tensors import Tensor, datatype_of

MAX_VERSIONS: Final = 1_000
MAX_LAYOUTS: Final = 1_000
MAX_ID_CHARS: Final = 36
"""An inference id is a UUID, in digits alone."""
_double = Struct("<Bd").pack
# The tags of InferenceEvent's fields: eight times their number, and how they are written (varint 0, double 1, sized 2).
_ID, _MODEL, _VERSION, _FRAMEWORK = b"\x0a", b"\x12", b"\x1a", b"\x22"
_REQUEST, _USER, _SESSION = b"\x2a", b"\x32", b"\x3a"
_FEATURES, _PREDICTION, _CONFIDENCE, _LATENCY = b"\x42", b"\x4a", 0x51, 0x59
_ERROR, _ROWS, _TRACE = b"\x62", b"\x68", b"\x72"
_SIZES: Final = [varint(size) for size in range(MAX_ID_CHARS + 1)]
_NO_LATENCY: Final = _double(_LATENCY, 0.0)

Layout = tuple[bytes, ...]
"""What stands before each tensor's own bytes, the features' first."""


class EventEncoder:
    """Encodes events; one thread at a time."""

    def __init__(self) -> None:
        self._versions: dict[str, _Version] = {}

    def encode(self, event: Event) -> bytes:
        """Write an event whole, its payloads where `captured` says so."""
        caller, resolved = event.caller, event.resolved
        parts = [_ID + _SIZES[len(event.inference_id)], event.inference_id.encode()]
        version = None if resolved is None else self._version(resolved)
        parts.append(sized(_MODEL, event.model.encode()) if version is None else version.named(event.model))
        if caller.request_id:
            parts.append(sized(_REQUEST, caller.request_id.encode()))
        if caller.user_id:
            parts.append(sized(_USER, caller.user_id.encode()))
        if caller.session_id:
            parts.append(sized(_SESSION, caller.session_id.encode()))
        if version is not None and (version.captures_all or captured(event.inference_id, version.resolved.capture)):
            version.append_payloads(parts, event.inputs, event.outputs, event.lookup)
        confidences = event.confidences
        if confidences:
            parts.append(_double(_CONFIDENCE, sum(confidences) / len(confidences)))
        latency = _double(_LATENCY, event.latency_ms)
        if latency != _NO_LATENCY:
            parts.append(latency)
        if event.error_code:
            parts.append(sized(_ERROR, event.error_code.encode()))
        if event.row_count:
            parts.append(_ROWS + varint(event.row_count))
        trace_id = event.trace.trace_id
        if trace_id:
            parts.append(sized(_TRACE, trace_id.encode()))
        return b"".join(parts)

    def _version(self, resolved: ResolvedVersion) -> _Version:
        version = self._versions.get(resolved.key)
        if version is not None and version.resolved is resolved:
            return version
        if len(self._versions) >= MAX_VERSIONS:
            self._versions.clear()  # versions come and go; what is still asked for is back with its next event
        version = self._versions[resolved.key] = _Version(resolved)
        return version


class _Version:
    """What the events of a version have in common."""

    def __init__(self, resolved: ResolvedVersion) -> None:
        self.resolved = resolved
        self._names = self._named(resolved.model)
        self._max_bytes = resolved.capture.max_bytes
        self.captures_all = not resolved.capture.disabled and resolved.capture.share >= 1
        self._layouts: dict[object, Layout | None] = {}

    def named(self, model: str) -> bytes:
        """Write the fields that name the model, as the caller does, and what answered."""
        return self._names if model == self.resolved.model else self._named(model)

    def _named(self, model: str) -> bytes:
        version, framework = self.resolved.version.encode(), self.resolved.framework.encode()
        return sized(_MODEL, model.encode()) + sized(_VERSION, version) + sized(_FRAMEWORK, framework)

    def append_payloads(
        self, parts: list[bytes], inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], lookup: Lookup | None
    ) -> None:
        """Add both payloads, unless they are larger than the policy and monitoring allow."""
        if lookup is not None:  # its length is not told by the tensors' shapes
            self._append_messages(parts, inputs, outputs, lookup)
            return
        shapes = (
            *[(name, tensor.dtype, tensor.shape) for name, tensor in inputs.items()],
            None,
            *[(name, tensor.dtype, tensor.shape) for name, tensor in outputs.items()],
        )
        try:
            layout = self._layouts[shapes]
        except KeyError:
            layout = self._lay_out(shapes, inputs, outputs)
        if layout is None:
            self._append_messages(parts, inputs, outputs)
        elif layout:
            heads = iter(layout)
            for tensors in (inputs, outputs):
                for tensor in tensors.values():
                    parts.append(next(heads))
                    parts.append(tensor.tobytes())

    def _lay_out(self, shapes: object, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Layout | None:
        """Work out all but the tensors' bytes; empty: too large; None: their length is not told by their shapes."""
        if len(self._layouts) >= MAX_LAYOUTS:
            self._layouts.clear()
        layout: Layout | None = None
        if all(map(_is_plain, (*inputs.values(), *outputs.values()))):
            features, features_bytes = _payload_heads(inputs)
            prediction, prediction_bytes = _payload_heads(outputs)
            fits = self._fit(features_bytes, prediction_bytes)
            layout = _opened(_FEATURES, features, features_bytes) + _opened(_PREDICTION, prediction, prediction_bytes)
            layout = layout if fits else ()
        self._layouts[shapes] = layout
        return layout

    def _append_messages(
        self,
        parts: list[bytes],
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        lookup: Lookup | None = None,
    ) -> None:
        features, prediction = _message(inputs, lookup), _message(outputs)
        if self._fit(len(features), len(prediction)):
            parts += (sized(_FEATURES, features), sized(_PREDICTION, prediction))

    def _fit(self, features_bytes: int, prediction_bytes: int) -> bool:
        whole = features_bytes + prediction_bytes
        return whole <= self._max_bytes and max(features_bytes, prediction_bytes) <= MAX_PAYLOAD_BYTES


def _is_plain(tensor: Tensor) -> bool:
    """Whether `tobytes` is what travels: elements of one size, the lowest byte first."""
    return tensor.dtype.kind not in "OSU" and tensor.dtype.byteorder != ">"


def _payload_heads(tensors: Mapping[str, Tensor]) -> tuple[Layout, int]:
    """Give what stands before each tensor's bytes within a Payload, and the Payload's length in bytes."""
    heads: list[bytes] = []
    for name, tensor in tensors.items():
        shape = b"".join(map(varint, tensor.shape))
        head = sized(b"\x0a", name.encode()) + b"\x10" + varint(DATATYPE_NUMBERS[datatype_of(tensor)])
        head += sized(b"\x1a", shape) + (b"\x22" + varint(tensor.nbytes) if tensor.nbytes else b"")
        heads.append(b"\x0a" + varint(len(head) + tensor.nbytes) + head)
    length = sum(map(len, heads)) + sum(tensor.nbytes for tensor in tensors.values())
    if heads:
        opening = b"\x12" + varint(length)
        heads[0] = opening + heads[0]
        length += len(opening)
    return tuple(heads), length


def _opened(tag: bytes, heads: Layout, length: int) -> Layout:
    return (tag + varint(length) + heads[0], *heads[1:]) if heads else ()


def _message(tensors: Mapping[str, Tensor], lookup: Lookup | None = None) -> bytes:
    payload = pb.Payload(lookup=None if lookup is None else lookup_message(lookup))
    for name, tensor in tensors.items():
        add_tensor(payload.tensors.tensors, name, tensor)
    return payload.SerializeToString()


encode = EventEncoder().encode
"""Writes an event as monitoring takes it; for the spool's writer."""
