"""Keeping checks, and finding them again: by id, page by page, and the last by schedule of many versions at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Generic, Protocol, TypeVar
from uuid import UUID

from services.common import pages
from services.common.errors import NotFound
from services.monitoring.ids import find_id
from services.monitoring.window_checks.store import CheckStore, StoredCheck, Transaction, Version

KEPT: Final = timedelta(days=365)
"""Checks are kept for so long."""
DEFAULT_PAGE_SIZE: Final = 100
MOST_REMEMBERED: Final = 1_000 * (1 + 50)
"""What is held in memory of checks by schedule: those of a thousand versions, and their results of fifty features."""
_READ_AT_ONCE = 50


class Check(Protocol):
    """What checks of all kinds have."""

    @property
    def id(self) -> UUID:
        """Its id, by which it is found again."""


class Filters(Protocol):
    """Which checks a list shows; empty and None mean any."""

    @property
    def model(self) -> str:
        """Of this model."""

    @property
    def version(self) -> str:
        """Of this version."""

    @property
    def status(self) -> Any:
        """What they came to: a member of the part's enumeration."""


CheckT = TypeVar("CheckT", bound=Check)


@dataclass(frozen=True, slots=True)
class Form(Generic[CheckT]):
    """How checks of a part are written and read.

    `brief` leaves out of a check what rules do not ask for, and `size` counts its results.
    """

    part: str
    write: Callable[[CheckT], StoredCheck]
    read: Callable[[bytes], CheckT]
    brief: Callable[[CheckT], CheckT]
    size: Callable[[CheckT], int]


class Kept(Generic[CheckT]):
    """The checks of one part. Threads may share it."""

    def __init__(self, store: CheckStore, form: Form[CheckT]) -> None:
        self._store = store
        self._form = form
        self._lock = threading.Lock()
        self._remembered: OrderedDict[UUID, CheckT] = OrderedDict()
        self._size = 0

    def add(self, check: CheckT) -> None:
        """Keep a check that somebody asked for."""
        self._store.add(self._form.write(check))

    def add_due(
        self,
        check: CheckT,
        interval: timedelta,
        also: Callable[[Transaction], None] | None = None,
        *,
        before_time: bool = False,
    ) -> bool:
        """Keep a check by schedule, and what `also` writes with it; see `CheckStore.add_due`."""
        return self._store.add_due(self._form.write(check), interval, also, before_time=before_time)

    def get(self, text: str) -> CheckT:
        """Give a check, with its results.

        Raises:
            NotFound: there is none of this id (CHECK_NOT_FOUND).
        """
        known = find_id(text)
        documents = {} if known is None else self._store.documents([known])
        for document in documents.values():
            return self._form.read(document)
        listed = f"`penstock {self._form.part} list` shows those of the last {KEPT.days} days"
        raise NotFound(f"there is no {self._form.part} check {text[:64]!r}; {listed}", reason="CHECK_NOT_FOUND")

    def page(self, filters: Filters, *, size: int, token: str) -> tuple[Sequence[CheckT], str]:
        """List checks without results, the newest first, and the token of the next page; empty on the last.

        Raises:
            InvalidArgument: the size or the token.
        """
        size = pages.page_size(size, default=DEFAULT_PAGE_SIZE)
        bound_to = {"model": filters.model, "version": filters.version, "status": filters.status}
        before = _position(pages.decode(token, bound_to))
        status = None if filters.status is None else filters.status.value
        found = self._store.page(filters.model, filters.version, status, before=before, limit=size + 1)
        checks = [self._form.read(overview) for _, overview in found[:size]]
        return checks, pages.encode([str(found[size - 1][0])], bound_to) if len(found) > size else ""

    def latest_of(self, versions: Iterable[Version]) -> dict[Version, CheckT]:
        """Give the last check by schedule of each of many versions, in brief; what has none is left out.

        Checks never change: each is read once, and of those that were read before only the ids are asked for.
        """
        latest = self._store.latest(versions)
        with self._lock:
            found = {check_id: self._remembered[check_id] for check_id in latest.values() if self._knows(check_id)}
        unread = [check_id for check_id in latest.values() if check_id not in found]
        for start in range(0, len(unread), _READ_AT_ONCE):
            for check_id, document in self._store.documents(unread[start : start + _READ_AT_ONCE]).items():
                found[check_id] = self._form.brief(self._form.read(document))
                self._remember(found[check_id])
        return {version: found[check_id] for version, check_id in latest.items() if check_id in found}

    def _knows(self, check_id: UUID) -> bool:
        if check_id not in self._remembered:
            return False
        self._remembered.move_to_end(check_id)
        return True

    def _remember(self, check: CheckT) -> None:
        with self._lock:
            if check.id not in self._remembered:
                self._remembered[check.id] = check
                self._size += 1 + self._form.size(check)
            while self._size > MOST_REMEMBERED:
                _, dropped = self._remembered.popitem(last=False)
                self._size -= 1 + self._form.size(dropped)


def _position(position: list[Any] | None) -> UUID | None:
    """Read what a token of ours says; it is not signed, so it is looked at like any input."""
    match position:
        case None:
            return None
        case [str(text)] if (known := find_id(text)) is not None:
            return known
    raise pages.unknown_token()
