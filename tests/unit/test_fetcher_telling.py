"""How fast a fetch is said to be."""

from __future__ import annotations

from services.fetcher.telling import WINDOW, Pace


def test_a_speed_is_that_of_the_latest_intervals() -> None:
    pace = Pace()
    assert [pace.per_second(second, 100 * second) for second in range(3)] == [0, 100, 100]
    faster = [pace.per_second(2 + second, 200 + 700 * second) for second in range(1, WINDOW + 1)]
    assert (faster[0], faster[-1]) == (300, 700), "what it was before is forgotten"


def test_a_stall_is_a_speed_of_nothing_once_the_window_is_over() -> None:
    pace = Pace()
    pace.per_second(0, 0)
    speeds = [pace.per_second(second, 1_000) for second in range(1, WINDOW + 2)]
    assert (speeds[0], speeds[-1]) == (1_000, 0)
    assert speeds == sorted(speeds, reverse=True)
