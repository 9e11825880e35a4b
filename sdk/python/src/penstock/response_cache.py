"""The response cache, and the hands on it."""

from __future__ import annotations

from penstock.api.inference.v1 import response_cache_pb2 as pb
from penstock.inference_connection import InferenceConnected


class InferenceResponseCache(InferenceConnected):
    """The part of the inference client that looks after kept answers. Where several workers serve, all are meant.

    Answers are kept for versions whose serving settings say so; a single request passes the cache by with `skip_cache`.
    """

    def cache_stats(self, model: str = "") -> pb.GetCacheStatsResponse:
        """Tell what is kept and how often it helped, of one model or of all.

        Raises:
            Unavailable: a worker did not say what it keeps (WORKER_SILENT).
        """
        request = pb.GetCacheStatsRequest(model=model)
        return self._connection.unary(self._connection.stub.GetCacheStats, request)

    def reset_cache_stats(self) -> None:
        """Set the counts to zero; what is kept stays."""
        self._connection.unary(self._connection.stub.ResetCacheStats, pb.ResetCacheStatsRequest())

    def purge_cache(self, model: str = "") -> int:
        """Forget the answers of a model, empty: of all, and say how many they were.

        Raises:
            Unavailable: the shared cache did not answer (CACHE_UNREACHABLE).
        """
        request = pb.PurgeCacheRequest(model=model)
        return self._connection.unary(self._connection.stub.PurgeCache, request).entry_count
