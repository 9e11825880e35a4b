"""Ids as people type and read them: whole, or the beginning that only one has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Protocol

from penstock.cli.exits import CommandError, ExitCode

LOOKED_THROUGH = 1_000
"""Of a list, the newest: there the beginning of an id is looked for."""
SHOWN = 5
SHORT_LENGTH = 13
"""Of an id on a narrow terminal, at least: a UUIDv7's time to the millisecond."""
_BEGINNING = re.compile(r"[0-9a-f-]{4,35}")
_TOO_SHORT = re.compile(r"[0-9a-f-]{1,3}")


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


def is_beginning(said: str) -> bool:
    """Say whether that can be the beginning of an id, and no whole one."""
    return bool(_BEGINNING.fullmatch(said))


def whole_id(said: str, newest: Callable[[], Iterable[_Identified]]) -> str:
    """Give the id that begins as was said; what is whole, or begins none, as it is, for the service to judge.

    Args:
        said: an id, or four digits of its beginning or more.
        newest: lists those it may mean, the newest first; not called where the id is whole.

    Raises:
        CommandError: several begin so (AMBIGUOUS_ID); the sentence names them.
    """
    if not is_beginning(said):
        return said
    found = [each.id for each in islice(newest(), LOOKED_THROUGH) if each.id.startswith(said)]
    if len(found) > 1:
        named = ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else "")
        sentence = f"{len(found):,} ids begin with {said}: {named}; give more of it"
        raise CommandError(sentence, reason="AMBIGUOUS_ID", exit_code=ExitCode.USAGE)
    return found[0] if found else said


def whole_uuid(said: str, newest: Callable[[], Iterable[_Identified]]) -> str:
    """Give the id as `whole_id` does, of what has none but UUIDs; a beginning too short to look for is refused."""
    if _TOO_SHORT.fullmatch(said):
        sentence = f"{said} is too short for the beginning of an id: give at least 4 characters"
        raise CommandError(sentence, reason="ID_TOO_SHORT", exit_code=ExitCode.USAGE)
    return whole_id(said, newest)


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """Give each id the same length of its beginning, as much as tells all of them apart."""
    distinct = set(ids)
    longest = max(map(len, distinct), default=0)
    length = next(
        (each for each in range(SHORT_LENGTH, longest) if len({id_[:each] for id_ in distinct}) == len(distinct)),
        longest,
    )
    return {id_: id_[:length].rstrip("-") for id_ in distinct}
