"""Models, versions and stage moves as tables and facts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.tensors.v1.tensors_pb2 import DataType, TensorSpec
from penstock.cli.documents import document_of
from penstock.cli.formats import say_bytes, say_count, say_number, say_pairs, say_time, say_value
from penstock.cli.options import Stage
from penstock.cli.output import STAGE_STYLES, STATE_STYLES, Column, Output, lines, styled

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Struct
    from google.protobuf.timestamp_pb2 import Timestamp

_MODEL_COLUMNS = (
    Column("model", give="cut"),
    Column("versions", "right"),
    Column("production", give="cut"),
    Column("latest", give="cut"),
    Column("updated"),
    Column("labels", give="cut", optional=True),
)
_VERSION_COLUMNS = (
    Column("model", give="cut"),
    Column("#", "right"),
    Column("version", give="cut"),
    Column("stage"),
    Column("state"),
    Column("framework", give="cut"),
    Column("size", "right"),
    Column("registered"),
    Column("by", give="cut"),
)
_TRANSITION_COLUMNS = (
    Column("when"),
    Column("version", give="cut"),
    Column("from → to"),
    Column("by", give="cut"),
    Column("approved by", give="cut", optional=True),
    Column("kind", optional=True),
    Column("note", give="wrap"),
)


def models_table(output: Output, models: Sequence[pb.Model], *, empty: str) -> RenderableType:
    """Lay out models, one a row, or the sentence that stands for none."""
    return output.table(
        _MODEL_COLUMNS,
        [
            (
                _unless_deleted(model.name, model),
                str(model.version_count),
                Text(model.production_version or "–", style=STAGE_STYLES["production"]),  # noqa: RUF001 - a dash
                model.latest_version or "–",  # noqa: RUF001 - a dash
                output.time(time_of(model.update_time)),
                say_pairs(model.labels),
            )
            for model in models
        ],
        empty=empty,
    )


def versions_table(output: Output, versions: Sequence[pb.ModelVersion], *, of_all: bool = False) -> RenderableType:
    """Lay out versions, one a row; `of_all`: with the names of their models."""
    first = 0 if of_all else 1
    return output.table(
        _VERSION_COLUMNS[first:],
        [
            (
                version.model,
                str(version.deployment_number),
                _unless_deleted(version.version, version),
                styled(stage_word(version.stage), STAGE_STYLES),
                styled(state_word(version.state), STATE_STYLES),
                framework_word(version.framework),
                say_bytes(sum(file.size_bytes for file in version.files)),
                output.time(time_of(version.create_time)),
                version.created_by,
            )[first:]
            for version in versions
        ],
        empty="no versions match",
    )


def transitions_table(output: Output, transitions: Sequence[pb.Transition]) -> RenderableType:
    """Lay out stage moves, one a row."""
    return output.table(
        _TRANSITION_COLUMNS,
        [
            (
                output.time(time_of(move.promoted_time)),
                move.version,
                move_words(move.from_stage, move.to_stage),
                move.promoted_by,
                move.approved_by,
                pb.TransitionKind.Name(move.kind).removeprefix("TRANSITION_KIND_").lower(),
                move.note,
            )
            for move in transitions
        ],
        empty="no moves yet",
    )


def model_facts(output: Output, model: pb.Model) -> RenderableType:
    """Lay out what is known of one model."""
    return output.facts(
        model.name,
        [
            ("description", model.description),
            ("versions", str(model.version_count)),
            ("production", Text(model.production_version, style=STAGE_STYLES["production"])),
            ("latest", model.latest_version),
            ("aliases", lines(f"{alias} → {version}" for alias, version in sorted(model.aliases.items()))),
            ("tags", ", ".join(model.tags)),
            ("labels", say_pairs(model.labels)),
            ("trained by", _recipe_words(model.training_config)),
            ("told", _struct_words(model.training_config.parameters)),
            ("must reach", lines(map(criterion_words, model.training_config.success_criteria))),
            ("serving", serving_words(model.serving_settings)),
            ("capture", capture_words(model.capture_policy) if model.HasField("capture_policy") else ""),
            ("created", _when_and_who(model.create_time, model.created_by)),
            ("updated", say_time(time_of(model.update_time))),
            ("deleted", _deleted_words(model)),
        ],
    )


def version_facts(output: Output, version: pb.ModelVersion) -> RenderableType:
    """Lay out what is known of one version."""
    files = lines(f"{file.path}  {say_bytes(file.size_bytes)}  sha256 {file.sha256[:12]}…" for file in version.files)
    validation = version.validation
    rows = "independent" if validation.rows_independent else f"dependent: {validation.rows_independent_reason}"
    opset = f"{validation.opset}, by {validation.producer or 'an unnamed producer'}"
    known = version.HasField("validation")
    source = " ".join(filter(None, (version.source.origin, version.source.reference, version.source.revision)))
    return output.facts(
        Text.assemble((f"{version.model} {version.version}", "bold"), f"  #{version.deployment_number}"),
        [
            ("stage", styled(stage_word(version.stage), STAGE_STYLES)),
            ("state", styled(state_word(version.state), STATE_STYLES)),
            ("failure", f"{version.failure_message} [{version.failure_reason}]" if version.failure_reason else ""),
            ("description", version.description),
            ("framework", framework_word(version.framework)),
            ("ollama", _ollama_words(version.ollama)),
            ("inputs", lines(map(spec_words, version.signature.inputs))),
            ("outputs", lines(map(spec_words, version.signature.outputs))),
            ("files", files),
            ("opset", opset if known else ""),
            ("rows", rows if known else ""),
            ("task", version.metadata.task_type),
            ("group", version.metadata.equivalence_group),
            ("fields", _struct_words(version.metadata.fields)),
            ("tags", ", ".join(version.metadata.tags)),
            ("labels", say_pairs(version.labels)),
            ("aliases", ", ".join(version.aliases)),
            ("serving", serving_words(version.serving_settings)),
            ("capture", capture_words(version.capture_policy) if version.HasField("capture_policy") else ""),
            ("source", source),
            ("source version", version.source_version),
            ("training run", version.training_run_id),
            ("registered", _when_and_who(version.create_time, version.created_by)),
            ("in its stage", _when_and_who(version.promoted_time, version.promoted_by)),
            ("deleted", _deleted_words(version)),
        ],
    )


def spec_words(spec: TensorSpec) -> str:
    """Write a tensor of a signature: `features FP32 [-1, 4] (a, b, c, d)`."""
    columns = f" ({', '.join(spec.columns)})" if spec.columns else ""
    datatype = DataType.Name(spec.datatype).removeprefix("DATA_TYPE_")
    return f"{spec.name} {datatype} [{', '.join(str(size) for size in spec.shape)}]{columns}"


def serving_words(settings: pb.ServingSettings) -> str:
    """Write serving settings; nothing where all are the defaults."""
    displaces = settings.queue_full_action == pb.QUEUE_FULL_ACTION_DISPLACE
    words = {
        f"at most {settings.max_in_flight:,} in flight": settings.max_in_flight,
        "never batched": settings.max_batch_size == 1,
        f"batches of {settings.max_batch_size:,} rows": settings.max_batch_size > 1,
        f"waiting {settings.max_queue_delay_us:,} µs for company": settings.max_queue_delay_us,
        f"a queue of {settings.max_queue_size:,}": settings.max_queue_size,
        "the lower priority goes when it is full": displaces,
        f"{settings.priority_levels} priorities": settings.priority_levels > 1,
        f"priority {settings.default_priority} by default": settings.default_priority,
        f"{settings.timeout_ms:,} ms to begin": settings.timeout_ms,
        f"{settings.instances} at once": settings.instances,
        f"warmed up by {'; '.join(map(warm_up_words, settings.warm_up))}": settings.warm_up,
        "preloaded": settings.preload,
        "pinned": settings.pinned,
        _cache_words(settings.response_cache): settings.response_cache.enabled,
        f"inputs filled from {settings.feature_view.view}": settings.feature_view.view,
    }
    return ", ".join(said for said, holds in words.items() if holds)


def warm_up_words(request: pb.WarmUpRequest) -> str:
    """Write a warm-up request: `8 rows 3 times`, or the tensors that it names with a digest of what they hold."""
    rows = say_count(request.row_count or 1, "row")
    named = [
        f"{each.name} {DataType.Name(each.datatype).removeprefix('DATA_TYPE_')} {list(each.shape)} "
        f"{hashlib.sha256(each.raw).hexdigest()[:8]}"
        for each in request.tensors
    ]
    times = f" {request.repeat_count} times" if request.repeat_count > 1 else ""
    return (" and ".join((*named, rows) if request.row_count else named) or rows) + times


def _cache_words(policy: pb.ResponseCachePolicy) -> str:
    kept = f" for {policy.ttl_ms:,} ms" if policy.ttl_ms else ""
    bound = f" up to {say_bytes(policy.max_answer_bytes)}" if policy.max_answer_bytes else ""
    return f"answers{bound} kept{kept}"


def capture_words(policy: pb.CapturePolicy) -> str:
    """Write which payloads are kept."""
    if policy.disabled:
        return "no payloads"
    share = f"{policy.share:.4g} of all payloads" if policy.HasField("share") else "all payloads"
    return share + (f" up to {say_bytes(policy.max_bytes)}" if policy.HasField("max_bytes") else "")


def criterion_words(criterion: pb.SuccessCriterion) -> str:
    """Write what a metric must reach: `accuracy >= 0.95`."""
    sign = "<=" if criterion.comparison == pb.COMPARISON_AT_MOST else ">="
    return f"{criterion.metric} {sign} {say_number(criterion.threshold)}"


def move_words(from_stage: pb.Stage.ValueType, to_stage: pb.Stage.ValueType) -> Text:
    """Write a stage move; a version that was born comes from nowhere."""
    return Text.assemble(
        styled(stage_word(from_stage) or "new", STAGE_STYLES), " → ", styled(stage_word(to_stage), STAGE_STYLES)
    )


def stage_word(stage: pb.Stage.ValueType) -> str:
    """Write a stage as people type it."""
    return "" if stage == pb.STAGE_UNSPECIFIED else pb.Stage.Name(stage).removeprefix("STAGE_").lower()


def stage_number(stage: Stage) -> pb.Stage.ValueType:
    """Give the contract's number of a stage."""
    return pb.Stage.Value(f"STAGE_{stage.name}")


def state_word(state: pb.VersionState.ValueType) -> str:
    """Write a state as people read it."""
    return pb.VersionState.Name(state).removeprefix("VERSION_STATE_").lower()


def framework_word(framework: pb.Framework.ValueType) -> str:
    """Write a framework as people type it."""
    return pb.Framework.Name(framework).removeprefix("FRAMEWORK_").lower()


def time_of(timestamp: Timestamp) -> datetime | None:
    """Read a timestamp; None where it is unset."""
    return timestamp.ToDatetime(tzinfo=UTC) if timestamp.ByteSize() else None


def _struct_words(struct: Struct) -> str:
    """Write named values, of metadata's own fields or a recipe's parameters: `pooling=cls, normalize=false`."""
    return ", ".join(f"{name}={say_value(value)}" for name, value in sorted(document_of(struct).items()))


def _recipe_words(config: pb.TrainingConfig) -> str:
    on = f"on {config.data_source}" if config.data_source else ""
    return " ".join(filter(None, (config.recipe, on)))


def _ollama_words(reference: pb.OllamaReference) -> str:
    mode = pb.OllamaMode.Name(reference.mode).removeprefix("OLLAMA_MODE_").lower()
    return f"{reference.model}, {mode}" if reference.model else ""


def _unless_deleted(name: str, item: pb.Model | pb.ModelVersion) -> Text:
    return Text.assemble((name, "strike dim"), " (deleted)") if item.HasField("delete_time") else Text(name)


def _deleted_words(item: pb.Model | pb.ModelVersion) -> Text:
    if not item.HasField("delete_time"):
        return Text()
    by = f" by {item.deleted_by}" if isinstance(item, pb.ModelVersion) and item.deleted_by else ""
    words = f"{say_time(time_of(item.delete_time))}{by}; restorable until {say_time(time_of(item.purge_time))}"
    return Text(words, style="red")


def _when_and_who(timestamp: Timestamp, who: str) -> str:
    return say_time(time_of(timestamp)) + (f" by {who}" if who else "")
