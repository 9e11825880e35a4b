"""Segments of a spool that a crash tore, or that somebody damaged or deleted."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from services.inference.events.segments import cut_torn_tail, encode_record
from tests.spool import (
    Opener,
    Receiver,
    encode,
    events,
    lines,
    open_spool,
    receiver,
    segments,
)

__all__ = ["open_spool", "receiver"]


def left_behind(folder: Path, *contents: bytes) -> list[Path]:
    """Write segments as a dead worker may have left them."""
    slot = folder / "slot-000"
    slot.mkdir(parents=True)
    paths = [slot / f"{number:016d}.seg" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


A, B, C = (encode_record(encode(number)) for number in (1, 2, 3))


@pytest.mark.parametrize("torn_bytes", range(1, len(B)))
def test_a_tail_torn_anywhere_is_cut_off(tmp_path: Path, torn_bytes: int) -> None:
    (path,) = left_behind(tmp_path, A + B[:torn_bytes])
    assert cut_torn_tail(path) == torn_bytes
    assert path.read_bytes() == A
    assert cut_torn_tail(path) == 0


def test_after_a_torn_tail_everything_whole_is_delivered(
    open_spool: Opener, receiver: Receiver, tmp_path: Path
) -> None:
    left_behind(tmp_path, b"", A, B + C[:-1])
    spool = open_spool()
    spool.append(4)
    assert spool.close(60)
    assert receiver.stored == events(1, 2, 4)
    assert spool.status.delivery.corrupt == 0
    assert segments(tmp_path) == []


@pytest.mark.parametrize(
    "damaged",
    [B[:-1] + b"!", b"\0" * len(B), B[:4] + b"\xff\xff\xff\x7f" + B[8:], B[:5] + b"\1" + B[6:]],
    ids=["payload", "zeros", "length", "small length"],
)
def test_a_corrupt_record_in_the_middle_goes_to_quarantine_alone(
    open_spool: Opener, receiver: Receiver, tmp_path: Path, damaged: bytes
) -> None:
    left_behind(tmp_path, A + damaged + C)
    spool = open_spool()
    assert spool.close(60)
    assert receiver.stored == events(1, 3)
    (letter,) = lines(tmp_path, "quarantine.jsonl")
    assert base64.b64decode(letter["record"]) == damaged
    assert letter["reason"] == f"0000000000000000.seg at {len(A)}"
    assert spool.status.delivery.corrupt == 1


def test_a_segment_torn_before_the_last_is_quarantined_not_forgotten(
    open_spool: Opener, receiver: Receiver, tmp_path: Path
) -> None:
    left_behind(tmp_path, A[:-1], B)
    assert open_spool().close(60)
    assert receiver.stored == events(2)
    assert len(lines(tmp_path, "quarantine.jsonl")) == 1


def test_a_segment_that_somebody_deletes_stops_nothing(open_spool: Opener, receiver: Receiver, tmp_path: Path) -> None:
    receiver.up.clear()
    spool = open_spool(segment_bytes=20)
    for number in range(5):
        spool.append(number)
        assert spool.flush(60)
    segments(tmp_path)[2].unlink()
    receiver.up.set()
    assert spool.close(60)
    assert receiver.stored == events(0, 1, 3, 4)
