"""Where a page begins: what its token says, checked, and the page with the tokens that go on from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from services.common import pages
from services.common.checks import MAX_NAME_CHARS
from services.registry.models import Item, Page


def last_name(position: list[Any] | None) -> str:
    """Read where a page by names begins; "" is the first."""
    match position:
        case None:
            return ""
        case [str(name)] if len(name) <= MAX_NAME_CHARS and "\0" not in name:
            return name
        case _:
            raise pages.unknown_token()


def last_number(position: list[Any] | None) -> int | None:
    """Read where a page by numbers begins; None is the first."""
    match position:
        case None:
            return None
        case [int(number)] if not isinstance(number, bool) and 0 <= number < 2**63:
            return number
        case _:
            raise pages.unknown_token()


def page_of(
    found: tuple[Item, ...], size: int, filters: dict[str, Any], position: Callable[[Item], list[Any]]
) -> Page[Item]:
    """Make a page of what was read, which is one more than it may hold where there are more."""
    return Page(found[:size], len(found) > size, lambda item: pages.encode(position(item), filters))
