"""Whether anybody knows a model: one that is misspelt must not look like one without predictions."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable
from typing import Final

from services.common.errors import NotFound
from services.monitoring.feature_views.subjects import view_of
from services.monitoring.registry_reader import MissingError, RegistryReader
from services.monitoring.store.known_models import KnownModelStore

REMEMBERED: Final = 10_000
"""Models that were known once; they are asked for no more."""
SILENT_S: Final = 30.0
"""A registry that gave no answer is left alone for so long."""
LOOKED_THROUGH: Final = 1_000
"""Names among which near ones are looked for, of each side."""
NEAR: Final = 3


class KnownModels:
    """Asks what monitoring has, and then the registry. Threads may share it.

    A model is known if it is registered, or has answered predictions. What people made for it makes it no better known:
    a name may be misspelt there too. Where the registry gives no answer every name is taken for one: an outage must not
    hide what monitoring has.
    """

    def __init__(self, store: KnownModelStore, reader: Callable[[], RegistryReader]) -> None:
        """Only set up; `reader` makes one for a question."""
        self._store = store
        self._new_reader = reader
        self._known: set[str] = set()
        self._silent_until_s = 0.0

    def require(self, model: str) -> None:
        """Raise NotFound for a model that nobody knows and nothing was made for, with the names near it.

        Raises:
            NotFound: MODEL_NOT_FOUND.
        """
        doubt = self.doubt(model)
        if doubt and not self._store.is_set(model):
            raise NotFound(doubt, reason="MODEL_NOT_FOUND")

    def require_existing(self, model: str) -> None:
        """Raise NotFound for a model that nobody knows, whatever was made for it; raises as `require`."""
        doubt = self.doubt(model)
        if doubt:
            raise NotFound(doubt, reason="MODEL_NOT_FOUND")

    def doubt(self, model: str) -> str:
        """Say that nobody knows a model, and which names are near it; empty where it is known, and for ""."""
        if not model or model in self._known or view_of(model):  # of views the registry says so when they are read
            return ""
        if not self._store.knows(model):
            candidates = self._candidates(model)
            if candidates is None:
                return ""
            if candidates:
                meant = did_you_mean(model, *candidates) or "; call ListModels for those that are"
                return f"no model {model!r} is registered, and none of that name has answered{meant}"
        if len(self._known) < REMEMBERED:
            self._known.add(model)
        return ""

    def live_version(self, model: str) -> str:
        """Name a model's version in PRODUCTION; '' where none is, or nobody tells: others have to do then."""
        if time.monotonic() < self._silent_until_s:
            return ""
        try:
            return self._new_reader().live_version(model)
        except MissingError as missing:
            if not missing.unknown:
                self._silent_until_s = time.monotonic() + SILENT_S
            return ""

    def _candidates(self, model: str) -> tuple[list[str], ...] | None:
        """Give names to choose near ones from, the registry's first; none where the registry knows it.

        None where that can't be told.
        """
        if time.monotonic() < self._silent_until_s:
            return None
        reader = self._new_reader()
        try:
            if reader.knows(model):
                return ()
            kept = [name for name in self._store.names(LOOKED_THROUGH) if name != model]
            return reader.model_names(LOOKED_THROUGH), kept
        except MissingError:
            self._silent_until_s = time.monotonic() + SILENT_S
            return None


def did_you_mean(name: str, *groups: Iterable[str]) -> str:
    """Ask for the names near one: `; did you mean debt?`; empty where none is near.

    Those of an earlier group come first, and of each the likeliest.
    """
    near = dict.fromkeys(each for names in groups for each in difflib.get_close_matches(name, sorted(names), n=NEAR))
    return f"; did you mean {' or '.join([*near][:NEAR])}?" if near else ""
