"""What the Open Inference Protocol's clients ask of the models here, besides predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from services.common.errors import DomainError
from services.inference.engine.engine import Engine
from services.inference.engine.statistics import VersionStatistics
from services.inference.following.catalog import Catalog, CatalogVersion
from services.inference.models import ANY, ResolvedVersion
from services.inference.sessions.caches import SessionCaches
from services.inference.workers.commands import Arguments, Broadcast, Commands, Result, results

MEMORY: Final = "oip.memory"
TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A version in the repository's index; `reason` says why it is not READY."""

    model: str
    version: str
    ready: bool
    reason: str


class Repository:
    """Reads the catalog, the statistics and the session caches for those who look from outside.

    `max_batch_size` is the server's default, in rows.
    """

    def __init__(
        self,
        catalog: Catalog,
        engine: Engine,
        sessions: SessionCaches,
        broadcast: Broadcast,
        *,
        max_batch_size: int,
    ) -> None:
        self._catalog = catalog
        self._engine = engine
        self._sessions = sessions
        self._broadcast = broadcast
        self._max_batch_size = max_batch_size

    def add_to(self, commands: Commands) -> None:
        """Let this process be asked what it has in memory."""
        commands.add(MEMORY, self._memory_here)

    def server_ready(self) -> bool:
        """Whether predictions can be answered at all."""
        return self._catalog.heard

    def model_ready(self, model: str, version: str) -> bool:
        """Whether a prediction would be answered at once; False for an unknown model.

        A version that is to be warmed up, preloaded or kept is ready once that is done, and one that could not be
        loaded once it could: who asks for it sooner has it loaded. Any other is loaded by its first request and is
        ready for that.
        """
        try:
            found = self._catalog.resolve(model, version)
            serving = found.serving
            if self._sessions.is_loaded(found.key):
                return True
            awaited = serving.warm_up or serving.preload or serving.pinned or self._sessions.find_failure(found.key)
            if awaited:
                self._sessions.release(self._sessions.acquire(found, timeout_s=0))
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

    def batch_size_of(self, version: ResolvedVersion) -> int:
        """Say how many rows run together at the most; 0 where requests are never joined."""
        signature = version.signature
        batched = all(spec.shape[:1] == (ANY,) for spec in (*signature.inputs, *signature.outputs))
        size = version.serving.max_batch_size or self._max_batch_size
        return size if version.rows_independent and batched and size > 1 else 0

    def index(self, *, ready_only: bool) -> Iterator[IndexEntry]:
        """List every version by model and age."""
        models = self._catalog.models()
        for model in sorted(models):
            for version in sorted(models[model].values(), key=lambda each: each.deployment_number):
                reason = self._unready_reason(version)
                if not (ready_only and reason):
                    yield IndexEntry(model, version.version, not reason, reason)

    def _unready_reason(self, version: CatalogVersion) -> str:
        if version.resolved is None:
            return version.state_name
        failure = self._sessions.find_failure(version.resolved.key)
        return failure.reason if failure else ""

    def statistics(self, model: str, version: str) -> list[VersionStatistics]:
        """Give the counts of one version, of a model's versions, or of all that were ever asked, of all workers.

        A version that is known and was never asked has counts of 0. Raises as Catalog.resolve does.
        """
        wanted = self._catalog.resolve(model, version) if model else None
        only = wanted.version if wanted and version else ""
        found = [
            each
            for each in self._engine.service_statistics()
            if (not model or each.version.model == model) and (not only or each.version.version == only)
        ]
        return found or ([VersionStatistics(wanted)] if wanted else [])

    def memory_bytes(self, model: str) -> Mapping[tuple[str, str], int]:
        """Give what each loaded version of a model, or of all, takes in memory, of all workers; by model and version.

        Raises Unavailable(WORKER_SILENT).
        """
        held: Counter[tuple[str, str]] = Counter()
        for reply in results(self._broadcast.send(MEMORY, {"model": model}, TIMEOUT_S)):
            for name, version, size_bytes in reply["held"]:
                held[name, version] += size_bytes
        return held

    def _memory_here(self, arguments: Arguments) -> Result:
        model = arguments["model"]
        sessions = self._sessions.list_sessions()
        held = [(each.version.model, each.version.version, each.size_bytes) for each in sessions]
        return {"held": [each for each in held if not model or each[0] == model]}
