"""What the Open Inference Protocol's clients ask of the models here, besides predictions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from services.common.errors import DomainError
from services.inference.engine.engine import Engine
from services.inference.engine.statistics import VersionStatistics
from services.inference.following.catalog import Catalog
from services.inference.models import ResolvedVersion
from services.inference.sessions.caches import SessionCaches


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A version in the repository's index; `reason` says why it is not READY."""

    model: str
    version: str
    ready: bool
    reason: str


class Repository:
    """Reads the catalog, the statistics and the session cache for those who look from outside."""

    def __init__(self, catalog: Catalog, engine: Engine, sessions: SessionCaches) -> None:
        self._catalog = catalog
        self._engine = engine
        self._sessions = sessions

    def server_ready(self) -> bool:
        """Whether predictions can be answered at all."""
        return self._catalog.heard

    def model_ready(self, model: str, version: str) -> bool:
        """Whether a prediction would find the model; False for an unknown one."""
        try:
            self._catalog.resolve(model, version)
        except DomainError:
            return False
        return True

    def resolve(self, model: str, version: str) -> ResolvedVersion:
        """Find a version; raises as Catalog.resolve does."""
        return self._catalog.resolve(model, version)

    def ready_versions(self, model: str) -> list[str]:
        """List the versions that can be asked for, the oldest first."""
        versions = self._catalog.models().get(model, {}).values()
        ready = sorted((version for version in versions if version.ready), key=lambda each: each.deployment_number)
        return [version.version for version in ready]

    def index(self, *, ready_only: bool) -> Iterator[IndexEntry]:
        """List every version by model and age."""
        models = self._catalog.models()
        for model in sorted(models):
            for version in sorted(models[model].values(), key=lambda each: each.deployment_number):
                if version.ready or not ready_only:
                    reason = "" if version.ready else version.state_name
                    yield IndexEntry(model, version.version, version.ready, reason)

    def statistics(self, model: str, version: str) -> list[VersionStatistics]:
        """Give the counts of one version, of a model's versions, or of all that were ever asked.

        A version that is known and was never asked has counts of 0. Raises as Catalog.resolve does.
        """
        counted = self._engine.statistics()
        if not model:
            return counted
        wanted = self._catalog.resolve(model, version)
        found = [
            each
            for each in counted
            if each.version.model == model and (not version or each.version.version == wanted.version)
        ]
        return found or [VersionStatistics(wanted)]

    def memory_bytes(self) -> dict[str, int]:
        """Give what each loaded version takes in memory, by its key."""
        return {session.version.key: session.size_bytes for session in self._sessions.list_sessions()}
