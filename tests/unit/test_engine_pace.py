"""Which runs are quick enough that no other thread need be woken meanwhile."""

from __future__ import annotations

from services.common.pools import WAITING
from services.inference.engine.pace import QUICK_NS, Pace


def test_a_model_that_never_ran_may_take_long() -> None:
    assert not Pace().is_quick(1)
    assert Pace().during(1) is WAITING


def test_runs_as_small_as_quick_ones_are_quick_and_far_larger_ones_may_not_be() -> None:
    pace = Pace()
    pace.ran(4, QUICK_NS // 10)
    assert pace.is_quick(1)
    assert pace.is_quick(8)
    assert not pace.is_quick(9)
    assert pace.during(1) is not WAITING


def test_one_slow_run_makes_room_until_enough_were_quick_again() -> None:
    pace = Pace()
    pace.ran(1, QUICK_NS // 10)
    pace.ran(1, 5 * QUICK_NS)
    assert not pace.is_quick(1)
    for _ in range(20):
        pace.ran(1, QUICK_NS // 10)
    assert pace.is_quick(1)
