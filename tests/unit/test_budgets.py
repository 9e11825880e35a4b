"""What a key may spend, on a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.budgets import MAX_PAUSE_S, Budget, Rates, budget_of
from services.common.errors import ResourceExhausted


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_next_request_is_refused_with_the_real_wait() -> None:
    clock = Clock()
    budget = Budget("ada", Rates(requests_per_minute=6), clock)
    for _ in range(6):
        budget.admit()
    with pytest.raises(ResourceExhausted) as refused:
        budget.admit()
    assert refused.value.reason == "REQUEST_LIMIT"
    assert refused.value.retry_after_s == pytest.approx(10)
    assert "'ada'" in refused.value.message
    assert refused.value.retryable
    clock.now_s += 10.001
    budget.admit()
    with pytest.raises(ResourceExhausted):
        budget.admit()


def test_a_refused_request_costs_nothing() -> None:
    clock = Clock()
    budget = Budget("ada", Rates(requests_per_minute=60), clock)
    for _ in range(60):
        budget.admit()
    for _ in range(1_000):
        with pytest.raises(ResourceExhausted):
            budget.admit()
    clock.now_s += 1.001
    budget.admit()
    assert budget.refused == {"REQUEST_LIMIT": 1_000, "BYTE_LIMIT": 0}


def test_bytes_may_go_into_debt_which_is_waited_off() -> None:
    clock = Clock()
    budget = Budget("ada", Rates(bytes_per_minute=600), clock)
    budget.admit()
    budget.spend(900)
    with pytest.raises(ResourceExhausted) as refused:
        budget.admit()
    assert refused.value.reason == "BYTE_LIMIT"
    assert refused.value.retry_after_s == pytest.approx(30.1)
    clock.now_s += 30.2
    budget.admit()


def test_quiet_minutes_are_not_saved_up() -> None:
    clock = Clock()
    budget = Budget("ada", Rates(requests_per_minute=10), clock)
    clock.now_s += 3_600
    for _ in range(10):
        budget.admit()
    with pytest.raises(ResourceExhausted):
        budget.admit()


def test_a_stream_is_told_how_long_to_pause_and_takes_requests_where_they_count() -> None:
    clock = Clock()
    budget = Budget("ada", Rates(requests_per_minute=60, bytes_per_minute=6_000), clock)
    for _ in range(60):
        assert budget.pause_s(takes_request=True) == ("", 0.0)
    reason, wait_s = budget.pause_s(takes_request=True)
    assert reason == "REQUEST_LIMIT"
    assert wait_s == pytest.approx(1)
    assert budget.pause_s(takes_request=False) == ("", 0.0)
    budget.spend(6_000 + 99)
    reason, wait_s = budget.pause_s(takes_request=False)
    assert reason == "BYTE_LIMIT"
    assert wait_s == pytest.approx(1)
    budget.spend(1_000_000)
    assert budget.pause_s(takes_request=False)[1] > MAX_PAUSE_S


@given(
    st.integers(1, 10_000),
    st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=200),
)
def test_never_more_than_the_bucket_and_what_flowed_in(per_minute: int, steps: list[tuple[float, bool]]) -> None:
    clock = Clock()
    budget = Budget("ada", Rates(requests_per_minute=per_minute), clock)
    admitted = 0
    waits_s: list[float] = []
    for pause_s, eager in steps:
        clock.now_s += pause_s
        for _ in range(50 if eager else 1):
            try:
                budget.admit()
            except ResourceExhausted as error:
                waits_s.append(error.retry_after_s or 0.0)
            else:
                admitted += 1
    assert all(0 < wait_s <= 60 / per_minute + 1e-6 for wait_s in waits_s)
    assert admitted <= per_minute + clock.now_s * per_minute / 60 + 1e-6


@pytest.mark.parametrize("value", [0, -1, 1.5, "10", True])
def test_a_limit_is_a_whole_number_from_one(value: object) -> None:
    with pytest.raises(ValueError, match="requests_per_minute"):
        Rates(requests_per_minute=value)  # type: ignore[arg-type] # what a file may hold


def test_a_budget_stands_while_its_rates_do() -> None:
    budget = budget_of("ada", Rates(10), None)
    assert budget is not None
    assert budget_of("ada", Rates(10), budget) is budget
    assert budget_of("ada", Rates(20), budget) is not budget
    assert budget_of("ada", Rates(), budget) is None
