"""From a resolved version to an open session: its files from the disk cache, its runtime by framework."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from services.common.errors import FailedPrecondition
from services.inference.artifacts.artifacts import ArtifactCache
from services.inference.models import ResolvedVersion
from services.inference.runtimes.runtime import Runtime, Session


class ModelLoader:
    """Opens versions for a session cache; the files stay on disk for as long as their session lives."""

    def __init__(self, artifacts: ArtifactCache, runtimes: Mapping[str, Runtime]) -> None:
        self._artifacts = artifacts
        self._runtimes = runtimes

    def __call__(self, version: ResolvedVersion, resources: ExitStack) -> Session:
        """Open a version; `resources` closes the session first and lets the files go after it."""
        runtime = self._runtimes.get(version.framework)
        if runtime is None:
            sentence = f"this server has no runtime for {version.framework}; it has {', '.join(self._runtimes)}"
            raise FailedPrecondition(sentence, reason="FRAMEWORK_NOT_SERVED")
        artifact = resources.enter_context(self._artifacts.use(version))
        session = runtime.load(artifact)
        resources.callback(session.close)
        return session
