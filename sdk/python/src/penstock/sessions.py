"""What is loaded, and the hands on it."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.api.inference.v1 import sessions_pb2 as pb
from penstock.inference_connection import InferenceConnected


class InferenceSessions(InferenceConnected):
    """The part of the inference client that loads and unloads models. Where several workers serve, all do."""

    def load_model(
        self, model: str, version: str = "", *, pin: bool = False, timeout_s: float | None = None
    ) -> Sequence[pb.ModelSession]:
        """Load a version and run its warm-up requests, unless that is done, and give its sessions, one a worker.

        Args:
            model: the model.
            version: an exact version, a stage, an alias, `latest`; empty: PRODUCTION, else the latest.
            pin: keep it in memory whatever else loads, until it is unloaded or the service ends.
            timeout_s: in seconds; None: the client's. The load itself goes on beyond it.

        Raises:
            NotFound: no such model or version.
            FailedPrecondition: it cannot be loaded (MODEL_LOAD_FAILED, FRAMEWORK_NOT_SERVED, VERSION_NOT_READY,
                WARM_UP_FAILED).
            ResourceExhausted: there is no room for it (SESSION_BUDGET_EXCEEDED).
            DeadlineExceeded: it is still loading (MODEL_LOADING).
        """
        request = pb.LoadModelRequest(model=model, version=version, pin=pin)
        return self._connection.unary(self._connection.stub.LoadModel, request, timeout_s=timeout_s).sessions

    def unload_model(self, model: str, version: str = "") -> int:
        """Take a version out of memory, pinned or not, and say how many sessions that were; empty: every version."""
        request = pb.UnloadModelRequest(model=model, version=version)
        return self._connection.unary(self._connection.stub.UnloadModel, request).session_count

    def sessions(self, model: str = "") -> pb.ListSessionsResponse:
        """List what is in memory, by model, version and worker, with the budget and what is used of it, in bytes."""
        request = pb.ListSessionsRequest(model=model)
        return self._connection.unary(self._connection.stub.ListSessions, request)
