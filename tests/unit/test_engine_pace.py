"""Which runs are quick enough that no other thread need be woken meanwhile, and how many threads one model may hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.common.pools import WAITING
from services.inference.engine.pace import QUICK_NS, Pace
from services.inference.engine.signature import SignatureCheck
from services.inference.engine.terms import EngineLimits, Terms, within_threads
from services.inference.models import ServingSettings
from tests.serving import plain_version


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


@pytest.mark.parametrize(
    ("wanted", "given"), [(0, 8), (5, 5), (12, 12), (13, 12), (100_000, 12)], ids=lambda number: str(number)
)
def test_no_setting_of_a_version_gives_it_more_than_three_quarters_of_the_threads(
    wanted: int, given: int, caplog: pytest.LogCaptureFixture
) -> None:
    version = replace(plain_version("greedy"), serving=ServingSettings(max_in_flight=wanted))
    limits = within_threads(EngineLimits(max_in_flight=8), 16)
    assert Terms(version, limits, SignatureCheck(version.signature), joins=True).max_in_flight == given
    assert ("greedy" in caplog.text) == (wanted > given)


@pytest.mark.parametrize(("threads", "given"), [(1, 1), (2, 1), (16, 12), (64, 48), (1024, 48)])
def test_the_servers_own_setting_is_held_to_the_threads_too_and_that_is_said(
    threads: int, given: int, caplog: pytest.LogCaptureFixture
) -> None:
    version = plain_version("any")
    limits = within_threads(EngineLimits(max_in_flight=48), threads)
    assert limits.max_in_flight == given
    assert Terms(version, limits, SignatureCheck(version.signature), joins=True).max_in_flight == given
    assert ("PENSTOCK_REQUEST_THREADS" in caplog.text) == (given < 48)
