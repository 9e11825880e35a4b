"""The response cache's service: decode, call, encode."""

from __future__ import annotations

from functools import partial

import grpc

from penstock.api.inference.v1 import response_cache_pb2 as pb
from penstock.api.inference.v1.response_cache_pb2_grpc import (
    ResponseCacheServiceServicer,
    add_ResponseCacheServiceServicer_to_server,
)
from services.common.keys import Role
from services.common.server import Service
from services.inference.caching.cache import CacheDesk
from services.inference.caching.counts import VersionCounts

NAME = "penstock.api.inference.v1.ResponseCacheService"
ROLES = {
    "GetCacheStats": Role.VIEWER,
    "ResetCacheStats": Role.OPERATOR,
    "PurgeCache": Role.OPERATOR,
}


class ResponseCacheServicer(ResponseCacheServiceServicer):
    """Answers penstock.api.inference.v1.ResponseCacheService."""

    def __init__(self, desk: CacheDesk) -> None:
        self._desk = desk

    def GetCacheStats(
        self, request: pb.GetCacheStatsRequest, context: grpc.ServicerContext
    ) -> pb.GetCacheStatsResponse:
        """Tell what is kept and how often it helped."""
        held = self._desk.held()
        return pb.GetCacheStatsResponse(
            backend=self._desk.backend,
            reachable=held.reachable,
            entry_count=held.entry_count,
            size_bytes=held.size_bytes,
            max_bytes=held.max_bytes,
            versions=map(_counts, self._desk.counts(request.model)),
        )

    def ResetCacheStats(
        self, request: pb.ResetCacheStatsRequest, context: grpc.ServicerContext
    ) -> pb.ResetCacheStatsResponse:
        """Set the counts to zero."""
        self._desk.reset()
        return pb.ResetCacheStatsResponse()

    def PurgeCache(self, request: pb.PurgeCacheRequest, context: grpc.ServicerContext) -> pb.PurgeCacheResponse:
        """Forget answers."""
        return pb.PurgeCacheResponse(entry_count=self._desk.purge(request.model))


def _counts(each: VersionCounts) -> pb.VersionCacheStats:
    return pb.VersionCacheStats(
        model=each.model,
        version=each.version,
        hit_count=each.hits,
        miss_count=each.misses,
        stored_count=each.stored,
        evicted_count=each.evicted,
        error_count=each.errors,
    )


def service(desk: CacheDesk) -> Service:
    """Describe the service to the kit. All of it asks every worker, or Redis: none of it is quick for certain."""
    return Service(
        name=NAME,
        register=partial(add_ResponseCacheServiceServicer_to_server, ResponseCacheServicer(desk)),
        roles=ROLES,
    )
