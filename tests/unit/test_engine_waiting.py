"""Who is next of those that wait: by level, by age, and by whether a caller lends its thread."""

from __future__ import annotations

from services.inference.engine.requests import InferenceAnswer, InferenceRequest, Ticket
from services.inference.engine.runners import NEVER_NS
from services.inference.engine.waiting import WaitingQueue


def nothing(_answer: InferenceAnswer) -> None:
    """Take an answer."""


def ticket(level: int = 0, *, lends: bool = True, start_by_ns: int = 0) -> Ticket:
    made = Ticket(InferenceRequest("m", "", {}), None if lends else nothing, 0)
    made.level = level
    made.rows = 1
    made.start_by_ns = start_by_ns
    return made


def queue(*tickets: Ticket) -> WaitingQueue:
    made = WaitingQueue()
    made.set_levels(2)
    for each in tickets:
        made.push(each)
    return made


def test_the_first_that_lends_its_thread_is_found_past_those_that_do_not() -> None:
    stream, urgent, later = ticket(0, lends=False), ticket(0), ticket(1)
    waiting = queue(stream, later, urgent)
    assert waiting.pop_lending() is urgent
    assert waiting.pop_lending() is later
    assert waiting.pop_lending() is None
    assert (waiting.count, waiting.rows) == (1, 1)
    assert waiting.pop_first() is stream


def test_nobody_is_next_where_nobody_waits() -> None:
    empty = queue()
    assert empty.first() is None
    assert empty.pop_first() is None
    assert empty.pop_lending() is None
    assert empty.due_ns() == NEVER_NS
    assert empty.oldest_ns() is None


def test_those_who_are_late_are_taken_out_and_the_next_to_be_late_is_known() -> None:
    patient, late, soon = ticket(), ticket(1, start_by_ns=5), ticket(start_by_ns=9)
    waiting = queue(patient, late, soon)
    assert waiting.due_ns() == 5
    assert waiting.take_late(5) == [late]
    assert waiting.due_ns() == 9
    assert waiting.take_late(5) == []
    assert waiting.first() is patient
