"""Protos of UploadService to what its use case takes, checked, and back."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.api.registry.v1 import uploads_pb2 as pb
from services.common import checks
from services.common.errors import InvalidArgument
from services.registry.parts.models import NewPart, NewUpload, Progress, Upload
from services.registry.parts.ownership import upload_id

MAX_CHUNK_BYTES = 4 * 1024 * 1024


def new_upload(request: pb.CreateUploadRequest) -> NewUpload:
    """Read a file that is announced."""
    return NewUpload(
        sha256=request.sha256,
        size_bytes=request.size_bytes,
        part_size_bytes=request.part_size_bytes,
        request_id=checks.line("request_id", request.request_id, checks.MAX_NAME_CHARS),
    )


def new_part(requests: Iterator[pb.UploadPartRequest]) -> NewPart:
    """Read the header of a part at once, and its bytes as they arrive.

    Raises:
        InvalidArgument: they come in another order than header, chunks (INCOMPLETE_UPLOAD).
    """
    first = next(requests, None)
    if first is None or first.WhichOneof("piece") != "header":
        raise InvalidArgument("the first message of a part is its header", reason="INCOMPLETE_UPLOAD")
    header = first.header
    return NewPart(upload_id(header.upload_id), header.part_number, header.sha256, _chunks(requests))


def _chunks(requests: Iterator[pb.UploadPartRequest]) -> Iterator[bytes]:
    for request in requests:
        if request.WhichOneof("piece") != "chunk":
            raise InvalidArgument("after the header of a part come its bytes alone", reason="INCOMPLETE_UPLOAD")
        checks.between("chunk", len(request.chunk), 0, MAX_CHUNK_BYTES)
        yield request.chunk


def upload(found: Upload) -> pb.Upload:
    """Write an upload."""
    written = pb.Upload(
        id=found.upload_id,
        state=pb.UPLOAD_STATE_FINISHED if found.finished else pb.UPLOAD_STATE_RECEIVING,
        sha256=found.sha256,
        size_bytes=found.size_bytes,
        part_size_bytes=found.part_size_bytes,
        part_count=found.part_count,
        received_parts=found.received_parts,
        created_by=found.created_by,
    )
    written.create_time.FromDatetime(found.create_time)
    written.expire_time.FromDatetime(found.expire_time)
    return written


def progress(told: Progress) -> pb.FinishUploadResponse:
    """Write how far an upload is."""
    return pb.FinishUploadResponse(
        done_bytes=told.done_bytes, upload=None if told.upload is None else upload(told.upload)
    )
