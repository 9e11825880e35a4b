"""What the registry says of versions that answer no more: whether anybody still waits for them."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from typing import Final

from services.monitoring.registry_reader import MissingError, RegistryReader

REMEMBERED_S: Final = 300.0
"""An answer holds for so long."""
ASKED_AT_ONCE: Final = 20
"""Questions a turn of judging: a registry that is slow must not keep rules from being judged."""
_ARCHIVED = "ARCHIVED"


class Standing(enum.Enum):
    """How the registry has a version."""

    IN_USE = "in use"
    ARCHIVED = "archived"
    UNKNOWN = "unknown"
    NOT_TOLD = "not told"


class Registered:
    """Asks about one version at a time, and remembers for minutes. One thread at a time."""

    def __init__(self, reader: Callable[[], RegistryReader]) -> None:
        """Only set up; `reader` makes one for a turn's questions: it asks a registry that is away only once."""
        self._new_reader = reader
        self._reader = reader()
        self._left = ASKED_AT_ONCE
        self._known: dict[tuple[str, str], tuple[float, Standing]] = {}

    def begin(self) -> None:
        """Begin a turn."""
        self._reader, self._left = self._new_reader(), ASKED_AT_ONCE
        since_s = time.monotonic() - REMEMBERED_S
        self._known = {key: known for key, known in self._known.items() if known[0] > since_s}

    def standing(self, model: str, version: str) -> Standing:
        """Say how the registry has a version, or a model (version ""), which is archived where all of its versions are.

        NOT_TOLD where it gives no answer, or enough was asked for now."""
        known = self._known.get((model, version))
        if known is not None:
            return known[1]
        if not self._left:
            return Standing.NOT_TOLD
        self._left -= 1
        try:
            in_use = self._in_use(model, version)
        except MissingError as missing:
            if not missing.unknown:
                self._left = 0
                return Standing.NOT_TOLD
            found = Standing.UNKNOWN
        else:
            found = Standing.IN_USE if in_use else Standing.ARCHIVED
        self._known[model, version] = (time.monotonic(), found)
        return found

    def _in_use(self, model: str, version: str) -> bool:
        if version:
            return self._reader.version(model, version).stage != _ARCHIVED
        return self._reader.in_use(model)
