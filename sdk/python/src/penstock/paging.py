"""Lists longer than a page, as one iterator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar


class Page(Protocol):
    """A list response."""

    @property
    def next_page_token(self) -> str: ...  # noqa: D102 - see the contracts: empty on the last page


AnyPage = TypeVar("AnyPage", bound=Page)


def pages(fetch: Callable[[str], AnyPage]) -> Iterator[AnyPage]:
    """Fetch page after page, each when it is wanted; `fetch` takes a page token, empty for the first."""
    token = ""
    while True:
        page = fetch(token)
        yield page
        token = page.next_page_token
        if not token:
            return
