"""The spool of events: what is flushed reaches the receiver, in order, and what does not is counted."""

from __future__ import annotations

import base64
import itertools
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.inference.events.delivery import Result
from services.inference.events.segments import parse
from services.inference.events.spool import Spool
from tests.serving import wait_until
from tests.spool import (
    QUICK,
    STORED,
    Opener,
    Receiver,
    append_all,
    encode,
    events,
    lines,
    open_spool,
    receiver,
    segments,
)

__all__ = ["open_spool", "receiver"]


def test_events_are_delivered_in_order_and_their_segments_deleted(
    open_spool: Opener, receiver: Receiver, tmp_path: Path
) -> None:
    spool = open_spool(segment_bytes=1000)
    for number in range(1000):
        spool.append(number)
    assert spool.close(60)
    assert receiver.stored == events(*range(1000))
    assert segments(tmp_path) == []
    status = spool.status
    assert (status.queued, status.spooled, status.dropped, status.bytes) == (0, 1000, 0, 0)
    assert (status.delivery.delivered, status.writing, status.delivering) == (1000, "", "")


def test_events_that_come_one_by_one_after_a_rest_are_delivered_too(open_spool: Opener, receiver: Receiver) -> None:
    spool = open_spool()
    for number in range(5):
        wait_until(lambda: spool._idle)
        spool.append(number)
        wait_until(lambda: len(receiver.stored) == number + 1)  # noqa: B023 - waited for within the turn
    assert spool.status.bytes == 0, "what is answered for takes no room, with the segment still open"


@pytest.mark.parametrize("fsync", ["never", "interval", "always"])
def test_every_fsync_policy_keeps_what_was_flushed(
    open_spool: Opener, receiver: Receiver, tmp_path: Path, fsync: str
) -> None:
    receiver.up.clear()
    spool = open_spool(fsync=fsync, fsync_interval_s=0.01)
    spool.append(1)
    assert spool.flush(60)
    assert parse(segments(tmp_path)[0].read_bytes()).records == events(1)
    wait_until(lambda: fsync == "never" or not spool._dirty)


def test_an_outage_of_the_receiver_loses_nothing_and_keeps_the_order(open_spool: Opener, receiver: Receiver) -> None:
    spool = open_spool()
    receiver.up.clear()
    for number in range(300):
        spool.append(number)
    wait_until(lambda: spool.status.delivery.failed_calls >= 3)
    assert spool.status.delivering == "monitoring is down"
    receiver.up.set()
    wait_until(lambda: len(receiver.stored) == 300)
    assert receiver.stored == events(*range(300))
    wait_until(lambda: spool.status.delivering == "")


def test_a_receiver_that_breaks_in_its_own_way_is_asked_again(open_spool: Opener, receiver: Receiver) -> None:
    spool = open_spool()
    receiver.failure = ZeroDivisionError("odd")
    receiver.up.clear()
    spool.append(1)
    wait_until(lambda: spool.status.delivering == "odd")
    receiver.up.set()
    wait_until(lambda: receiver.stored == events(1))


def test_too_few_answers_are_no_answer(tmp_path: Path, receiver: Receiver) -> None:
    answers = iter([[], [STORED, STORED]])

    def deliver(batch: list[bytes]) -> list[Result]:
        return next(answers, [STORED] * len(batch))

    spool: Spool[int] = Spool(tmp_path, encode, deliver, QUICK)
    spool.open()
    spool.append(1)
    wait_until(lambda: spool.status.delivery.delivered == 1)
    assert spool.status.delivery.failed_calls == 2
    assert spool.close(60)


def test_rejected_events_go_to_the_dead_letters_with_their_reason(
    open_spool: Opener, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.rejects[encode(1)] = "EVENT_TOO_OLD"
    spool = open_spool()
    for number in range(3):
        spool.append(number)
    assert spool.close(60)
    assert receiver.stored == events(0, 2)
    (letter,) = lines(tmp_path, "dead-letters.jsonl")
    assert letter["reason"] == "EVENT_TOO_OLD"
    assert base64.b64decode(letter["record"]) == encode(1)
    assert spool.status.delivery.rejected == 1


def test_the_dead_letters_are_bounded(open_spool: Opener, receiver: Receiver, tmp_path: Path) -> None:
    receiver.rejects = {encode(number): "NO" for number in range(100)}
    spool = open_spool(delivery=replace(QUICK.delivery, side_file_bytes=300))
    for number in range(100):
        spool.append(number)
    assert spool.close(60)
    assert spool.status.delivery.rejected == 100
    assert (next(tmp_path.rglob("dead-letters.jsonl"))).stat().st_size <= 300


def test_a_record_that_makes_its_whole_batch_refused_blocks_nothing(
    open_spool: Opener, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.poison = {encode(33)}
    receiver.up.clear()
    spool = open_spool()
    for number in range(100):
        spool.append(number)
    receiver.up.set()
    assert spool.close(60)
    assert receiver.stored == events(*(number for number in range(100) if number != 33))
    assert [base64.b64decode(line["record"]) for line in lines(tmp_path, "dead-letters.jsonl")] == events(33)


def test_batches_are_bounded_in_records_and_in_bytes(open_spool: Opener, receiver: Receiver) -> None:
    for bound in ({"batch_records": 7}, {"batch_bytes": 60}):
        receiver.batches.clear()
        receiver.stored.clear()
        spool = open_spool(delivery=replace(QUICK.delivery, **bound))
        for number in range(50):
            spool.append(number)
        assert spool.close(60)
        assert max(receiver.batches) <= 8
        assert len(receiver.stored) == 50


def test_what_is_not_delivered_by_the_end_is_delivered_by_the_next_process(
    open_spool: Opener, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.up.clear()
    spool = open_spool()
    for number in range(10):
        spool.append(number)
    assert spool.flush(60)
    assert not spool.close(0.1)
    assert spool.status.spooled == 10
    receiver.up.set()
    spool = open_spool()
    spool.append(10)
    assert spool.close(60)
    assert receiver.stored == events(*range(11))
    assert segments(tmp_path) == []


def test_an_event_after_the_end_is_counted_as_dropped(open_spool: Opener) -> None:
    spool = open_spool()
    assert spool.close(60)
    spool.append(1)
    assert spool.status.dropped == 1


def test_two_workers_have_slots_of_their_own_and_an_orphans_segments_are_adopted(
    open_spool: Opener, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.up.clear()
    first, second = open_spool(), open_spool()
    first.append(1)
    second.append(2)
    assert first.flush(60)
    assert second.flush(60)
    assert {path.parent.name for path in segments(tmp_path)} == {"slot-000", "slot-001"}
    first.close(0.01)
    second.close(0.01)
    third = open_spool()
    assert [path.parent.name for path in segments(tmp_path)] == ["slot-000", "slot-000"]
    receiver.up.set()
    assert third.close(60)
    assert receiver.stored == events(1, 2)


def test_at_the_bound_events_are_dropped_and_counted(open_spool: Opener, receiver: Receiver) -> None:
    receiver.up.clear()
    spool = open_spool(queue_items=10, max_bytes=200)
    count = itertools.count()
    while "200 bytes" not in spool.status.writing:
        spool.append(next(count))
    append_all(spool, itertools.islice(count, 50))
    status = spool.status
    assert status.dropped >= 40
    assert status.bytes <= 200
    receiver.up.set()
    wait_until(lambda: spool.status.writing == "" and spool.status.queued == 0)
    assert spool.close(60)
    assert len(receiver.stored) + spool.status.dropped == next(count)
    assert receiver.stored == sorted(receiver.stored, key=lambda record: int(record.split()[1]))


def test_at_the_bound_a_prediction_can_be_made_to_wait_instead(open_spool: Opener, receiver: Receiver) -> None:
    receiver.up.clear()
    spool = open_spool(queue_items=10, max_bytes=200, at_limit="block", block_timeout_s=10)
    thread = threading.Thread(target=append_all, args=(spool, range(200)))
    thread.start()
    wait_until(lambda: spool._blocked == 1)
    receiver.up.set()
    thread.join(60)
    assert spool.close(60)
    assert receiver.stored == events(*range(200))
    assert spool.status.dropped == 0


def test_a_wait_at_the_bound_ends(open_spool: Opener, receiver: Receiver) -> None:
    receiver.up.clear()
    spool = open_spool(queue_items=1, max_bytes=1, at_limit="block", block_timeout_s=0.01)
    for number in range(5):
        spool.append(number)
    assert spool.status.dropped > 0


def test_an_event_that_cannot_be_encoded_is_dropped_and_the_next_goes_on(tmp_path: Path, receiver: Receiver) -> None:
    spool: Spool[Any] = Spool(tmp_path, encode, receiver.deliver, QUICK)
    spool.open()
    for item in ("no number", 1):
        spool.append(item)
    assert spool.close(60)
    assert receiver.stored == events(1)
    assert spool.status.dropped == 1


def test_a_receiver_that_never_returns_does_not_hold_up_the_end(tmp_path: Path) -> None:
    release = threading.Event()

    def deliver(batch: list[bytes]) -> list[Result]:
        release.wait(60)
        return [STORED] * len(batch)

    spool: Spool[int] = Spool(tmp_path, encode, deliver, QUICK)
    spool.open()
    spool.append(1)
    assert spool.flush(60)
    began = time.monotonic()
    assert not spool.close(0.05)
    assert time.monotonic() - began < 30, "it waited for the receiver"
    release.set()
