"""Retraining requests: asked for, decided on, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from penstock.api.monitoring.v1 import retraining_pb2 as pb
from penstock.ids import uuid7
from penstock.monitoring_connection import MonitoringConnected, page_size_of
from penstock.paging import pages
from penstock.values import enum_number


class RetrainingClient(MonitoringConnected):
    """Requests: pending, then approved, rejected or expired; an approved one is training, then completed or failed."""

    def create(
        self, model: str, version: str = "", *, note: str = "", force: bool = False, request_id: str = ""
    ) -> pb.RetrainingRequest:
        """Ask for a retraining by hand.

        Args:
            model: the model.
            version: the version that does badly; empty: the one in PRODUCTION, else what answered last.
            note: why; at most 1,000 characters.
            force: though it is too soon, or labels are too few.
            request_id: the same again gives the first result for 7 days; empty: a new one.

        Raises:
            FailedPrecondition: another of the model's is open (RETRAINING_OPEN), the last training began too lately
                (RETRAINING_TOO_SOON), too few labelled rows came since (TOO_FEW_LABELS), or it is off
                (RETRAINING_OFF).
        """
        request = pb.CreateRetrainingRequestRequest(
            model=model, version=version, note=note, force=force, request_id=request_id or uuid7()
        )
        return self._connection.unary(self._connection.stub.CreateRetrainingRequest, request).retraining_request

    def get(self, retraining_request_id: str) -> pb.RetrainingRequest:
        """Give a request with its history; raises NotFound (REQUEST_NOT_FOUND)."""
        request = pb.GetRetrainingRequestRequest(id=retraining_request_id)
        return self._connection.unary(self._connection.stub.GetRetrainingRequest, request).retraining_request

    def list(
        self,
        *,
        model: str = "",
        states: Iterable[pb.RetrainingState.ValueType | str] = (),
        limit: int | None = None,
    ) -> Iterator[pb.RetrainingRequest]:
        """List requests without their history, the newest first, fetched as they are iterated.

        Args:
            model: only this model.
            states: only these, by number or by name in any case; none: all.
            limit: so many at most; None: all.
        """
        wanted = [enum_number("states", pb.RetrainingState, state) for state in states]

        def fetch(token: str) -> pb.ListRetrainingRequestsResponse:
            request = pb.ListRetrainingRequestsRequest(
                model=model, states=wanted, page_size=page_size_of(limit), page_token=token
            )
            return self._connection.unary(self._connection.stub.ListRetrainingRequests, request)

        return islice((each for page in pages(fetch) for each in page.retraining_requests), limit)

    def approve(self, retraining_request_id: str, *, note: str = "") -> pb.RetrainingRequest:
        """Have the model trained, as soon as there is a trainer. Never retried.

        Raises:
            FailedPrecondition: it is decided already (WRONG_STATE).
        """
        request = pb.ApproveRetrainingRequestRequest(id=retraining_request_id, note=note)
        return self._connection.unary(self._connection.stub.ApproveRetrainingRequest, request).retraining_request

    def reject(self, retraining_request_id: str, *, note: str) -> pb.RetrainingRequest:
        """Decline, or withdraw what was approved while no trainer has it, and say why. Never retried.

        Raises:
            FailedPrecondition: it is decided otherwise already, or the trainer has it (WRONG_STATE).
        """
        request = pb.RejectRetrainingRequestRequest(id=retraining_request_id, note=note)
        return self._connection.unary(self._connection.stub.RejectRetrainingRequest, request).retraining_request
