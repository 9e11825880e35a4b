"""Events: what is written of a prediction, and what waits in memory until then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from penstock.api.monitoring.v1.monitoring_pb2 import InferenceEvent
from penstock.ids import uuid7
from services.common.errors import InvalidArgument, Unavailable
from services.common.traces import Trace
from services.inference.events.delivery import Result
from services.inference.events.encoding import encode
from services.inference.events.events import Event, EventLog, MonitoringSender, captured
from services.inference.events.spool import Spool
from services.inference.models import Caller, CapturePolicy
from services.inference.tensors import Tensor
from tests.sdk import client_of, fail, scripted_server
from tests.serving import plain_version

X = np.ones((2, 4), np.float32)
TEXT = np.array([[b"t" * 1000]], dtype=object)


def never(_records: list[bytes]) -> Sequence[Result]:
    raise Unavailable("nobody is there")


class _Traced(Trace):
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"


def event(policy: CapturePolicy, tensor: Tensor = X) -> Event:
    made = Event(uuid7(), "iris", Caller("u", "s", "r"))
    made.resolved = replace(plain_version("iris"), capture=policy)
    made.inputs, made.outputs, made.row_count = {"x": tensor}, {"y": tensor}, len(tensor)
    return made


def read(made: Event) -> InferenceEvent:
    return InferenceEvent.FromString(encode(made))


def test_an_event_is_written_whole() -> None:
    made = event(CapturePolicy())
    made.confidences, made.latency_ms = [0.5, 1.0], 1.25
    made.trace = _Traced()
    written = read(made)
    assert (written.inference_id, written.model, written.version) == (made.inference_id, "iris", "1")
    assert (written.user_id, written.session_id, written.request_id) == ("u", "s", "r")
    assert (written.confidence, written.latency_ms, written.row_count) == (0.75, 1.25, 2)
    assert written.trace_id == _Traced.trace_id
    assert written.features.tensors.tensors[0].raw == X.tobytes()
    assert written.prediction.tensors.tensors[0].name == "y"


def test_an_event_that_met_no_version_is_written_too() -> None:
    made = Event(uuid7(), "nowhere", Caller())
    made.error_code = "MODEL_NOT_FOUND"
    written = read(made)
    assert (written.model, written.version, written.error_code) == ("nowhere", "", "MODEL_NOT_FOUND")
    assert not written.HasField("confidence")


def test_a_batch_that_monitoring_refuses_is_no_outage(tmp_path: Path) -> None:
    """Sent again for ever it would keep back every event after it; refused, it is halved until one stands alone."""
    with scripted_server() as server, client_of(server) as client:
        server.on("RecordEvents", fail(InvalidArgument("no", reason="INVALID_BATCH")))
        spool = Spool[Event](tmp_path, encode, MonitoringSender(client))
        spool.open()
        EventLog(spool).record(event(CapturePolicy()))
        assert spool.close(60)
        assert spool.status.delivery.rejected == 1
    assert "INVALID_BATCH" in (tmp_path / "slot-000" / "dead-letters.jsonl").read_text()


def test_a_share_is_kept_by_the_id_alone() -> None:
    ids = [uuid7() for _ in range(2_000)]
    kept = [captured(each, CapturePolicy(share=0.25)) for each in ids]
    assert kept == [captured(each, CapturePolicy(share=0.25)) for each in ids]
    # Binomial: 500 ± 19.4; ten standard deviations are not left by chance.
    assert 306 < sum(kept) < 694
    wider = [captured(each, CapturePolicy(share=0.5)) for each in ids]
    assert all(wide for narrow, wide in zip(kept, wider, strict=True) if narrow), "a wider share holds the narrower one"


@pytest.mark.parametrize("max_bytes", [1, 64, 80])
def test_payloads_over_the_limit_are_left_out_and_the_event_stays(max_bytes: int) -> None:
    written = read(event(CapturePolicy(max_bytes=max_bytes)))
    assert not written.HasField("features")
    assert not written.HasField("prediction")
    assert written.row_count == 2


@pytest.mark.parametrize(
    ("policy", "tensor", "waits"),
    [
        (CapturePolicy(), X, True),
        (CapturePolicy(disabled=True), X, False),
        (CapturePolicy(max_bytes=63), X, False),
        (CapturePolicy(max_bytes=999), TEXT, False),
        (CapturePolicy(max_bytes=2**30), np.ones((2**20, 4), np.float32), False),
    ],
    ids=["kept", "disabled", "large", "long text", "larger than monitoring takes"],
)
def test_only_tensors_that_may_be_kept_wait_in_memory(
    tmp_path: Path, policy: CapturePolicy, tensor: Tensor, waits: bool
) -> None:
    spool = Spool[Event](tmp_path, encode, never)
    spool.open()
    try:
        made = event(policy, tensor)
        EventLog(spool).record(made)
        assert bool(made.inputs) is bool(made.outputs) is waits
        assert spool.flush(60)
        assert spool.status.spooled == 1
    finally:
        spool.close(0)
