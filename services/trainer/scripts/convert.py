"""Protobuf ↔ values of scripts; requests are checked here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from penstock.api.trainer.v1 import scripts_pb2 as pb
from services.common import checks
from services.common.blobs import checked_sha256
from services.common.errors import InvalidArgument
from services.trainer.scripts.models import Script
from services.trainer.scripts.sources import check_entry
from services.trainer.scripts.uploads import NewUpload

MAX_DESCRIPTION_CHARS: Final = 1_000
MAX_REQUEST_ID_CHARS: Final = 128
MAX_CHUNK_BYTES: Final = 1024 * 1024


def upload(requests: Iterable[pb.UploadScriptRequest]) -> tuple[NewUpload, Iterator[bytes]]:
    """Read an upload: what its header says, and its pieces as they come; raises InvalidArgument."""
    coming = iter(requests)
    first = next(coming, None)
    if first is None or first.WhichOneof("part") != "header":
        raise InvalidArgument("the first message is the header: send it, then the pieces", reason="HEADER_REQUIRED")
    header = first.header
    checks.model_name("header.name", header.name)
    if header.entry:
        check_entry(header.entry)
    new = NewUpload(
        name=header.name,
        entry=header.entry,
        description=checks.text("header.description", header.description, MAX_DESCRIPTION_CHARS),
        sha256=checked_sha256(header.sha256) if header.sha256 else "",
        request_id=checks.line("header.request_id", header.request_id, MAX_REQUEST_ID_CHARS),
        header_sha256=hashlib.sha256(header.SerializeToString(deterministic=True)).hexdigest(),
    )
    return new, _pieces(coming)


def _pieces(coming: Iterator[pb.UploadScriptRequest]) -> Iterator[bytes]:
    for request in coming:
        if request.WhichOneof("part") != "chunk":
            raise InvalidArgument("a second header came; one stream is one script", reason="HEADER_REQUIRED")
        if len(request.chunk) > MAX_CHUNK_BYTES:
            sentence = f"a piece of {len(request.chunk):,} bytes came; {MAX_CHUNK_BYTES:,} are allowed"
            raise InvalidArgument.field("chunk", sentence, reason="TOO_LARGE")
        yield request.chunk


def name(request: pb.GetScriptRequest | pb.DownloadScriptRequest | pb.DeleteScriptRequest) -> tuple[str, int]:
    """Read which version is meant; 0: the newest."""
    if request.version < 0:
        sentence = f"got {request.version}; versions are 1, 2, 3 …, and 0 is the newest"
        raise InvalidArgument.field("version", sentence, reason="OUT_OF_BOUNDS")
    return checks.model_name("name", request.name), request.version


def deleted(request: pb.DeleteScriptRequest) -> tuple[str, int]:
    """Read which version is to be deleted; it is named."""
    if not request.version:
        raise InvalidArgument.field("version", "it is 0; name the version to delete", reason="VERSION_REQUIRED")
    return name(request)


def listed(request: pb.ListScriptsRequest) -> str:
    """Read whose versions are listed; '': the newest of each."""
    return checks.model_name("name", request.name) if request.name else ""


def offset(request: pb.DownloadScriptRequest) -> int:
    """Read from which byte on."""
    checks.between("offset", request.offset, 0, 2**62)
    return request.offset


def script_proto(script: Script, *, with_files: bool = True) -> pb.Script:
    """Write a version."""
    contents = script.contents
    files = sorted(contents.files.items()) if with_files else ()
    written = pb.Script(
        name=script.name,
        version=script.version,
        entry=contents.entry,
        sha256=script.sha256,
        size_bytes=script.size_bytes,
        files=[pb.ScriptFile(path=path, size_bytes=size_bytes) for path, size_bytes in files],
        description=script.description,
        created_by=script.created_by,
        packed=contents.packed,
    )
    written.create_time.FromDatetime(script.create_time)
    return written
