"""Events written by hand are what protobuf writes, byte for byte."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.api.features.v1.feature_lookups_pb2 import FeatureLookup
from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.ids import uuid7
from penstock.monitoring import _request
from services.common.traces import Trace
from services.inference.events.encoding import EventEncoder, encode
from services.inference.events.events import MAX_PAYLOAD_BYTES, Event, captured
from services.inference.models import ArtifactFile, Caller, CapturePolicy, Lookup, ResolvedVersion, Signature
from services.inference.tensor_protos import add_tensor
from services.inference.tensors import Tensor

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 130]), max_size=3).map(tuple)
DTYPES = st.sampled_from(
    ["?", "u1", "<u2", "<u4", "<u8", "i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8", "O", "S3", "bf16"]
)


def tensor_of(dtype: str, shape: tuple[int, ...]) -> Tensor:
    if dtype == "O":
        return np.full(shape, "gruß", object)
    made = np.arange(int(np.prod(shape))).reshape(shape)
    return made.astype(ml_dtypes.bfloat16 if dtype == "bf16" else dtype)


TENSORS = st.dictionaries(TEXTS, st.builds(tensor_of, DTYPES, SHAPES), max_size=3)
POLICIES = st.builds(
    CapturePolicy,
    disabled=st.booleans(),
    share=st.sampled_from([0.0, 0.5, 1.0]),
    max_bytes=st.sampled_from([0, 60, 300, 65_536]),
)


LOOKUPS = st.builds(
    Lookup,
    TEXTS,
    st.integers(0, 2**31 - 1),
    st.lists(TEXTS, max_size=2).map(tuple),
    st.lists(TEXTS, max_size=3).map(tuple),
    st.lists(st.integers(0, 2**62), max_size=3).map(tuple),
    st.integers(0, 2**31),
)


class Traced(Trace):
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"


@st.composite
def events(draw: st.DrawFn) -> Event:
    event = Event(uuid7(), draw(TEXTS), Caller(draw(TEXTS), draw(TEXTS), draw(TEXTS)))
    if draw(st.booleans()):
        file = ArtifactFile("m", draw(st.sampled_from(["aa", "bb"])), 1)
        name = draw(st.one_of(st.just(event.model), TEXTS))
        event.resolved = ResolvedVersion(
            name, draw(TEXTS), 1, "onnx", "production", Signature((), ()), (file,), capture=draw(POLICIES)
        )
    event.inputs, event.outputs = draw(TENSORS), draw(TENSORS)
    event.confidences = draw(st.lists(st.floats(0, 1), max_size=3))
    event.latency_ms = draw(st.one_of(st.sampled_from([0.0, -0.0]), st.floats(0, 1e9)))
    event.error_code = draw(st.sampled_from(["", "MODEL_FAILED"]))
    event.row_count = draw(st.one_of(st.sampled_from([0, 1, 127, 128]), st.integers(0, 2**31 - 1)))
    if draw(st.booleans()):
        event.trace = Traced()
    event.lookup = draw(st.one_of(st.none(), LOOKUPS))
    return event


def message_of(event: Event) -> pb.InferenceEvent:
    caller, resolved = event.caller, event.resolved
    message = pb.InferenceEvent(
        inference_id=event.inference_id,
        model=event.model,
        version=resolved.version if resolved else "",
        framework=resolved.framework if resolved else "",
        request_id=caller.request_id,
        user_id=caller.user_id,
        session_id=caller.session_id,
        confidence=sum(event.confidences) / len(event.confidences) if event.confidences else None,
        latency_ms=event.latency_ms,
        error_code=event.error_code,
        row_count=event.row_count,
        trace_id=event.trace.trace_id,
    )
    if resolved is not None and captured(event.inference_id, resolved.capture):
        for payload, tensors in ((message.features, event.inputs), (message.prediction, event.outputs)):
            for name, tensor in tensors.items():
                add_tensor(payload.tensors.tensors, name, tensor)
        if event.lookup is not None:
            fields = ("view", "version", "names", "keys", "event_times_us", "substituted_count")
            message.features.lookup.CopyFrom(FeatureLookup(**{name: getattr(event.lookup, name) for name in fields}))
        sizes = message.features.ByteSize(), message.prediction.ByteSize()
        if sum(sizes) > resolved.capture.max_bytes or max(sizes) > MAX_PAYLOAD_BYTES:
            message.ClearField("features")
            message.ClearField("prediction")
    return message


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(events())
def test_an_event_is_what_protobuf_writes(event: Event) -> None:
    expected = message_of(event).SerializeToString()
    assert encode(event) == expected
    assert encode(event) == expected, "and once more, of what was worked out before"


@given(st.lists(events(), max_size=4), st.integers(1, 2**40))
@settings(max_examples=25, deadline=None)
def test_a_batch_is_what_protobuf_writes(batch: list[Event], batch_id: int) -> None:
    whole = pb.RecordEventsRequest(batch_id=batch_id, events=map(message_of, batch))
    assert _request(batch_id, [encode(event) for event in batch]) == whole.SerializeToString()


def test_a_payload_of_any_length_has_the_right_lengths_before_it() -> None:
    for count in (1, 30, 31, 32, 126, 127, 128, 4_000, 4_096, 16_000, 16_384, 70_000):
        event = Event(uuid7(), "m", Caller())
        policy = CapturePolicy(max_bytes=MAX_PAYLOAD_BYTES)
        event.resolved = ResolvedVersion("m", "1", 1, "onnx", "", Signature((), ()), capture=policy)
        event.inputs, event.outputs = {"x": np.zeros(count, np.uint8)}, {"y": np.zeros((count, 1), np.float32)}
        assert encode(event) == message_of(event).SerializeToString()


def test_a_policy_that_changed_holds_from_the_next_event_on() -> None:
    encoder = EventEncoder()
    event = Event(uuid7(), "m", Caller())
    event.inputs = {"x": np.zeros(100, np.float32)}
    sizes = []
    for max_bytes in (65_536, 100, 65_536):
        policy = CapturePolicy(max_bytes=max_bytes)
        event.resolved = ResolvedVersion("m", "1", 1, "onnx", "", Signature((), ()), capture=policy)
        sizes.append(len(encoder.encode(event)))
    assert sizes[0] == sizes[2] > 400 > sizes[1]


def test_what_no_message_can_hold_is_refused_as_protobuf_does() -> None:
    event = Event(uuid7(), "half a pair: \ud800", Caller())
    with pytest.raises(UnicodeEncodeError):
        encode(event)
