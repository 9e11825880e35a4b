"""From a resolved version to an open session: its files from the disk cache, opened by one framework's runtime."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack

from services.common.errors import FailedPrecondition
from services.inference.artifacts.artifacts import ArtifactCache
from services.inference.models import ResolvedVersion
from services.inference.runtimes.runtime import Runtime, Session

BuildRuntime = Callable[[], Runtime]
"""Imports and builds a runtime; called with the first model that needs it, since some imports take seconds."""


class ModelLoader:
    """Opens one framework's versions for a session cache; the files stay on disk for as long as their session."""

    def __init__(self, artifacts: ArtifactCache, build: BuildRuntime) -> None:
        self._artifacts = artifacts
        self._build = build
        self._building = threading.Lock()
        self._runtime: Runtime | None = None

    def runtime(self) -> Runtime:
        """Build the runtime unless that has been done; raises FailedPrecondition(FRAMEWORK_NOT_SERVED).

        Apart from opening, so that what its import takes in memory is not counted as the first model's.
        """
        with self._building:
            if self._runtime is None:
                try:
                    self._runtime = self._build()
                except ImportError as error:
                    sentence = f"this server cannot run such models: {error}; install the runtime, or ask another"
                    raise FailedPrecondition(sentence, reason="FRAMEWORK_NOT_SERVED") from error
            return self._runtime

    def fetch(self, version: ResolvedVersion, resources: ExitStack) -> None:
        """Have the version's files on disk, verified, until `resources` lets them go; raises what the download does."""
        resources.enter_context(self._artifacts.use(version))

    def __call__(self, version: ResolvedVersion, resources: ExitStack) -> Session:
        """Open a version; `resources` closes the session first and lets the files go after it."""
        runtime = self.runtime()
        artifact = resources.enter_context(self._artifacts.use(version))
        session = runtime.load(artifact)
        resources.callback(session.close)
        return session
