"""UUIDv7: unique, growing, and telling their time."""

from __future__ import annotations

import os
import random
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest

from penstock import ids
from penstock.ids import time_of, uuid7


def test_an_id_is_a_uuid_of_version_7_of_this_moment() -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    made = uuid7()
    parsed = uuid.UUID(made)
    assert str(parsed) == made
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert before <= time_of(made) <= datetime.now(UTC)


def test_the_published_example_tells_its_time() -> None:
    """RFC 9562, appendix A.6."""
    assert time_of("017F22E2-79B0-7CC3-98C4-DC0C0C07398F") == datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC)


def test_ids_grow_and_never_repeat_whatever_the_thread() -> None:
    with ThreadPoolExecutor(4) as pool:
        lots = list(pool.map(lambda _: [uuid7() for _ in range(2_000)], range(4)))
    for made in lots:
        assert made == sorted(made)
    assert len({each for made in lots for each in made}) == 8_000


def test_ids_grow_while_the_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = uuid7()
    monkeypatch.setattr(ids, "time_ns", lambda: 1_000_000_000)
    second, third = uuid7(), uuid7()
    assert first < second < third


def test_a_program_that_seeds_its_random_numbers_does_not_seed_ours() -> None:
    random.seed(0)
    tails = {uuid7()[-8:]}
    random.seed(0)
    assert uuid7()[-8:] not in tails


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_makes_ids_of_its_own() -> None:
    uuid7()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, "".join(uuid7() for _ in range(50)).encode())
        os._exit(0)
    ours = {uuid7()[-8:] for _ in range(50)}
    os.waitpid(child, 0)
    text = os.read(reader, 4_096).decode()
    os.close(reader)
    os.close(writer)
    assert len(text) == 50 * 36
    assert not ours & {text[start : start + 36][-8:] for start in range(0, len(text), 36)}


def test_an_id_can_be_made_for_an_earlier_time() -> None:
    time = datetime(2025, 3, 4, 5, 6, 7, 890_000, tzinfo=timezone(timedelta(hours=2)))
    assert time_of(uuid7(time)) == time
    assert uuid7(time) != uuid7(time)


@pytest.mark.parametrize("bad", [datetime(2025, 1, 1), datetime(1969, 1, 1, tzinfo=UTC)])  # noqa: DTZ001 - naive on purpose
def test_a_naive_or_ancient_time_is_refused(bad: datetime) -> None:
    with pytest.raises(ValueError, match="the time"):
        uuid7(bad)


@pytest.mark.parametrize("bad", ["", "iris", str(uuid.UUID(int=4, version=4)), "ffffffff-ffff-7fff-bfff-ffffffffffff"])
def test_what_is_no_uuid7_has_no_time(bad: str) -> None:
    with pytest.raises(ValueError, match=r"UUIDv7|after the year 9999"):
        time_of(bad)
