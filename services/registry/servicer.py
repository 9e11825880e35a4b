"""The registry over gRPC: decode, call, encode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import grpc

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.registry.v1 import registry_pb2_grpc
from services.common import checks, timestamps
from services.common.keys import Role, caller
from services.registry import convert, encode, masks, measures
from services.registry.aliases import Aliases
from services.registry.catalog import Catalog
from services.registry.deletions import Deletions
from services.registry.downloads import Downloads
from services.registry.editing import Editing
from services.registry.evaluations import Evaluations
from services.registry.promotions import Promotions
from services.registry.uploads import Uploads
from services.registry.validations import Validations
from services.registry.watches import Subscription, Watches

NAME = "penstock.api.registry.v1.RegistryService"
ROLES: Mapping[str, Role] = {
    "CreateModel": Role.OPERATOR,
    "GetModel": Role.VIEWER,
    "ListModels": Role.VIEWER,
    "UpdateModel": Role.OPERATOR,
    "DeleteModel": Role.ADMIN,
    "RestoreModel": Role.ADMIN,
    "RegisterVersion": Role.OPERATOR,
    "GetVersion": Role.VIEWER,
    "ListVersions": Role.VIEWER,
    "UpdateVersion": Role.OPERATOR,
    "DeleteVersion": Role.OPERATOR,
    "RestoreVersion": Role.OPERATOR,
    "RevalidateVersion": Role.OPERATOR,
    "DownloadFile": Role.VIEWER,
    "CreateDownloadUrl": Role.VIEWER,
    "ResolveVersion": Role.VIEWER,
    "SetAlias": Role.OPERATOR,
    "DeleteAlias": Role.OPERATOR,
    "RecordEvaluation": Role.OPERATOR,
    "ListEvaluations": Role.VIEWER,
    "PromoteVersion": Role.OPERATOR,  # into PRODUCTION the use case asks for an admin
    "RollbackModel": Role.ADMIN,
    "ListTransitions": Role.VIEWER,
    "GetLiveVersion": Role.VIEWER,
    "WatchModels": Role.VIEWER,
}
ENDLESS = frozenset({"WatchModels"})


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the registry can do."""

    aliases: Aliases
    catalog: Catalog
    deletions: Deletions
    editing: Editing
    evaluations: Evaluations
    uploads: Uploads
    downloads: Downloads
    promotions: Promotions
    validations: Validations
    watches: Watches


class RegistryServicer(registry_pb2_grpc.RegistryServiceServicer):
    """See registry.proto for what each RPC promises."""

    def __init__(self, use_cases: UseCases) -> None:
        self._do = use_cases

    def CreateModel(self, request: pb.CreateModelRequest, _: grpc.ServicerContext) -> pb.CreateModelResponse:
        """See registry.proto."""
        model = self._do.catalog.create_model(convert.new_model(request))
        return pb.CreateModelResponse(model=encode.model(model))

    def GetModel(self, request: pb.GetModelRequest, _: grpc.ServicerContext) -> pb.GetModelResponse:
        """See registry.proto."""
        model = self._do.catalog.get_model(checks.model_name("name", request.name))
        return pb.GetModelResponse(model=encode.model(model))

    def ListModels(self, request: pb.ListModelsRequest, _: grpc.ServicerContext) -> pb.ListModelsResponse:
        """See registry.proto."""
        page = self._do.catalog.list_models(
            convert.model_filters(request), page_size=request.page_size, page_token=request.page_token
        )
        models, token = encode.fitting(page, encode.model)
        return pb.ListModelsResponse(models=models, next_page_token=token)

    def UpdateModel(self, request: pb.UpdateModelRequest, _: grpc.ServicerContext) -> pb.UpdateModelResponse:
        """See registry.proto."""
        model = self._do.editing.update_model(masks.model_edit(request))
        return pb.UpdateModelResponse(model=encode.model(model))

    def DeleteModel(self, request: pb.DeleteModelRequest, _: grpc.ServicerContext) -> pb.DeleteModelResponse:
        """See registry.proto."""
        name, etag = checks.model_name("name", request.name), checks.line("etag", request.etag)
        model = self._do.deletions.delete_model(name, etag, force=request.force)
        return pb.DeleteModelResponse(model=encode.model(model))

    def RestoreModel(self, request: pb.RestoreModelRequest, _: grpc.ServicerContext) -> pb.RestoreModelResponse:
        """See registry.proto."""
        model = self._do.deletions.restore_model(checks.model_name("name", request.name))
        return pb.RestoreModelResponse(model=encode.model(model))

    def RegisterVersion(
        self, request_iterator: Iterator[pb.RegisterVersionRequest], _: grpc.ServicerContext
    ) -> pb.RegisterVersionResponse:
        """See registry.proto."""
        version = self._do.uploads.register(*convert.upload(request_iterator))
        return pb.RegisterVersionResponse(version=encode.version(version))

    def GetVersion(self, request: pb.GetVersionRequest, _: grpc.ServicerContext) -> pb.GetVersionResponse:
        """See registry.proto."""
        version = self._do.catalog.get_version(*convert.model_and_version(request))
        return pb.GetVersionResponse(version=encode.version(version))

    def ListVersions(self, request: pb.ListVersionsRequest, _: grpc.ServicerContext) -> pb.ListVersionsResponse:
        """See registry.proto."""
        page = self._do.catalog.list_versions(
            convert.version_filters(request), page_size=request.page_size, page_token=request.page_token
        )
        versions, token = encode.fitting(page, encode.version)
        return pb.ListVersionsResponse(versions=versions, next_page_token=token)

    def UpdateVersion(self, request: pb.UpdateVersionRequest, _: grpc.ServicerContext) -> pb.UpdateVersionResponse:
        """See registry.proto."""
        version = self._do.editing.update_version(masks.version_edit(request))
        return pb.UpdateVersionResponse(version=encode.version(version))

    def DeleteVersion(self, request: pb.DeleteVersionRequest, _: grpc.ServicerContext) -> pb.DeleteVersionResponse:
        """See registry.proto."""
        etag = checks.line("etag", request.etag)
        version = self._do.deletions.delete_version(*convert.model_and_version(request), etag)
        return pb.DeleteVersionResponse(version=encode.version(version))

    def RestoreVersion(self, request: pb.RestoreVersionRequest, _: grpc.ServicerContext) -> pb.RestoreVersionResponse:
        """See registry.proto."""
        version = self._do.deletions.restore_version(*convert.model_and_version(request))
        return pb.RestoreVersionResponse(version=encode.version(version))

    def RevalidateVersion(
        self, request: pb.RevalidateVersionRequest, _: grpc.ServicerContext
    ) -> pb.RevalidateVersionResponse:
        """See registry.proto."""
        version = self._do.validations.revalidate(*convert.model_and_version(request))
        return pb.RevalidateVersionResponse(version=encode.version(version))

    def DownloadFile(
        self, request: pb.DownloadFileRequest, _: grpc.ServicerContext
    ) -> Iterator[pb.DownloadFileResponse]:
        """See registry.proto."""
        path = checks.line("path", request.path, checks.MAX_PATH_CHARS)
        parts = self._do.downloads.read(*convert.model_and_version(request), path, request.offset_bytes)
        yield from map(encode.download_part, parts)

    def CreateDownloadUrl(
        self, request: pb.CreateDownloadUrlRequest, _: grpc.ServicerContext
    ) -> pb.CreateDownloadUrlResponse:
        """See registry.proto."""
        path = checks.line("path", request.path, checks.MAX_PATH_CHARS)
        made = self._do.downloads.create_url(*convert.model_and_version(request), path, request.lifetime_s)
        return encode.download_url(made)

    def ResolveVersion(self, request: pb.ResolveVersionRequest, _: grpc.ServicerContext) -> pb.ResolveVersionResponse:
        """See registry.proto."""
        selector = request.selector and checks.version_name("selector", request.selector)
        version = self._do.catalog.resolve(checks.model_name("model", request.model), selector)
        return pb.ResolveVersionResponse(version=encode.version(version))

    def SetAlias(self, request: pb.SetAliasRequest, _: grpc.ServicerContext) -> pb.SetAliasResponse:
        """See registry.proto."""
        model, version = convert.model_and_version(request)
        found, previous = self._do.aliases.set(model, checks.alias_name("alias", request.alias), version)
        return pb.SetAliasResponse(version=encode.version(found), previous_version=previous)

    def DeleteAlias(self, request: pb.DeleteAliasRequest, _: grpc.ServicerContext) -> pb.DeleteAliasResponse:
        """See registry.proto."""
        self._do.aliases.delete(checks.model_name("model", request.model), checks.alias_name("alias", request.alias))
        return pb.DeleteAliasResponse()

    def RecordEvaluation(
        self, request: pb.RecordEvaluationRequest, _: grpc.ServicerContext
    ) -> pb.RecordEvaluationResponse:
        """See registry.proto."""
        evaluation = self._do.evaluations.record(measures.new_evaluation(request))
        return pb.RecordEvaluationResponse(evaluation=encode.evaluation(evaluation))

    def ListEvaluations(
        self, request: pb.ListEvaluationsRequest, _: grpc.ServicerContext
    ) -> pb.ListEvaluationsResponse:
        """See registry.proto."""
        page = self._do.evaluations.list_evaluations(
            checks.model_name("model", request.model),
            version=request.version and checks.version_name("version", request.version),
            page_size=request.page_size,
            page_token=request.page_token,
        )
        evaluations, token = encode.fitting(page, encode.evaluation)
        return pb.ListEvaluationsResponse(evaluations=evaluations, next_page_token=token)

    def PromoteVersion(self, request: pb.PromoteVersionRequest, _: grpc.ServicerContext) -> pb.PromoteVersionResponse:
        """See registry.proto."""
        promotion = self._do.promotions.promote(
            *convert.model_and_version(request),
            convert.stage("to_stage", request.to_stage),
            convert.approval(request, caller().name),
        )
        return encode.promoted(promotion)

    def RollbackModel(self, request: pb.RollbackModelRequest, _: grpc.ServicerContext) -> pb.RollbackModelResponse:
        """See registry.proto."""
        model = checks.model_name("model", request.model)
        promotion = self._do.promotions.roll_back(model, convert.approval(request, caller().name))
        return encode.rolled_back(promotion)

    def ListTransitions(
        self, request: pb.ListTransitionsRequest, _: grpc.ServicerContext
    ) -> pb.ListTransitionsResponse:
        """See registry.proto."""
        page = self._do.catalog.list_transitions(
            checks.model_name("model", request.model),
            version=request.version and checks.version_name("version", request.version),
            page_size=request.page_size,
            page_token=request.page_token,
        )
        transitions, token = encode.fitting(page, encode.transition)
        return pb.ListTransitionsResponse(transitions=transitions, next_page_token=token)

    def GetLiveVersion(self, request: pb.GetLiveVersionRequest, _: grpc.ServicerContext) -> pb.GetLiveVersionResponse:
        """See registry.proto."""
        time = timestamps.read("time", request.time) if request.HasField("time") else None
        return encode.live_version(*self._do.catalog.get_live_version(checks.model_name("model", request.model), time))

    def WatchModels(
        self, request: pb.WatchModelsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchModelsResponse]:
        """See registry.proto."""
        subscription = Subscription()
        if not context.add_callback(subscription.close):
            return
        checks.between("after_revision", request.after_revision, 0, 2**63 - 1)
        epoch = checks.line("epoch", request.epoch)
        events = self._do.watches.follow(request.after_revision, epoch, subscription)
        yield from chain.from_iterable(map(encode.watch_events, events))
