"""What is live: selectors and aliases, stage moves, and their history."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.paging import pages
from penstock.registry_connection import RegistryConnected
from penstock.values import enum_number, to_timestamp


class RegistryStages(RegistryConnected):
    """The part of the registry's client that says which version answers."""

    def resolve(self, model: str, selector: str = "") -> pb.ModelVersion:
        """Find the READY version a selector means: an exact one, a stage or `latest`; empty: PRODUCTION, else that."""
        request = pb.ResolveVersionRequest(model=model, selector=selector)
        return self._connection.unary(self._connection.stub.ResolveVersion, request).version

    def promote(
        self,
        model: str,
        version: str,
        to_stage: pb.Stage.ValueType | str | None = None,
        *,
        approved_by: str = "",
        note: str = "",
    ) -> pb.PromoteVersionResponse:
        """Move a version to a stage, or to the next one; into PRODUCTION an approver and a note are required.

        Never retried: after Unavailable or DeadlineExceeded look at `get_version` first.
        """
        request = pb.PromoteVersionRequest(
            model=model,
            version=version,
            to_stage=enum_number("to_stage", pb.Stage, to_stage),
            approved_by=approved_by,
            note=note,
        )
        return self._connection.unary(self._connection.stub.PromoteVersion, request)

    def rollback(self, model: str, *, approved_by: str, note: str) -> pb.RollbackModelResponse:
        """Make the live version's predecessor live again. Never retried: twice goes back twice."""
        request = pb.RollbackModelRequest(model=model, approved_by=approved_by, note=note)
        return self._connection.unary(self._connection.stub.RollbackModel, request)

    def transitions(self, model: str, version: str = "", *, page_size: int = 0) -> Iterator[pb.Transition]:
        """List the stage moves of a model, or of one version, the newest first."""

        def fetch(token: str) -> pb.ListTransitionsResponse:
            request = pb.ListTransitionsRequest(model=model, version=version, page_size=page_size, page_token=token)
            return self._connection.unary(self._connection.stub.ListTransitions, request)

        return (transition for page in pages(fetch) for transition in page.transitions)

    def live_version(self, model: str, *, at: datetime | None = None) -> pb.GetLiveVersionResponse:
        """Say which version was in PRODUCTION at an (aware) time, by default now, and since when."""
        request = pb.GetLiveVersionRequest(model=model, time=to_timestamp("at", at))
        return self._connection.unary(self._connection.stub.GetLiveVersion, request)

    def set_alias(self, model: str, alias: str, version: str) -> pb.SetAliasResponse:
        """Point an alias at a READY version, whether the alias is new or points elsewhere."""
        request = pb.SetAliasRequest(model=model, alias=alias, version=version)
        return self._connection.unary(self._connection.stub.SetAlias, request)

    def delete_alias(self, model: str, alias: str) -> None:
        """Delete an alias; the version that it points at stays. Never retried."""
        request = pb.DeleteAliasRequest(model=model, alias=alias)
        self._connection.unary(self._connection.stub.DeleteAlias, request)
