"""Page tokens: opaque, bound to their filters, and never a way to break a query."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common import pages
from services.common.errors import InvalidArgument

POSITIONS = st.lists(st.one_of(st.integers(), st.text(max_size=50), st.none(), st.booleans()), max_size=4)


@given(POSITIONS)
def test_a_token_gives_its_position_back(position: list[Any]) -> None:
    assert pages.decode(pages.encode(position, {"model": "iris"}), {"model": "iris"}) == position


def test_no_token_is_the_first_page() -> None:
    assert pages.decode("", {}) is None


def test_a_token_of_other_filters_is_refused() -> None:
    token = pages.encode([1], {"model": "iris"})
    with pytest.raises(InvalidArgument) as caught:
        pages.decode(token, {"model": "wine"})
    assert caught.value.reason == "INVALID_PAGE_TOKEN"
    assert caught.value.violations[0].field == "page_token"


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "é",
        "!!!!",
        base64.urlsafe_b64encode(b"{}").decode(),
        base64.urlsafe_b64encode(b"[]").decode(),
        base64.urlsafe_b64encode(b"[" * 1_400).decode(),
        "A" * 5_000,
    ],
)
def test_a_token_that_is_not_ours_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        pages.decode(token, {})
    assert caught.value.reason == "INVALID_PAGE_TOKEN"


@pytest.mark.parametrize("requested", [-1, 1_001, 2**31 - 1])
def test_a_page_size_out_of_bounds_is_refused(requested: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        pages.page_size(requested, default=50)
    assert str(requested) in caught.value.message


def test_a_page_size_of_zero_is_the_default() -> None:
    assert pages.page_size(0, default=50) == 50
    assert pages.page_size(1_000, default=50) == 1_000
