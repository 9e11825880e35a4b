"""Versions that a fetch left behind half-made: it ended while the registry still looked at what it had registered."""

from __future__ import annotations

import structlog

from penstock import Client
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.errors import NotFound, PenstockError, Unavailable
from services.common.jobs import JobStore
from services.fetcher.models import Leftover
from services.fetcher.store.fetches import FetchStore

_log = structlog.get_logger(__name__)
AT_ONCE = 100
_JUDGED = (registry.VERSION_STATE_READY, registry.VERSION_STATE_FAILED)


class Leftovers:
    """Clears away the versions of fetches that were cancelled, or whose workers were lost, once they are refused.

    One that became READY is whole, and stays: whoever fetches the same finds it.
    """

    def __init__(self, jobs: JobStore, fetches: FetchStore, client: Client) -> None:
        self._jobs = jobs
        self._fetches = fetches
        self._client = client

    def clear(self) -> None:
        """Look at those of the last day that nobody has looked at since the registry judged them.

        One that the registry says nothing of is looked at the next time, and keeps no other waiting.
        """
        with self._jobs.transaction() as connection:
            found = self._fetches.leftovers(connection, AT_ONCE)
        for leftover in found:
            try:
                judged = self._judged(leftover)
            except (PenstockError, OSError) as error:
                _log.info("a version is not looked at yet", job=str(leftover.job_id), error=str(error))
                if isinstance(error, (Unavailable, OSError)):
                    return  # nobody is there to be asked of the others
                continue
            if judged:
                with self._jobs.transaction() as connection:
                    self._fetches.settle(connection, leftover.job_id)

    def _judged(self, leftover: Leftover) -> bool:
        """Delete it where it was refused; False while that is open."""
        try:
            version = self._client.registry.get_version(leftover.model, leftover.version)
            ours = (version.source.origin, version.source.reference) == (leftover.source, leftover.reference)
            if ours and version.state == registry.VERSION_STATE_FAILED:
                self._client.registry.delete_version(leftover.model, leftover.version)
        except NotFound:
            return True
        return not ours or version.state in _JUDGED
