"""The registry's administration over gRPC: decode, call, encode."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from penstock.api.registry.v1 import administration_pb2 as pb
from penstock.api.registry.v1 import administration_pb2_grpc
from services.common.keys import Role
from services.registry import convert, encode
from services.registry.administration.encode import garbage_report
from services.registry.auditing import Audit, caller_as_actor
from services.registry.garbage import Garbage

NAME = "penstock.api.registry.v1.AdministrationService"
ROLES: Mapping[str, Role] = {
    "ListAuditEntries": Role.OPERATOR,
    "CollectGarbage": Role.ADMIN,
}


class AdministrationServicer(administration_pb2_grpc.AdministrationServiceServicer):
    """See administration.proto for what each RPC promises."""

    def __init__(self, audit: Audit, garbage: Garbage) -> None:
        self._audit = audit
        self._garbage = garbage

    def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, _: grpc.ServicerContext
    ) -> pb.ListAuditEntriesResponse:
        """See administration.proto."""
        page = self._audit.list_entries(
            convert.audit_filters(request), page_size=request.page_size, page_token=request.page_token
        )
        entries, token = encode.fitting(page, encode.audit_entry)
        return pb.ListAuditEntriesResponse(entries=entries, next_page_token=token)

    def CollectGarbage(self, request: pb.CollectGarbageRequest, _: grpc.ServicerContext) -> pb.CollectGarbageResponse:
        """See administration.proto."""
        report = self._garbage.collect(dry_run=request.dry_run, scan_store=request.scan_store, actor=caller_as_actor())
        return garbage_report(report)
