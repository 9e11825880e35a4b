"""The outbox on a real PostgreSQL: what is put, claimed, marked, and what its workers make of it."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from services.common.errors import InvalidArgument, Unavailable
from services.common.outbox import Message, OutboxCollector, Undeliverable
from tests.monitoring import eventually
from tests.outbox import QUICK, Box, box, delivering, put, rows, states

__all__ = ["box"]


def test_a_message_is_there_if_and_only_if_what_it_tells_of_is(box: Box) -> None:
    with suppress(ZeroDivisionError), box.database.transaction() as connection:
        box.outbox.put(connection, "team", b"never")
        raise ZeroDivisionError
    assert box.claim() is None
    message_id = box.put(body=b"\x00\xff")
    message = box.claimed()
    assert (message.message_id, message.destination, message.body) == (message_id, "team", b"\x00\xff")
    assert (message.attempt, message.token, message_id.version) == (1, 1, 7)


def test_a_message_that_is_there_already_changes_nothing(box: Box) -> None:
    message_id = uuid4()
    for body in (b"first", b"second"):
        assert put(box.database, box.outbox, "team", body, message_id=message_id) == message_id
    assert box.claimed().body == b"first"
    assert len(rows(box.url)) == 1


def test_a_message_that_is_too_large_is_refused(box: Box) -> None:
    box.put(body=b"x" * 256 * 1024)
    with pytest.raises(InvalidArgument) as caught:
        box.put(body=b"x" * (256 * 1024 + 1))
    assert caught.value.reason == "MESSAGE_TOO_LARGE"


def test_one_message_at_a_time_is_on_its_way_to_a_destination(box: Box) -> None:
    first, second, other = box.put("a"), box.put("a"), box.put("b")
    message = box.claimed()
    assert message.message_id == first
    assert box.claimed().message_id == other
    assert box.claim() is None
    assert box.outbox.delivered(message)
    assert box.claimed().message_id == second


def test_what_was_tried_least_goes_first(box: Box) -> None:
    first, second = box.put(ordering_key="iris"), box.put(ordering_key="wine")
    assert box.put_back(box.claimed())
    message = box.claimed()
    assert message.message_id == second
    box.outbox.delivered(message)
    again = box.claimed()
    assert (again.message_id, again.attempt) == (first, 2)


def test_nobody_hears_of_an_end_before_its_beginning(box: Box) -> None:
    """A receiver that comes back would show for good what is long over."""
    fires, resolved = box.put(ordering_key="iris"), box.put(ordering_key="iris")
    assert box.put_back(box.claimed(), delay_s=60)
    for message_id in (box.put(ordering_key="wine"), box.put("slack", ordering_key="iris")):
        assert taken(box) == message_id
    assert box.claim() is None, "the end waits for its beginning"
    again = box.put(ordering_key="iris")
    assert [taken(box) for _ in range(3)] == [fires, resolved, again], "what is new tries the first at once"


def test_what_is_new_disturbs_nobody_who_asked_for_time_and_nothing_on_its_way(box: Box) -> None:
    box.put()
    message = box.claimed()
    with box.database.transaction() as putting:
        box.outbox.put(putting, "team", b"{}")
        assert box.put_back(message, delay_s=60, hold_s=60), (
            "a caller that takes its time keeps no sender from its mark"
        )
    assert box.claim() is None
    box.put()
    assert box.claim() is None


def taken(box: Box) -> UUID:
    message = box.claimed()
    assert box.outbox.delivered(message)
    return message.message_id


def test_a_lease_that_is_over_lets_another_send_and_the_first_can_mark_nothing(box: Box) -> None:
    box.put()
    lost = box.claimed(lease_s=0.001)
    taken: list[Message | None] = []

    def claims() -> bool:
        taken.append(box.claim())
        return taken[-1] is not None

    eventually(claims)
    message = taken[-1]
    assert message is not None
    assert (message.message_id, message.attempt, message.token) == (lost.message_id, 2, 2)
    assert box.put_back(lost) is None
    assert not box.outbox.fail(lost, reason="LATE", error="late")
    assert not box.outbox.delivered(lost)
    assert box.outbox.delivered(message)
    assert not box.outbox.delivered(message)
    assert states(box.url) == ["DELIVERED"]


def test_a_delay_is_waited_and_what_a_receiver_asks_for_holds_all_that_goes_there(box: Box) -> None:
    box.put("a")
    box.put("a")
    box.put("b")
    message = box.claimed()
    assert box.put_back(message, delay_s=700, hold_s=600)
    assert box.claimed().destination == "b"
    assert box.claim() is None
    delayed, held, _ = rows(box.url)
    assert timedelta(seconds=590) < delayed["hold_time"] - delayed["attempt_time"] < timedelta(seconds=610)
    assert timedelta(seconds=690) < delayed["due_time"] - delayed["attempt_time"] < timedelta(seconds=710)
    assert (delayed["error_reason"], delayed["error_message"]) == ("DOWN", "it is down")
    assert (held["attempt"], held["state"]) == (0, "WAITING")


def test_a_message_is_given_up_by_its_age_and_kept_with_its_error(box: Box) -> None:
    box.put(give_up_s=60)
    assert box.put_back(box.claimed(), delay_s=61) is False
    (row,) = rows(box.url)
    assert (row["state"], row["error_reason"], row["end_time"] is None) == ("FAILED", "DOWN", False)
    assert box.claim() is None


def test_one_that_is_too_old_before_it_was_ever_tried_is_tried_once(box: Box) -> None:
    box.put(give_up_s=-1)
    assert box.put_back(box.claimed()) is False
    assert states(box.url) == ["FAILED"]


def test_one_whose_every_attempt_took_its_process_down_is_given_up(box: Box) -> None:
    box.put(give_up_s=-1)
    box.claimed(lease_s=0)
    assert box.claim() is None
    assert box.outbox.expire(delivered_kept_s=60, failed_kept_s=60) == 1
    (row,) = rows(box.url)
    assert (row["state"], row["error_reason"]) == ("FAILED", "WORKER_LOST")


def test_what_arrived_has_arrived_even_if_it_was_given_up_meanwhile(box: Box) -> None:
    box.put(give_up_s=-1)
    message = box.claimed(lease_s=0)
    box.outbox.expire(delivered_kept_s=60, failed_kept_s=60)
    assert states(box.url) == ["FAILED"]
    assert box.outbox.delivered(message)
    (row,) = rows(box.url)
    assert (row["state"], row["error_message"]) == ("DELIVERED", "")


def test_a_destination_that_is_dropped_gets_nothing_more(box: Box) -> None:
    box.put("a")
    box.put("b")
    with box.database.transaction() as connection:
        box.outbox.drop(connection, "a", reason="DELETED", message="it was deleted")
    assert states(box.url) == ["FAILED", "WAITING"]


def test_destinations_say_what_waits_what_arrived_and_what_went_wrong(box: Box) -> None:
    box.put("a")
    box.put("a")
    standing = box.outbox.destinations(["a", "b"])
    assert (standing["a"].waiting_count, standing["a"].last_delivery_time, standing["a"].last_error) == (2, None, "")
    box.put_back(box.claimed())
    assert box.outbox.destinations(["a"])["a"].last_error == "it is down"
    message = box.claimed()
    box.outbox.delivered(message)
    after = box.outbox.destinations(["a", "b"])
    assert (after["a"].waiting_count, after["a"].last_error) == (1, "")
    assert after["a"].last_delivery_time is not None
    assert after["b"].waiting_count == 0
    assert box.outbox.destinations([]) == {}


def test_odd_texts_are_kept(box: Box) -> None:
    box.put("größe 🙂")
    message = box.claimed()
    box.outbox.fail(message, reason="ODD", error="a\0b" + "x" * 2_000)
    (row,) = rows(box.url)
    assert row["error_message"].startswith("a bx")
    assert len(row["error_message"]) == 1_000


def test_many_who_claim_at_once_never_get_the_same_nor_two_of_one_destination(box: Box) -> None:
    for number in range(30):
        box.put(f"d{number % 10}")
    with ThreadPoolExecutor(8) as pool:
        claimed = [message for message in pool.map(lambda _: box.claim(), range(40)) if message is not None]
    assert sorted(message.destination for message in claimed) == sorted(f"d{number}" for number in range(10))


def test_workers_of_two_replicas_deliver_each_message_once(box: Box) -> None:
    came: Counter[UUID] = Counter()
    at_once: Counter[str] = Counter()
    most: Counter[str] = Counter()
    lock = threading.Lock()

    def deliver(message: Message) -> None:
        with lock:
            came[message.message_id] += 1
            at_once[message.destination] += 1
            most[message.destination] = max(most[message.destination], at_once[message.destination])
        with lock:
            at_once[message.destination] -= 1

    ids = [box.put(f"d{number % 5}") for number in range(40)]
    with delivering(box.outbox, deliver), delivering(box.outbox, deliver):
        ids += [box.put(f"d{number % 5}") for number in range(40)]
        eventually(lambda: set(states(box.url)) == {"DELIVERED"})
    assert came == Counter(ids)
    assert set(most.values()) == {1}


def test_a_slow_destination_holds_up_no_other(box: Box) -> None:
    released, came = threading.Event(), Counter[str]()

    def deliver(message: Message) -> None:
        if message.destination == "slow":
            released.wait(60)
        came[message.destination] += 1

    with delivering(box.outbox, deliver, replace(QUICK, slots=2)):
        for _ in range(10):
            box.put("slow")
        for _ in range(10):
            box.put("fast")
        eventually(lambda: came["fast"] == 10)
        assert came["slow"] == 0
        released.set()
        eventually(lambda: came["slow"] == 10)


def test_many_that_hang_leave_slots_for_the_others(box: Box) -> None:
    released, hanging, came = threading.Event(), threading.Semaphore(0), Counter[str]()
    hang = [f"hangs-{number}" for number in range(8)]

    def deliver(message: Message) -> None:
        came[message.destination] += 1
        if message.destination in hang:
            if came[message.destination] > 1:
                hanging.release()
                released.wait(60)
            raise Unavailable("it took too long", reason="RECEIVER_TIMEOUT")

    with delivering(box.outbox, deliver, replace(QUICK, slots=4)):
        for name in hang * 2:
            box.put(name)
        for _ in range(2):  # half of the slots hang again
            assert hanging.acquire(timeout=60)
        for number in range(10):
            box.put(f"quick-{number}")
        eventually(lambda: all(came[f"quick-{number}"] for number in range(10)))
        assert not hanging.acquire(blocking=False)
        released.set()


def test_a_failure_is_tried_again_under_the_same_id_until_it_arrives(box: Box) -> None:
    came: list[tuple[UUID, bytes, int]] = []

    def deliver(message: Message) -> None:
        came.append((message.message_id, message.body, message.attempt))
        if message.attempt == 1:
            raise Unavailable("it is down", reason="DOWN")
        if message.attempt == 2:
            raise ZeroDivisionError

    with delivering(box.outbox, deliver) as workers:
        message_id = box.put(body=b"body")
        eventually(lambda: states(box.url) == ["DELIVERED"])
    assert came == [(message_id, b"body", attempt) for attempt in (1, 2, 3)]
    assert (workers.delivered_count, workers.retried_count, workers.failed_count) == (1, 2, 0)


def test_what_no_later_attempt_can_help_is_given_up_at_once(box: Box) -> None:
    def deliver(message: Message) -> None:
        raise Undeliverable("nobody is there", reason="NOBODY")

    with delivering(box.outbox, deliver) as workers:
        box.put()
        eventually(lambda: states(box.url) == ["FAILED"])
        assert workers.failed_count == 1
    (row,) = rows(box.url)
    assert (row["attempt"], row["error_reason"]) == (1, "NOBODY")


def test_what_a_receiver_asks_for_is_waited_for(box: Box) -> None:
    def deliver(message: Message) -> None:
        raise Unavailable("not now", reason="BUSY", retry_after_s=500)

    with delivering(box.outbox, deliver):
        box.put()
        eventually(lambda: rows(box.url)[0]["error_reason"] == "BUSY")
    (row,) = rows(box.url)
    assert row["attempt"] == 1
    assert row["due_time"] - row["attempt_time"] > timedelta(seconds=490)
    assert row["hold_time"] - row["attempt_time"] > timedelta(seconds=490)


def test_an_end_waits_for_what_is_on_its_way_and_takes_no_more(box: Box) -> None:
    begun, released = threading.Semaphore(0), threading.Event()

    def deliver(_message: Message) -> None:
        begun.release()
        released.wait(60)

    with delivering(box.outbox, deliver, replace(QUICK, slots=2)) as workers:
        for destination in ("a", "b"):
            box.put(destination)
            assert begun.acquire(timeout=60)
        box.put("c")
        ending = threading.Thread(target=workers.close, args=(30,))
        ending.start()
        eventually(workers._stopping.is_set)
        released.set()
        ending.join(60)
    assert states(box.url) == ["DELIVERED", "DELIVERED", "WAITING"]


def test_a_thread_that_cannot_be_had_costs_a_lease_and_no_message(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    start, refused = threading.Thread.start, threading.Event()

    def start_later(thread: threading.Thread) -> None:
        if thread.name == "outbox-sender" and not refused.is_set():
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_later)
    with delivering(box.outbox, lambda _: None, replace(QUICK, lease_s=0.05)):
        box.put()
        eventually(lambda: states(box.url) == ["DELIVERED"])
    assert refused.is_set()


def test_prometheus_hears_what_waits_how_long_and_what_became_of_it(box: Box) -> None:
    def deliver(message: Message) -> None:
        if message.destination == "down":
            raise Unavailable("it is down", reason="DOWN", retry_after_s=600)
        if message.destination == "gone":
            raise Undeliverable("it is gone")

    registry = CollectorRegistry()
    with delivering(box.outbox, deliver) as workers:
        registry.register(OutboxCollector(box.outbox, workers))
        for destination in ("up", "down", "gone"):
            box.put(destination)
        eventually(lambda: workers.delivered_count + workers.retried_count + workers.failed_count == 3)
        page = generate_latest(registry).decode()
    for line in (
        'penstock_outbox_attempts_total{outcome="delivered"} 1.0',
        'penstock_outbox_attempts_total{outcome="retried"} 1.0',
        'penstock_outbox_attempts_total{outcome="failed"} 1.0',
        'penstock_outbox_messages{state="waiting"} 1.0',
        'penstock_outbox_messages{state="failed"} 1.0',
    ):
        assert line in page
    assert "penstock_outbox_oldest_age_seconds" in page
    assert "penstock_outbox_last_failure_time_seconds 1." in page
