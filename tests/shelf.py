"""What a registry keeps, in a dict, behind the scripted server: for the callers' side of applying a suite file."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import grpc
from google.protobuf.message import Message

from penstock.api.registry.v1 import registry_pb2 as pb
from services.common import errors
from tests.sdk import ScriptedServer, abort


class Shelf:
    """Models and versions, validated at once; every change counts, and gives a new etag."""

    def __init__(self, server: ScriptedServer) -> None:
        self.models: dict[str, pb.Model] = {}
        self.versions: dict[tuple[str, str], pb.ModelVersion] = {}
        self.changes: list[str] = []
        """The RPCs that changed something, and what."""
        self.refuses: dict[str, errors.DomainError] = {}
        """What an RPC of this name answers instead."""
        self.asked: Counter[str] = Counter()
        """How often each RPC came."""
        self.meanwhile: dict[str, Callable[[], object]] = {}
        """What somebody else does before an RPC of this name is answered."""
        self.fails_validation: set[str] = set()
        """Versions that turn out FAILED."""
        self._etags = itertools.count(1)
        for name in vars(type(self)):
            if name[0].isupper():
                server.on(name, self._behaviour(name))

    def _behaviour(self, name: str) -> Any:
        def behave(request: Any, context: grpc.ServicerContext) -> Message:
            self.asked[name] += 1
            self.meanwhile.get(name, lambda: None)()
            if name in self.refuses:
                abort(context, self.refuses[name])
            try:
                answer: Message = getattr(self, name)(request)
            except errors.DomainError as error:
                abort(context, error)
            return answer

        return behave

    def find(self, model: str, version: str) -> pb.ModelVersion:
        """Find a version."""
        if (model, version) not in self.versions:
            raise errors.NotFound(f"no {model} {version}", reason="VERSION_NOT_FOUND")
        return self.versions[model, version]

    def model(self, name: str) -> pb.Model:
        """Find a model, with what is counted."""
        if name not in self.models:
            raise errors.NotFound(f"no {name}", reason="MODEL_NOT_FOUND")
        model, mine = self.models[name], [each for (owner, _), each in self.versions.items() if owner == name]
        model.version_count = len(mine)
        model.production_version = next((each.version for each in mine if each.stage == pb.STAGE_PRODUCTION), "")
        return model

    def _changed(self, what: str, item: Any) -> None:
        self.changes.append(what)
        item.etag = str(next(self._etags))

    def CreateModel(self, request: pb.CreateModelRequest) -> pb.CreateModelResponse:
        if request.name in self.models:
            raise errors.AlreadyExists(f"{request.name} exists", reason="MODEL_EXISTS")
        model = self.models[request.name] = pb.Model(
            name=request.name, description=request.description, labels=request.labels, tags=request.tags
        )
        self._changed(f"create {request.name}", model)
        return pb.CreateModelResponse(model=model)

    def GetModel(self, request: pb.GetModelRequest) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=self.model(request.name))

    def ListModels(self, request: pb.ListModelsRequest) -> pb.ListModelsResponse:
        wanted = request.labels.items()
        found = [self.model(name) for name, each in sorted(self.models.items()) if wanted <= each.labels.items()]
        return pb.ListModelsResponse(models=found)

    def UpdateModel(self, request: pb.UpdateModelRequest) -> pb.UpdateModelResponse:
        self._update(self.model(request.model.name), request.model, request.update_mask.paths)
        return pb.UpdateModelResponse(model=self.models[request.model.name])

    def UpdateVersion(self, request: pb.UpdateVersionRequest) -> pb.UpdateVersionResponse:
        version = self.find(request.version.model, request.version.version)
        self._update(version, request.version, request.update_mask.paths)
        return pb.UpdateVersionResponse(version=version)

    def _update(self, item: Any, change: Any, paths: Any) -> None:
        _check_etag(change, item)
        for path in paths:
            item.ClearField(path)
        kept = type(item)(**{field.name: value for field, value in change.ListFields() if field.name in paths})
        item.MergeFrom(kept)
        self._changed(f"update {change.name if isinstance(change, pb.Model) else change.version}: {list(paths)}", item)

    def RegisterVersion(self, requests: Iterator[pb.RegisterVersionRequest]) -> pb.RegisterVersionResponse:
        header, files, content = pb.VersionHeader(), list[pb.File](), dict[str, bytes]()
        for request in requests:
            match request.WhichOneof("part"):
                case "header":
                    header = request.header
                case "file":
                    files.append(pb.File(path=request.file.path))
                    content[request.file.path] = b""
                case "chunk":
                    content[files[-1].path] += request.chunk
        for file in files:
            file.sha256, file.size_bytes = sha256(content[file.path]).hexdigest(), len(content[file.path])
        failed = header.version in self.fails_validation
        version = pb.ModelVersion(
            model=header.model, version=header.version, framework=header.framework, files=files, labels=header.labels,
            description=header.description, ollama=header.ollama, metadata=header.metadata, stage=pb.STAGE_DEVELOPMENT,
            state=pb.VERSION_STATE_FAILED if failed else pb.VERSION_STATE_READY,
            serving_settings=header.serving_settings, signature=header.declared_signature,
        )  # fmt: skip
        if not failed:
            version.ready_time.GetCurrentTime()
        self.versions[header.model, header.version] = version
        self._changed(f"register {header.model} {header.version}", version)
        return pb.RegisterVersionResponse(version=version)

    def GetVersion(self, request: pb.GetVersionRequest) -> pb.GetVersionResponse:
        version = self.find(request.model, request.version)
        if version.HasField("delete_time"):
            raise errors.NotFound("it was deleted", reason="VERSION_NOT_FOUND")
        found = pb.ModelVersion(aliases=sorted(a for a, at in self.models[request.model].aliases.items()
                                               if at == request.version))  # fmt: skip
        found.MergeFrom(version)
        return pb.GetVersionResponse(version=found)

    def ListVersions(self, request: pb.ListVersionsRequest) -> pb.ListVersionsResponse:
        mine = (each for (model, _), each in self.versions.items() if model == request.model)
        found = [each for each in mine if request.show_deleted or not each.HasField("delete_time")]
        return pb.ListVersionsResponse(versions=reversed(found))

    def RevalidateVersion(self, request: pb.RevalidateVersionRequest) -> pb.RevalidateVersionResponse:
        version = self.find(request.model, request.version)
        version.state = pb.VERSION_STATE_READY
        self._changed(f"revalidate {request.version}", version)
        return pb.RevalidateVersionResponse(version=version)

    def PromoteVersion(self, request: pb.PromoteVersionRequest) -> pb.PromoteVersionResponse:
        version = self.find(request.model, request.version)
        if request.to_stage == pb.STAGE_PRODUCTION:
            for (model, _), each in self.versions.items():
                if model == request.model and each.stage == pb.STAGE_PRODUCTION:
                    each.stage = pb.STAGE_ARCHIVED
        version.stage = request.to_stage
        self._changed(f"{request.version} to {pb.Stage.Name(request.to_stage)}", version)
        return pb.PromoteVersionResponse(version=version)

    def SetAlias(self, request: pb.SetAliasRequest) -> pb.SetAliasResponse:
        self.model(request.model).aliases[request.alias] = request.version
        self.changes.append(f"alias {request.alias}")
        return pb.SetAliasResponse(version=self.find(request.model, request.version))

    def DeleteAlias(self, request: pb.DeleteAliasRequest) -> pb.DeleteAliasResponse:
        del self.model(request.model).aliases[request.alias]
        self.changes.append(f"delete alias {request.alias}")
        return pb.DeleteAliasResponse()

    def DeleteVersion(self, request: pb.DeleteVersionRequest) -> pb.DeleteVersionResponse:
        version = self.find(request.model, request.version)
        _check_etag(request, version)
        version.delete_time.GetCurrentTime()
        self._changed(f"delete {request.model} {request.version}", version)
        return pb.DeleteVersionResponse(version=version)

    def RestoreVersion(self, request: pb.RestoreVersionRequest) -> pb.RestoreVersionResponse:
        version = self.find(request.model, request.version)
        version.ClearField("delete_time")
        self._changed(f"restore {request.model} {request.version}", version)
        return pb.RestoreVersionResponse(version=version)

    def DeleteModel(self, request: pb.DeleteModelRequest) -> pb.DeleteModelResponse:
        _check_etag(request, self.models[request.name])
        model = self.models.pop(request.name)
        self.changes.append(f"delete {request.name}")
        return pb.DeleteModelResponse(model=model)


def _check_etag(request: Any, item: Any) -> None:
    if request.etag not in ("", item.etag):
        mismatch = errors.Aborted("somebody changed it", reason="ETAG_MISMATCH")
        mismatch.retryable = False  # the same request again would meet the same
        raise mismatch
