"""What the use cases give, as protos; see `convert` for the way in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.api.registry.v1 import administration_pb2
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.tensors.v1 import tensors_pb2
from services.registry.audit import AuditEntry
from services.registry.downloads import DownloadUrl
from services.registry.models import (
    CapturePolicy,
    File,
    Item,
    Metadata,
    Model,
    ModelVersion,
    Page,
    Promotion,
    Signature,
    TensorSpec,
    Transition,
    Validation,
)
from services.registry.ollama import OllamaReference
from services.registry.serving_protos import settings_message
from services.registry.training import Evaluation, TrainingConfig
from services.registry.watch_events import Bookmark, Change, SnapshotPart

# gRPC's clients take messages of 4 MiB unless told otherwise.
MAX_PART_BYTES = 3 * 1024 * 1024
Written = TypeVar("Written", bound=Message)


def fitting(page: Page[Item], write: Callable[[Item], Written]) -> tuple[list[Written], str]:
    """Write as much of a page as clients can take in one message, at least one item; and the token for the rest."""
    written: list[Written] = []
    room_bytes = MAX_PART_BYTES
    for index, item in enumerate(page.items):
        message = write(item)
        room_bytes -= message.ByteSize()
        if room_bytes < 0 and written:
            return written, page.token_after(page.items[index - 1])
        written.append(message)
    return written, page.token_after(page.items[-1]) if page.more else ""


def model(found: Model) -> pb.Model:
    """Write a model."""
    return pb.Model(
        name=found.name,
        description=found.description,
        version_count=found.version_count,
        production_version=found.production_version,
        latest_version=found.latest_version,
        create_time=_time(found.create_time),
        update_time=_time(found.update_time),
        tags=found.tags,
        labels=found.labels,
        training_config=_training_config(found.training_config),
        serving_settings=settings_message(found.serving_settings),
        capture_policy=_capture_policy(found.capture_policy),
        aliases=found.aliases,
        etag=found.etag,
        created_by=found.created_by,
        delete_time=_time(found.delete_time) if found.delete_time else None,
        purge_time=_time(found.purge_time) if found.purge_time else None,
    )


def version(found: ModelVersion) -> pb.ModelVersion:
    """Write a version."""
    return pb.ModelVersion(
        model=found.model,
        version=found.version,
        deployment_number=found.deployment_number,
        framework=pb.Framework.Value(f"FRAMEWORK_{found.framework}"),
        state=pb.VersionState.Value(f"VERSION_STATE_{found.state}"),
        failure_reason=found.failure_reason,
        failure_message=found.failure_message,
        stage=pb.Stage.Value(f"STAGE_{found.stage}"),
        files=[file(each) for each in found.files],
        signature=_signature(found.signature) if found.signature else None,
        validation=_validation(found.validation) if found.validation else None,
        source_version=found.source_version,
        source=pb.Source(**dataclasses.asdict(found.source)),
        training_run_id=found.training_run_id,
        parent_deployment_number=found.parent_deployment_number,
        metadata=_metadata(found.metadata),
        serving_settings=settings_message(found.serving_settings),
        capture_policy=_capture_policy(found.capture_policy),
        create_time=_time(found.create_time),
        created_by=found.created_by,
        ready_time=_time(found.ready_time) if found.ready_time else None,
        promoted_time=_time(found.promoted_time),
        promoted_by=found.promoted_by,
        revision=found.revision,
        description=found.description,
        labels=found.labels,
        aliases=found.aliases,
        ollama=_ollama(found.ollama) if found.ollama else None,
        etag=found.etag,
        delete_time=_time(found.delete_time) if found.delete_time else None,
        deleted_by=found.deleted_by,
        purge_time=_time(found.purge_time) if found.purge_time else None,
        size_bytes=found.size_bytes,
    )


def file(found: File) -> pb.File:
    """Write what a file is."""
    return pb.File(path=found.path, sha256=found.sha256, size_bytes=found.size_bytes)


def download_url(made: DownloadUrl) -> pb.CreateDownloadUrlResponse:
    """Write how to read a file from the blob store itself, where that can be done."""
    if made.url is None:
        return pb.CreateDownloadUrlResponse(file=file(made.file))
    return pb.CreateDownloadUrlResponse(file=file(made.file), url=made.url, expire_time=_time(made.expire_time))


def download_part(part: File | bytes) -> pb.DownloadFileResponse:
    """Write a part of a download."""
    if isinstance(part, File):
        return pb.DownloadFileResponse(file=file(part))
    return pb.DownloadFileResponse(chunk=part)


def transition(found: Transition) -> pb.Transition:
    """Write a stage move."""
    return pb.Transition(
        id=found.transition_id,
        model=found.model,
        version=found.version,
        deployment_number=found.deployment_number,
        from_stage=pb.Stage.Value(f"STAGE_{found.from_stage or 'UNSPECIFIED'}"),
        to_stage=pb.Stage.Value(f"STAGE_{found.to_stage}"),
        kind=pb.TransitionKind.Value(f"TRANSITION_KIND_{found.kind}"),
        promoted_by=found.promoted_by,
        approved_by=found.approved_by,
        note=found.note,
        promoted_time=_time(found.promoted_time),
    )


def evaluation(found: Evaluation) -> pb.Evaluation:
    """Write an evaluation."""
    return pb.Evaluation(
        id=found.evaluation_id,
        model=found.model,
        version=found.version,
        metrics=found.metrics,
        dataset=found.dataset,
        note=found.note,
        passed=found.passed,
        shortfalls=found.shortfalls,
        failure=found.failure,
        evaluated_by=found.evaluated_by,
        evaluate_time=_time(found.evaluate_time),
    )


def audit_entry(found: AuditEntry) -> administration_pb2.AuditEntry:
    """Write a change."""
    return administration_pb2.AuditEntry(
        id=found.audit_id,
        time=_time(found.time),
        caller=found.caller,
        role=found.role,
        action=found.action,
        model=found.model,
        version=found.version,
        before=None if found.before is None else _struct(found.before),
        after=None if found.after is None else _struct(found.after),
        note=found.note,
    )


def promoted(promotion: Promotion) -> pb.PromoteVersionResponse:
    """Write what a promotion came to."""
    replaced = version(promotion.replaced) if promotion.replaced else None
    return pb.PromoteVersionResponse(version=version(promotion.version), replaced=replaced)


def rolled_back(promotion: Promotion) -> pb.RollbackModelResponse:
    """Write what a rollback came to."""
    replaced = version(promotion.replaced) if promotion.replaced else None
    return pb.RollbackModelResponse(version=version(promotion.version), replaced=replaced)


def live_version(found: ModelVersion, live_since: datetime) -> pb.GetLiveVersionResponse:
    """Write what was live, and since when."""
    return pb.GetLiveVersionResponse(version=version(found), live_since_time=_time(live_since))


def watch_events(event: SnapshotPart | Change | Bookmark) -> Iterator[pb.WatchModelsResponse]:
    """Write what a watcher gets; a part of the snapshot in as many messages as clients can take it."""
    response = pb.WatchModelsResponse(revision=event.revision, epoch=event.epoch)
    if isinstance(event, Bookmark):
        response.bookmark.SetInParent()
    elif isinstance(event, Change):
        response.change.versions.extend(map(version, event.versions))
    else:
        room_bytes = MAX_PART_BYTES
        for written in map(version, event.versions):
            room_bytes -= written.ByteSize()
            if room_bytes < 0 and response.snapshot.versions:
                yield response
                response = pb.WatchModelsResponse(revision=event.revision, epoch=event.epoch)
                room_bytes = MAX_PART_BYTES - written.ByteSize()
            response.snapshot.versions.append(written)
        response.snapshot.complete = event.complete
    yield response


def _signature(signature: Signature) -> tensors_pb2.Signature:
    return tensors_pb2.Signature(
        inputs=[_tensor_spec(spec) for spec in signature.inputs],
        outputs=[_tensor_spec(spec) for spec in signature.outputs],
    )


def _tensor_spec(spec: TensorSpec) -> tensors_pb2.TensorSpec:
    datatype = tensors_pb2.DataType.Value(f"DATA_TYPE_{spec.datatype}")
    return tensors_pb2.TensorSpec(name=spec.name, datatype=datatype, shape=spec.shape, columns=spec.columns)


def _validation(found: Validation) -> pb.Validation:
    return pb.Validation(
        opset=found.opset,
        ir_version=found.ir_version,
        producer=found.producer,
        rows_independent=found.rows_independent,
        rows_independent_reason=found.rows_independent_reason,
        sandbox=found.sandbox,
        time=_time(found.time),
    )


def _ollama(reference: OllamaReference) -> pb.OllamaReference:
    return pb.OllamaReference(model=reference.model, mode=pb.OllamaMode.Value(f"OLLAMA_MODE_{reference.mode}"))


def _training_config(config: TrainingConfig) -> pb.TrainingConfig:
    return pb.TrainingConfig(
        recipe=config.recipe,
        parameters=_struct(config.parameters) if config.parameters else None,
        data_source=config.data_source,
        success_criteria=[
            pb.SuccessCriterion(
                metric=criterion.metric,
                comparison=pb.Comparison.Value(f"COMPARISON_{criterion.comparison}"),
                threshold=criterion.threshold,
            )
            for criterion in config.success_criteria
        ],
        number=config.number,
    )


def _metadata(metadata: Metadata) -> pb.Metadata:
    return pb.Metadata(
        task_type=metadata.task_type,
        equivalence_group=metadata.equivalence_group,
        output_dimensions=metadata.output_dimensions,
        tags=metadata.tags,
        fields=_struct(metadata.fields),
    )


def _capture_policy(policy: CapturePolicy) -> pb.CapturePolicy:
    return pb.CapturePolicy(disabled=policy.disabled, share=policy.share, max_bytes=policy.max_bytes)


def _struct(fields: Mapping[str, Any]) -> Struct:
    written = Struct()
    written.update(fields)
    return written


def _time(value: datetime) -> Timestamp:
    written = Timestamp()
    written.FromDatetime(value)
    return written
