"""Scripts over gRPC: decode, call, encode."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import grpc

from penstock.api.trainer.v1 import scripts_pb2 as pb
from penstock.api.trainer.v1.scripts_pb2_grpc import ScriptServiceServicer, add_ScriptServiceServicer_to_server
from services.common.keys import Role, caller
from services.common.server import Service
from services.trainer.scripts import convert
from services.trainer.scripts.catalog import Scripts
from services.trainer.scripts.uploads import Uploads

NAME = "penstock.api.trainer.v1.ScriptService"
ROLES = {
    "UploadScript": Role.OPERATOR,
    "GetScript": Role.VIEWER,
    "ListScripts": Role.VIEWER,
    "DownloadScript": Role.VIEWER,
    "DeleteScript": Role.ADMIN,
}


class ScriptServicer(ScriptServiceServicer):
    """See scripts.proto for what each RPC promises."""

    def __init__(self, scripts: Scripts, uploads: Uploads) -> None:
        self._scripts = scripts
        self._uploads = uploads

    def UploadScript(
        self, request_iterator: Iterator[pb.UploadScriptRequest], context: grpc.ServicerContext
    ) -> pb.UploadScriptResponse:
        """Make a version of a script that is sent."""
        new, chunks = convert.upload(request_iterator)
        script, existed = self._uploads.upload(new, chunks, caller(), context.is_active)
        return pb.UploadScriptResponse(script=convert.script_proto(script), existed=existed)

    def GetScript(self, request: pb.GetScriptRequest, context: grpc.ServicerContext) -> pb.GetScriptResponse:
        """Give a version."""
        return pb.GetScriptResponse(script=convert.script_proto(self._scripts.get(*convert.name(request))))

    def ListScripts(self, request: pb.ListScriptsRequest, context: grpc.ServicerContext) -> pb.ListScriptsResponse:
        """Give a page of versions."""
        found, token = self._scripts.page(
            convert.listed(request), page_size=request.page_size, page_token=request.page_token
        )
        scripts = [convert.script_proto(script, with_files=False) for script in found]
        return pb.ListScriptsResponse(scripts=scripts, next_page_token=token)

    def DownloadScript(
        self, request: pb.DownloadScriptRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DownloadScriptResponse]:
        """Stream a version as it was sent."""
        script, chunks = self._scripts.download(*convert.name(request), convert.offset(request))
        yield pb.DownloadScriptResponse(script=convert.script_proto(script))
        for chunk in chunks:
            yield pb.DownloadScriptResponse(chunk=chunk)

    def DeleteScript(self, request: pb.DeleteScriptRequest, context: grpc.ServicerContext) -> pb.DeleteScriptResponse:
        """Delete a version."""
        self._scripts.delete(*convert.deleted(request))
        return pb.DeleteScriptResponse()


def service(scripts: Scripts, uploads: Uploads) -> Service:
    """Describe the service to the kit."""
    return Service(
        name=NAME,
        register=partial(add_ScriptServiceServicer_to_server, ScriptServicer(scripts, uploads)),
        roles=ROLES,
    )
