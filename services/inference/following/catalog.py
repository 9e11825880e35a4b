"""What the registry says, as last heard: every version of every model, and which one a name means.

Reads are on the path of every prediction, so they are plain dictionary look-ups of values that never change;
the follower replaces them whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from services.common.errors import FailedPrecondition, NotFound, Unavailable
from services.common.versions import resolve
from services.inference.models import ResolvedVersion

MAX_REMEMBERED_NAMES = 100_000


@dataclass(frozen=True, slots=True)
class CatalogVersion:
    """A version as the registry has it; `resolved` is None until it is READY, and once it is deleted."""

    model: str
    version: str
    deployment_number: int
    stage_name: str
    state_name: str
    resolved: ResolvedVersion | None
    aliases: frozenset[str] = frozenset()
    deleted: bool = False

    @property
    def ready(self) -> bool:
        """Whether it can be served."""
        return self.resolved is not None


class Catalog:
    """The models that are known here. One thread writes, any number read."""

    def __init__(self) -> None:
        self._models: Mapping[str, Mapping[str, CatalogVersion]] = {}
        self._names: dict[tuple[str, str], ResolvedVersion] = {}
        self._heard = False
        self._writing = threading.Lock()
        self._listeners: list[Callable[[], None]] = []

    def tell(self, listener: Callable[[], None]) -> None:
        """Have a listener called after every change, on the thread that made it; it must be quick."""
        self._listeners.append(listener)

    @property
    def heard(self) -> bool:
        """Whether a whole snapshot has been taken in, from the registry or from disk."""
        return self._heard

    def check(self) -> None:
        """For the health answer: raises Unavailable until a snapshot has been taken in."""
        if not self._heard:
            raise Unavailable("the registry has not been heard yet", reason="REGISTRY_NOT_HEARD", retry_after_s=1.0)

    def resolve(self, model: str, version: str) -> ResolvedVersion:
        """Find what a name means now; '' is PRODUCTION, else the latest.

        Raises:
            NotFound: MODEL_NOT_FOUND, VERSION_NOT_FOUND, NO_VERSION_READY.
            FailedPrecondition: the exact version is there and not READY (VERSION_NOT_READY).
            Unavailable: nothing has been heard of the registry yet.
        """
        return self._names.get((model, version)) or self._look_up(model, version)

    def models(self) -> Mapping[str, Mapping[str, CatalogVersion]]:
        """Give all versions by model and version; the mapping never changes."""
        return self._models

    def replace(self, versions: Iterable[CatalogVersion]) -> None:
        """Take in a whole snapshot."""
        models = _by_model(version for version in versions if not version.deleted)
        with self._writing:
            self._models = models
            self._names = {}
            self._heard = True
        self._tell()

    def update(self, versions: Iterable[CatalogVersion]) -> None:
        """Take in the versions that one transaction changed, all at once; deleted ones go.

        A model goes with the last of its versions: whoever asks for it hears MODEL_NOT_FOUND.
        """
        with self._writing:
            models = dict(self._models)
            for model, changed in _by_model(versions).items():
                kept = {**models.pop(model, {}), **changed}
                kept = {name: version for name, version in kept.items() if not version.deleted}
                if kept:
                    models[model] = kept
            self._models = models
            self._names = {}
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    def _look_up(self, model: str, selector: str) -> ResolvedVersion:
        names = self._names  # a writer swaps it for a fresh one, and what we find then belongs to the old
        versions = self._models.get(model)
        if versions is None:
            self.check()
            raise NotFound(
                f"Request for unknown model: '{model[:128]}' is not found; `penstock model list` shows what is",
                reason="MODEL_NOT_FOUND",
            )
        found = resolve(versions.values(), selector)
        if found is None:
            raise _nothing(model, selector)
        if found.resolved is None:
            raise FailedPrecondition(
                f"version {found.version} of {model} is {found.state_name}, not READY; "
                f"`penstock model get {model} {found.version}` says why",
                reason="VERSION_NOT_READY",
            )
        if len(names) < MAX_REMEMBERED_NAMES:
            names[model, selector] = found.resolved
        return found.resolved


def _by_model(versions: Iterable[CatalogVersion]) -> dict[str, dict[str, CatalogVersion]]:
    models: dict[str, dict[str, CatalogVersion]] = {}
    for version in versions:
        models.setdefault(version.model, {})[version.version] = version
    return models


def _nothing(model: str, selector: str) -> NotFound:
    if selector == "":
        return NotFound(f"Request for unknown model: '{model}' has no version that is READY", reason="NO_VERSION_READY")
    return NotFound(
        f"Request for unknown model: '{model}' version '{selector[:128]}' is not found; "
        "send an exact version, a stage, an alias, or none",
        reason="VERSION_NOT_FOUND",
    )
