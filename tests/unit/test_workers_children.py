"""The supervisor's children: how the follower speaks to it, and what happens where none can be started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from penstock.api.registry.v1.registry_pb2 import ModelVersion, WatchModelsResponse
from services.inference.settings import InferenceSettings
from services.inference.workers import follower
from services.inference.workers.exchange import News
from services.inference.workers.follower import PART_BYTES, Relay
from services.inference.workers.supervisor import Supervisor
from services.inference.workers.wires import Frame, Kind, Unpacker, Wire


class RecordedWire(Wire):
    """A follower's end of a wire, which keeps what is sent."""

    def __init__(self) -> None:
        self.frames_sent: list[Frame] = []

    def send(self, frame: bytes) -> None:
        self.frames_sent += Unpacker().feed(frame)


def version(name: int, size_bytes: int) -> ModelVersion:
    """A version whose warm-up request is so large."""
    made = ModelVersion(model="m", version=str(name))
    made.serving_settings.warm_up.add().tensors.add(raw=bytes(size_bytes))
    return made


@pytest.mark.parametrize("sizes", [[], [10] * 5_000, [2**20] * 9, [5, PART_BYTES + 1, 5]])
def test_a_snapshot_goes_in_frames_of_a_bounded_size_and_comes_whole(sizes: list[int]) -> None:
    wire, news = RecordedWire(), News()
    sent = [version(number, size_bytes) for number, size_bytes in enumerate(sizes)]
    Relay(wire).replace(iter(sent))
    heard = [frame for said in wire.frames_sent for frame in news.take(said)]
    parts = [WatchModelsResponse.FromString(payload) for _, payload in heard]
    assert [each for part in parts for each in part.snapshot.versions] == sent
    assert [part.snapshot.complete for part in parts] == [False] * (len(parts) - 1) + [True]
    slack_bytes = 64 * 1024  # each version's own frame inside the message
    for part, (_, payload) in zip(parts, heard, strict=True):
        assert len(payload) <= PART_BYTES + slack_bytes or len(part.snapshot.versions) == 1
    assert {kind for kind, _ in heard[:-1]} <= {Kind.SNAPSHOT_PART}


def test_all_that_is_there_is_said_again_in_as_bounded_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "CHANGES_BETWEEN_BASES", 1)
    wire = RecordedWire()
    Relay(wire).update(WatchModelsResponse(), [version(number, 2**20) for number in range(5)])
    assert [kind for kind, _ in wire.frames_sent] == [Kind.CHANGE, Kind.BASE_PART, Kind.BASE_PART, Kind.BASE]


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    made = Supervisor(InferenceSettings(port=0, metrics_port=0), [], 2)
    made.open()
    yield made
    made.close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_child_that_cannot_be_started_is_tried_again_later_and_later(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise BlockingIOError(11, os.strerror(11))

    monkeypatch.setattr("services.inference.workers.children.subprocess.Popen", refuse)
    monkeypatch.setattr("services.inference.workers.supervisor.time.monotonic", lambda: 1_000.0)
    before = descriptors()
    pauses = []
    for _ in range(9):
        supervisor._start_due()
        pauses.append({slot.due - 1_000.0 for slot in supervisor._slots})
        for slot in supervisor._slots:
            assert slot.child is None
            slot.due = 0.0
    assert [round(pause, 3) for (pause,) in pauses] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert descriptors() == before
