"""Protos to what the use cases take, checked; see `encode` for the way back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from google.protobuf.message import Message

from penstock.api.registry.v1 import administration_pb2
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.tensors.v1 import tensors_pb2
from services.common import bundle_metadata, checks, timestamps
from services.common.errors import InvalidArgument
from services.registry.audit import AuditFilters
from services.registry.filters import ModelFilters, VersionFilters
from services.registry.models import (
    Approval,
    CapturePolicy,
    FileEnd,
    Framework,
    Metadata,
    NewFile,
    NewModel,
    NewVersion,
    Signature,
    Source,
    Stage,
    TensorSpec,
    UploadPart,
    VersionState,
)
from services.registry.ollama import OllamaMode, OllamaReference
from services.registry.serving_protos import serving_settings

MAX_HEADER_BYTES = 1024 * 1024
MAX_CHUNK_BYTES = 4 * 1024 * 1024
MAX_FILES = 1_000
MAX_TENSORS = 1_000
MAX_COLUMNS = 10_000
MAX_RANK = 64


def new_model(request: pb.CreateModelRequest) -> NewModel:
    """Read a model to create."""
    return NewModel(
        name=checks.model_name("name", request.name),
        description=checks.text("description", request.description),
        labels=checks.labels("labels", request.labels),
        tags=checks.tags("tags", request.tags),
        request_id=checks.line("request_id", request.request_id, checks.MAX_NAME_CHARS),
        body_sha256=body_sha256(request),
    )


def upload(requests: Iterator[pb.RegisterVersionRequest]) -> tuple[NewVersion, Iterator[UploadPart]]:
    """Read the header of an upload at once, and its files as they arrive.

    Raises:
        InvalidArgument: the parts come in another order than header, file, chunks (INCOMPLETE_UPLOAD).
    """
    first = next(requests, None)
    if first is None or first.WhichOneof("part") != "header":
        raise InvalidArgument("the first message of an upload is its header", reason="INCOMPLETE_UPLOAD")
    return _new_version(first.header), _parts(requests)


def _parts(requests: Iterator[pb.RegisterVersionRequest]) -> Iterator[UploadPart]:
    begun = False
    for request in requests:
        part = request.WhichOneof("part")
        if part == "file":
            begun = True
            yield _new_file(request.file)
        elif part == "chunk" and begun:
            checks.between("chunk", len(request.chunk), 0, MAX_CHUNK_BYTES)
            yield request.chunk
        elif part == "end" and begun:
            yield FileEnd(request.end.sha256)
        else:
            raise InvalidArgument(
                f"{part or 'an empty message'} came where a file or its bytes should; an upload is one header, then "
                "for each file a file header and its chunks",
                reason="INCOMPLETE_UPLOAD",
            )


def _new_file(header: pb.FileHeader) -> NewFile:
    checks.between("size_bytes", header.size_bytes, 0, 2**62)
    return NewFile(
        path=checks.file_path("path", header.path),
        sha256=header.sha256 or None,
        size_bytes=header.size_bytes or None,
        unpack=header.unpack,
        upload_id=checks.line("upload_id", header.upload_id, checks.MAX_NAME_CHARS),
    )


def _new_version(header: pb.VersionHeader) -> NewVersion:
    checks.between("header", header.ByteSize(), 0, MAX_HEADER_BYTES)
    checks.between("file_count", header.file_count, 0, MAX_FILES)
    return NewVersion(
        model=checks.model_name("model", header.model),
        version=checks.new_version_name("version", header.version),
        framework=_framework(header.framework),
        stage=stage("stage", header.stage),
        approved_by=checks.line("approved_by", header.approved_by),
        note=checks.text("note", header.note),
        declared_signature=_signature(header.declared_signature) if header.HasField("declared_signature") else None,
        source_version=checks.line("source_version", header.source_version),
        source=_source(header.source) if header.HasField("source") else Source(),
        training_run_id=checks.line("training_run_id", header.training_run_id),
        metadata=_metadata(header),
        serving_settings=serving_settings(header.serving_settings) if header.HasField("serving_settings") else None,
        capture_policy=capture_policy(header.capture_policy) if header.HasField("capture_policy") else None,
        request_id=checks.line("request_id", header.request_id, checks.MAX_NAME_CHARS),
        body_sha256=body_sha256(header),
        description=checks.text("description", header.description),
        labels=checks.labels("labels", header.labels),
        ollama=_ollama(header.ollama) if header.HasField("ollama") else None,
        file_count=header.file_count,
    )


def model_filters(request: pb.ListModelsRequest) -> ModelFilters:
    """Read which models are wanted."""
    return ModelFilters(
        labels=checks.labels("labels", request.labels),
        query=_query(request.query),
        show_deleted=request.show_deleted,
    )


def _query(text: str) -> str:
    """Read the words of a search; "" where there are none, which every text has."""
    checks.line("query", text)
    return text if any(map(str.isalnum, text)) else ""


def audit_filters(request: administration_pb2.ListAuditEntriesRequest) -> AuditFilters:
    """Read which changes are wanted."""
    if request.version and not request.model:
        raise InvalidArgument.field("model", "empty; a version is one of a model", reason="INVALID_NAME")
    return AuditFilters(
        model=request.model and checks.model_name("model", request.model),
        version=request.version and checks.version_name("version", request.version),
        caller=checks.line("caller", request.caller),
        action=checks.line("action", request.action),
        start_time=timestamps.read("start_time", request.start_time) if request.HasField("start_time") else None,
        end_time=timestamps.read("end_time", request.end_time) if request.HasField("end_time") else None,
    )


def version_filters(request: pb.ListVersionsRequest) -> VersionFilters:
    """Read which versions are wanted."""
    return VersionFilters(
        model=request.model and checks.model_name("model", request.model),
        stage=stage("stage", request.stage),
        state=state("state", request.state),
        framework=_framework_or_none(request.framework),
        labels=checks.labels("labels", request.labels),
        query=_query(request.query),
        show_deleted=request.show_deleted,
    )


def approval(request: pb.PromoteVersionRequest | pb.RollbackModelRequest, promoted_by: str) -> Approval:
    """Read who approved a move, and why."""
    return Approval(
        promoted_by=promoted_by,
        approved_by=checks.line("approved_by", request.approved_by),
        note=checks.text("note", request.note),
    )


def model_and_version(
    request: pb.GetVersionRequest
    | pb.RevalidateVersionRequest
    | pb.PromoteVersionRequest
    | pb.DownloadFileRequest
    | pb.CreateDownloadUrlRequest
    | pb.RecordEvaluationRequest
    | pb.SetAliasRequest
    | pb.DeleteVersionRequest
    | pb.RestoreVersionRequest,
) -> tuple[str, str]:
    """Read which version is meant."""
    return checks.model_name("model", request.model), checks.version_name("version", request.version)


def stage(field: str, value: int) -> Stage | None:
    """Read a stage; None where none is given."""
    return Stage(name) if (name := checks.enum_name(field, pb.Stage, value, "STAGE_")) else None


def state(field: str, value: int) -> VersionState | None:
    """Read a version's state; None where none is given."""
    return VersionState(name) if (name := checks.enum_name(field, pb.VersionState, value, "VERSION_STATE_")) else None


def _framework(value: int) -> Framework:
    framework = _framework_or_none(value)
    if framework is None:
        raise InvalidArgument.field(
            "framework", f"not given; send one of {', '.join(Framework)}", reason="UNSUPPORTED_FRAMEWORK"
        )
    return framework


def _framework_or_none(value: int) -> Framework | None:
    name = checks.enum_name("framework", pb.Framework, value, "FRAMEWORK_")
    return Framework(name) if name else None


def _ollama(reference: pb.OllamaReference) -> OllamaReference:
    mode = checks.enum_name("ollama.mode", pb.OllamaMode, reference.mode, "OLLAMA_MODE_")
    if not mode:
        raise InvalidArgument.field(
            "ollama.mode", f"not given; send one of {', '.join(OllamaMode)}", reason="INVALID_REFERENCE"
        )
    return OllamaReference(checks.ollama_model("ollama.model", reference.model), OllamaMode(mode))


def _signature(signature: tensors_pb2.Signature) -> Signature:
    return Signature(
        inputs=_tensor_specs("declared_signature.inputs", signature.inputs),
        outputs=_tensor_specs("declared_signature.outputs", signature.outputs),
    )


def _tensor_specs(field: str, specs: Iterable[tensors_pb2.TensorSpec]) -> tuple[TensorSpec, ...]:
    found = tuple(_tensor_spec(f"{field}[{index}]", spec) for index, spec in enumerate(specs))
    checks.between(field, len(found), 0, MAX_TENSORS)
    if len({spec.name for spec in found}) < len(found):
        raise InvalidArgument.field(field, "two tensors bear one name; each has its own", reason="DUPLICATE_NAME")
    return found


def _tensor_spec(field: str, spec: tensors_pb2.TensorSpec) -> TensorSpec:
    checks.between(f"{field}.shape", len(spec.shape), 0, MAX_RANK)
    for size in spec.shape:
        checks.between(f"{field}.shape", size, -1, 2**62)
    return TensorSpec(
        name=checks.line(f"{field}.name", spec.name),
        datatype=checks.enum_name(f"{field}.datatype", tensors_pb2.DataType, spec.datatype, "DATA_TYPE_"),
        shape=tuple(spec.shape),
        columns=checks.lines(f"{field}.columns", spec.columns, count=MAX_COLUMNS, limit=checks.MAX_LINE_CHARS),
    )


def _source(source: pb.Source) -> Source:
    return Source(
        origin=checks.line("source.origin", source.origin) or Source().origin,
        reference=checks.without_credentials(
            "source.reference", checks.line("source.reference", source.reference, checks.MAX_TEXT_CHARS)
        ),
        revision=checks.line("source.revision", source.revision),
    )


def _metadata(header: pb.VersionHeader) -> Metadata:
    metadata = header.metadata
    checks.between("metadata.output_dimensions", metadata.output_dimensions, 0, 2**31 - 1)
    found = Metadata(
        task_type=checks.line("metadata.task_type", metadata.task_type),
        equivalence_group=checks.line("metadata.equivalence_group", metadata.equivalence_group),
        output_dimensions=metadata.output_dimensions,
        tags=checks.tags("metadata.tags", metadata.tags),
        fields=checks.json_object("metadata.fields", metadata.fields),
    )
    if header.framework == pb.FRAMEWORK_TRANSFORMERS:
        bundle_metadata.check(found.task_type, found.fields)
    return found


def capture_policy(policy: pb.CapturePolicy) -> CapturePolicy:
    """Read which payloads are kept."""
    checks.between("capture_policy.share", policy.share, 0, 1)
    checks.between("capture_policy.max_bytes", policy.max_bytes, 0, 2**31 - 1)
    return CapturePolicy(
        disabled=policy.disabled,
        share=policy.share if policy.HasField("share") else None,
        max_bytes=policy.max_bytes if policy.HasField("max_bytes") else None,
    )


def body_sha256(message: Message) -> str:
    """Digest a message without its request_id; the same for equal messages."""
    body = type(message)()
    body.CopyFrom(message)
    body.ClearField("request_id")
    return hashlib.sha256(body.SerializeToString(deterministic=True)).hexdigest()
