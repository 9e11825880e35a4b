"""What has passed of a step, and one reading for all who watch a model."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from services.monitoring.models import Window
from services.monitoring.rollups import live
from services.monitoring.rollups.live import LIVE_STEP, LIVE_STEPS, LiveReading, Readings, so_far
from services.monitoring.rollups.models import Counts

MIDNIGHT = datetime(2026, 11, 21, tzinfo=UTC)
DAY = Window(MIDNIGHT, MIDNIGHT + timedelta(days=1))


def reading(now: datetime = MIDNIGHT) -> LiveReading:
    window = Window(now - (LIVE_STEPS - 1) * LIVE_STEP, now + LIVE_STEP)
    counts = {(version, now): Counts(inference_count=number) for number, version in enumerate(("1", "2"), 1)}
    return LiveReading(now + timedelta(seconds=4), window, counts)


def test_rates_of_a_step_under_way_are_those_until_now() -> None:
    assert so_far(DAY, MIDNIGHT + timedelta(hours=1)) == Window(MIDNIGHT, MIDNIGHT + timedelta(hours=1))
    assert so_far(DAY, DAY.to_time + timedelta(hours=1)) == DAY
    for early in (timedelta(), timedelta(hours=-1), timedelta(milliseconds=1)):
        assert so_far(DAY, MIDNIGHT + early).seconds == 1
    points, total = reading().of("")
    assert (points[-1].throughput_per_s, points[-2].window.seconds) == (3 / 4, 10)
    assert total.throughput_per_s == 3 / 294


def test_a_reading_tells_of_all_versions_and_of_each() -> None:
    assert [reading().of(version)[1].counts.inference_count for version in ("", "1", "2", "3")] == [3, 1, 2, 0]


def test_all_who_watch_a_model_at_once_share_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    everybody = threading.Barrier(8)

    def read(model: str) -> LiveReading:
        asked.append(model)
        return reading()

    def watch(number: int) -> LiveReading:
        everybody.wait(60)
        return readings.get(("iris", "wine")[number % 2])

    monkeypatch.setattr(live, "SHARED_S", 3_600.0)
    readings = Readings(read)
    with ThreadPoolExecutor(8) as pool:
        assert len(set(map(id, pool.map(watch, range(8))))) == 2
    assert sorted(asked) == ["iris", "wine"]
    monkeypatch.setattr(live, "SHARED_S", 0.0)
    readings.get("iris")
    assert (len(asked), list(readings._places)) == (3, ["iris"])  # what nobody watches is not kept


class Clock:
    """Stands still, and counts who looks at it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.looks = threading.Semaphore(0)

    def monotonic(self) -> float:
        self.looks.release()
        return self.now_s


def test_all_who_ask_while_a_slow_reading_goes_on_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = Clock(), []

    def read(model: str) -> LiveReading:
        asked.append(model)
        for _ in range(4 + 1):  # each who asks, and this reading's own look
            assert clock.looks.acquire(timeout=60)
        clock.now_s += 1.1
        return reading()

    monkeypatch.setattr(live, "time", clock)
    readings = Readings(read)
    with ThreadPoolExecutor(4) as pool:
        assert len(set(map(id, pool.map(lambda _: readings.get("iris"), range(4))))) == 1
    assert asked == ["iris"]


def test_a_reading_that_fails_is_tried_again_by_the_next_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, errors = Clock(), [RuntimeError("not now")]

    def read(model: str) -> LiveReading:
        if errors:
            raise errors.pop()
        return reading()

    monkeypatch.setattr(live, "time", clock)
    readings = Readings(read)
    with pytest.raises(RuntimeError):
        readings.get("iris")
    first = readings.get("iris")
    errors.append(RuntimeError("not now either"))
    clock.now_s += 2
    with pytest.raises(RuntimeError):
        readings.get("iris")
    assert readings.get("iris") is not first
