"""For those who run a registry: who changed what, and what takes up room for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from penstock.api.registry.v1 import administration_pb2 as pb
from penstock.paging import pages
from penstock.registry_connection import RegistryConnected
from penstock.values import to_timestamp


class RegistryAdministration(RegistryConnected):
    """The part of the registry's client that administers it."""

    def audit(
        self,
        model: str = "",
        version: str = "",
        *,
        caller: str = "",
        action: str = "",
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        page_size: int = 0,
    ) -> Iterator[pb.AuditEntry]:
        """List changes, the newest first, each with what was before and what is since.

        Args:
            model: only changes of it, also of one that is gone; empty: of all.
            version: only changes of this version of it.
            caller: only changes by this key's name.
            action: only these, by the RPC's name, such as `UpdateModel`; `Validate` and `Purge` for what the registry
                did by itself.
            start_time: only changes at or after it (aware).
            end_time: only changes before it (aware).
            page_size: entries a page, 1 to 1,000; 0: 50.
        """
        filters = pb.ListAuditEntriesRequest(
            model=model,
            version=version,
            caller=caller,
            action=action,
            start_time=to_timestamp("start_time", start_time),
            end_time=to_timestamp("end_time", end_time),
            page_size=page_size,
        )

        def fetch(token: str) -> pb.ListAuditEntriesResponse:
            request = pb.ListAuditEntriesRequest()
            request.CopyFrom(filters)
            request.page_token = token
            return self._connection.unary(self._connection.stub.ListAuditEntries, request)

        return (entry for page in pages(fetch) for entry in page.entries)

    def collect_garbage(
        self, *, dry_run: bool = False, scan_store: bool = False, timeout_s: float = 600.0
    ) -> pb.CollectGarbageResponse:
        """Do one round of what the registry does by itself now and then: purge, forget, condemn, delete.

        Args:
            dry_run: only say what would be done.
            scan_store: read the whole blob store as well, for blobs that no row knows. Slow.
            timeout_s: how long at most, with all retries, in seconds.
        """
        request = pb.CollectGarbageRequest(dry_run=dry_run, scan_store=scan_store)
        return self._connection.unary(self._connection.stub.CollectGarbage, request, timeout_s=timeout_s)
