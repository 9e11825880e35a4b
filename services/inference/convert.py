"""Protobuf ↔ values: versions as the registry sends them, predictions as our own front door speaks them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from penstock.api.inference.v1.inference_pb2 import PredictRequest, PredictResponse, PredictStreamResponse
from penstock.api.registry.v1 import registry_pb2
from penstock.api.status.v1.status_pb2 import Status
from services.common.errors import FieldViolation, InvalidArgument
from services.common.keys import Role, caller, require
from services.inference.features import Given, from_features, given_in
from services.inference.following.catalog import CatalogVersion
from services.inference.lookups import lookups
from services.inference.lookups.convert import lookup_message
from services.inference.models import (
    ArtifactFile,
    Caller,
    CapturePolicy,
    FeatureViewPolicy,
    Metadata,
    MissingFeatureAction,
    OllamaReference,
    QueueFullAction,
    ResolvedVersion,
    ResponseCachePolicy,
    ServingSettings,
    Signature,
    WarmUp,
)
from services.inference.prediction import Inputs, Prediction
from services.inference.runtimes.transformers.tasks import served_signature
from services.inference.tensor_protos import add_tensor, specs_of, tensor_of
from services.inference.tensors import Tensor

# What a newer registry knows and we do not is UNKNOWN, and no reason to stop following it.
UNKNOWN: Final = "unknown"
STATES: Final = {number: name.removeprefix("VERSION_STATE_") for name, number in registry_pb2.VersionState.items()}
STAGES: Final = {number: name.removeprefix("STAGE_").lower() for name, number in registry_pb2.Stage.items()}
FRAMEWORKS: Final = {number: name.removeprefix("FRAMEWORK_").lower() for name, number in registry_pb2.Framework.items()}
_MISSING_ACTIONS: Final = {
    registry_pb2.MISSING_FEATURE_ACTION_USE_DEFAULT: MissingFeatureAction.USE_DEFAULT,
    registry_pb2.MISSING_FEATURE_ACTION_USE_NAN: MissingFeatureAction.USE_NAN,
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
MAX_ID_CHARS = 256
MAX_MODEL_CHARS = 128


def catalog_version(version: registry_pb2.ModelVersion) -> CatalogVersion:
    """Read a version that the registry sent."""
    deleted = version.HasField("delete_time")
    ready = version.state == registry_pb2.VERSION_STATE_READY and not deleted
    return CatalogVersion(
        model=version.model,
        version=version.version,
        deployment_number=version.deployment_number,
        stage_name=STAGES.get(version.stage, UNKNOWN),
        state_name=STATES.get(version.state, UNKNOWN),
        resolved=_resolved(version) if ready else None,
        aliases=frozenset(version.aliases),
        deleted=deleted,
    )


def _resolved(version: registry_pb2.ModelVersion) -> ResolvedVersion:
    policy = version.capture_policy
    default = CapturePolicy()
    return ResolvedVersion(
        model=version.model,
        version=version.version,
        deployment_number=version.deployment_number,
        framework=FRAMEWORKS.get(version.framework, UNKNOWN),
        stage=STAGES.get(version.stage, UNKNOWN),
        signature=_signature(version),
        files=tuple(ArtifactFile(file.path, file.sha256, file.size_bytes) for file in version.files),
        rows_independent=version.validation.rows_independent,
        capture=CapturePolicy(
            disabled=policy.disabled,
            share=policy.share if policy.HasField("share") else default.share,
            max_bytes=policy.max_bytes if policy.HasField("max_bytes") else default.max_bytes,
        ),
        serving=_serving(version.serving_settings),
        metadata=Metadata(version.metadata.task_type, _fields_of(version.metadata.fields)),
        ollama=_ollama(version),
    )


def _signature(version: registry_pb2.ModelVersion) -> Signature:
    """Read what a version is asked and answers; a Transformers bundle is asked with texts, not with its graph's ids."""
    signature = Signature(specs_of(version.signature.inputs), specs_of(version.signature.outputs))
    if version.framework == registry_pb2.FRAMEWORK_TRANSFORMERS:
        return served_signature(Metadata(version.metadata.task_type), signature)
    return signature


def _serving(settings: registry_pb2.ServingSettings) -> ServingSettings:
    displaces = settings.queue_full_action == registry_pb2.QUEUE_FULL_ACTION_DISPLACE
    cache = settings.response_cache
    view = settings.feature_view
    return ServingSettings(
        max_in_flight=settings.max_in_flight,
        pinned=settings.pinned,
        max_batch_size=settings.max_batch_size,
        max_queue_delay_us=settings.max_queue_delay_us,
        max_queue_size=settings.max_queue_size,
        queue_full_action=QueueFullAction.DISPLACE if displaces else QueueFullAction.REJECT,
        priority_levels=settings.priority_levels,
        default_priority=settings.default_priority,
        timeout_ms=settings.timeout_ms,
        instances=settings.instances,
        warm_up=tuple(_warm_ups(settings.warm_up)),
        preload=settings.preload,
        response_cache=ResponseCachePolicy(cache.enabled, cache.ttl_ms, cache.max_answer_bytes),
        feature_view=FeatureViewPolicy(
            view.view,
            dict(view.names),
            _MISSING_ACTIONS.get(view.missing_action, MissingFeatureAction.REFUSE),
            _fields_of(view.defaults),
        ),
    )


def _warm_ups(requests: Iterable[registry_pb2.WarmUpRequest]) -> Iterator[WarmUp]:
    for request in requests:
        try:
            tensors = {tensor.name: tensor_of(tensor) for tensor in request.tensors}
        except InvalidArgument:
            continue  # of a datatype that only a newer registry knows: the version is served without it
        yield WarmUp(tensors, request.row_count or 1, request.repeat_count or 1)


def _fields_of(fields: Struct) -> Mapping[str, Any]:
    document = MessageToDict(fields)
    return document if isinstance(document, Mapping) else {}


def _ollama(version: registry_pb2.ModelVersion) -> OllamaReference | None:
    if not version.HasField("ollama"):
        return None
    mode = registry_pb2.OllamaMode.Name(version.ollama.mode).removeprefix("OLLAMA_MODE_").lower()
    return OllamaReference(version.ollama.model, mode)


def caller_of(request: PredictRequest) -> Caller:
    """Read who asks; raises InvalidArgument (INVALID_FIELD) as `check_ids` does.

    Raises:
        PermissionDenied: no event is to be left, and the caller is no operator (ROLE_TOO_WEAK).
    """
    ids = {"user_id": request.user_id, "session_id": request.session_id, "request_id": request.request_id}
    check_ids(request.model, ids)
    if request.skip_event:
        require(caller(), Role.OPERATOR, "a prediction that leaves no event (skip_event)")
    return Caller(**ids, unrecorded=request.skip_event)


def check_ids(model: str, ids: dict[str, str]) -> None:
    """Refuse an empty model name, and names and ids that are too long or that monitoring could not keep."""
    violations: list[FieldViolation] = []
    for name, value in ids.items():
        if value:
            violations += _bad_text(name, value, 0, MAX_ID_CHARS)
    violations += _bad_text("model", model, 1, MAX_MODEL_CHARS)
    if violations:
        sentence = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        raise InvalidArgument(sentence, reason="INVALID_FIELD", violations=tuple(violations))


def _bad_text(name: str, value: str, least: int, most: int) -> list[FieldViolation]:
    if not least <= len(value) <= most:
        return [FieldViolation(name, f"{len(value)} characters came; {least} to {most} are allowed")]
    # Nearly every text is printable, which is quickly seen; of the others only control characters are refused.
    if not value.isprintable() and _CONTROL.search(value):
        return [FieldViolation(name, "a control character came; none is allowed")]
    return []


def queue_timeout_s_of(request: PredictRequest) -> float:
    """Read how long the request may wait before it runs; 0: the version's own time-out.

    Raises InvalidArgument (INVALID_FIELD) for a negative time or priority.
    """
    if request.timeout_ms < 0 or request.priority < 0:
        name = "timeout_ms" if request.timeout_ms < 0 else "priority"
        raise InvalidArgument.field(name, "it is below 0; send 0 for the version's own", reason="INVALID_FIELD")
    return request.timeout_ms / 1000


def inputs_of(request: PredictRequest, signature: Signature) -> dict[str, Tensor]:
    """Read the inputs, given as tensors or as features by name. A model's only input needs no name.

    Raises:
        InvalidArgument: neither came or both (INPUTS_REQUIRED), a tensor came twice (DUPLICATE_INPUT), or what
            `from_raw` and `from_features` raise.
    """
    if bool(request.tensors) == request.HasField("features"):
        raise InvalidArgument.field(
            "tensors", "send one of `features` and `tensors`: neither came, or both", reason="INPUTS_REQUIRED"
        )
    if not request.tensors:
        return from_features(request.features, signature)
    inputs: dict[str, Tensor] = {}
    only = signature.inputs[0].name if len(signature.inputs) == 1 else ""
    for tensor in request.tensors:
        name = tensor.name or only
        if name in inputs:
            raise InvalidArgument.field(name, "this input came twice", reason="DUPLICATE_INPUT")
        inputs[name] = tensor_of(tensor)
    return inputs


def read_inputs_of(request: PredictRequest) -> Inputs:
    """Say how the inputs are read; raises InvalidArgument (TOO_MANY, INVALID_FIELD) as `lookups.check_ids` does."""
    if not request.entity_ids:
        return partial(inputs_of, request)
    ids = tuple(request.entity_ids)
    lookups.check_ids(ids)
    return lookups.EntityInputs(ids, partial(given_of, request))


def given_of(request: PredictRequest, signature: Signature) -> Given:
    """Read what a request with entities brings; raises InvalidArgument as `inputs_of`, but for what is missing."""
    if request.tensors or request.HasField("features"):
        if request.HasField("features") and not request.tensors:
            return given_in(request.features, signature)
        return Given(inputs_of(request, signature), {})
    return Given({}, {})


def response_of(prediction: Prediction) -> PredictResponse:
    """Write the answer."""
    response = PredictResponse()
    _write(prediction, response)
    return response


def stream_response_of(outcome: Prediction | Status) -> PredictStreamResponse:
    """Write the answer to one request of a stream."""
    if isinstance(outcome, Status):
        return PredictStreamResponse(error=outcome)
    response = PredictStreamResponse()
    _write(outcome, response.prediction)
    return response


def _write(prediction: Prediction, response: PredictResponse) -> None:
    version = prediction.version
    response.inference_id = prediction.inference_id
    response.confidences.extend(prediction.confidences)
    response.model = version.model
    response.version = version.version
    response.framework = version.framework
    response.latency_ms = prediction.latency_ms
    if prediction.cache:
        response.cache = prediction.cache
    if prediction.lookup is not None:
        response.lookup.CopyFrom(lookup_message(prediction.lookup, with_keys=False))
    for name, array in prediction.outputs.items():
        add_tensor(response.outputs, name, array)
