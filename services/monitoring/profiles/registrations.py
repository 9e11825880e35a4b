"""What the registry says of versions: whether there is one, and what its inputs are called."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from services.common.errors import NotFound
from services.monitoring.registry_reader import Input, MissingError, RegisteredVersion, RegistryReader

SILENT_S: Final = 30.0
"""A registry that gave no answer is left alone for so long."""
REMEMBERED: Final = 1_000
"""Versions whose inputs are remembered: they never change."""
_OF_TENSORS = frozenset({"ONNX", "TENSORFLOW"})
"""Whose inputs are what is captured; those of others are made of texts."""
Inputs = tuple[Input, ...]


class Registrations:
    """Asks about one version at a time. Threads may share it."""

    def __init__(self, reader: Callable[[], RegistryReader]) -> None:
        """Only set up; `reader` makes one for a question."""
        self._new_reader = reader
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], Inputs] = {}
        self._silent_until_s = 0.0

    def inputs(self, model: str, version: str) -> Inputs:
        """Give a version's inputs; none where the registry gives no answer, or does not know the model.

        Raises:
            NotFound: the registry knows the model, and has no such version (VERSION_NOT_FOUND).
        """
        with self._lock:
            known = self._known.get((model, version))
        if known is not None:
            return known
        if time.monotonic() < self._silent_until_s:
            return ()
        reader = self._new_reader()
        try:
            return self._remember(reader.version(model, version))
        except MissingError as missing:
            if missing.unknown and self._knows(reader, model):
                sentence = f"the registry has no version {version!r} of {model}; call ListVersions for those it has"
                raise NotFound(sentence, reason="VERSION_NOT_FOUND") from missing
            if not missing.unknown:
                self._silent_until_s = time.monotonic() + SILENT_S
            return ()

    def _remember(self, registered: RegisteredVersion) -> Inputs:
        inputs = registered.inputs if registered.framework in _OF_TENSORS else ()
        if registered.state == "READY":
            with self._lock:
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                self._known[registered.model, registered.version] = inputs
        return inputs

    def _knows(self, reader: RegistryReader, model: str) -> bool:
        try:
            return reader.knows(model)
        except MissingError:
            return False
