"""Changing what is registered: fields, deletion and restoration, evaluations."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.errors import FieldViolation, InvalidArgument
from penstock.ids import uuid7
from penstock.paging import pages
from penstock.registry_connection import RegistryConnected
from penstock.values import enum_number

Edited = TypeVar("Edited", pb.Model, pb.ModelVersion)


class Unset(enum.Enum):
    """Stands for what a caller does not mention, where None means: clear it."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
_ENUMS: Final = {"queue_full_action": pb.QueueFullAction, "missing_action": pb.MissingFeatureAction}


class RegistryEditing(RegistryConnected):
    """The part of the registry's client that changes what is there."""

    def update_model(
        self,
        name: str,
        *,
        description: str | Unset = UNSET,
        tags: Sequence[str] | Unset = UNSET,
        labels: Mapping[str, str] | Unset = UNSET,
        training_config: pb.TrainingConfig | Unset | None = UNSET,
        serving_settings: pb.ServingSettings | Mapping[str, Any] | Unset | None = UNSET,
        capture_policy: pb.CapturePolicy | Mapping[str, Any] | Unset | None = UNSET,
        etag: str = "",
    ) -> pb.Model:
        """Change what is given of a model, and nothing else.

        Args:
            name: the model.
            description: at most 4,096 characters.
            tags: all of them, in place of those that are there.
            labels: likewise.
            training_config: as a whole; None clears it.
            serving_settings: the default of later versions. A message replaces it, a mapping changes the fields that
                it names (None: back to the default), None clears it. For example `{"max_batch_size": 32,
                "queue_full_action": "displace", "response_cache": {"enabled": True, "ttl_ms": 60_000}}`, or with
                `warm_up` a list of WarmUpRequest, whose tensors `penstock.tensors.to_tensor` makes, or
                `{"feature_view": {"view": "spending@2", "names": {"column": "feature"}}}`.
            capture_policy: likewise.
            etag: the model's, as it was read: then nothing is changed that somebody else changed since.

        Raises:
            Aborted: somebody did (ETAG_MISMATCH).
        """
        model, paths = pb.Model(name=name, etag=etag), list[str]()
        for field, value in (("description", description), ("tags", tags), ("labels", labels)):
            _replace(model, paths, field, value)
        for field, message in (
            ("training_config", training_config),
            ("serving_settings", serving_settings),
            ("capture_policy", capture_policy),
        ):
            _put(model, paths, field, message)
        request = pb.UpdateModelRequest(model=model, update_mask=FieldMask(paths=paths))
        return self._connection.unary(self._connection.stub.UpdateModel, request).model

    def update_version(
        self,
        model: str,
        version: str,
        *,
        description: str | Unset = UNSET,
        labels: Mapping[str, str] | Unset = UNSET,
        serving_settings: pb.ServingSettings | Mapping[str, Any] | Unset | None = UNSET,
        capture_policy: pb.CapturePolicy | Mapping[str, Any] | Unset | None = UNSET,
        etag: str = "",
    ) -> pb.ModelVersion:
        """Change what is given of a version, and nothing else; inference follows at once. See `update_model`.

        Raises:
            Aborted: somebody changed it since it was read (ETAG_MISMATCH).
        """
        edited, paths = pb.ModelVersion(model=model, version=version, etag=etag), list[str]()
        for field, value in (("description", description), ("labels", labels)):
            _replace(edited, paths, field, value)
        for field, message in (("serving_settings", serving_settings), ("capture_policy", capture_policy)):
            _put(edited, paths, field, message)
        request = pb.UpdateVersionRequest(version=edited, update_mask=FieldMask(paths=paths))
        return self._connection.unary(self._connection.stub.UpdateVersion, request).version

    def delete_model(self, name: str, *, force: bool = False, etag: str = "") -> pb.Model:
        """Hide a model with all its versions; until its `purge_time` it can be restored. Never retried.

        Args:
            name: the model; it stays taken until then.
            force: also while a version is in PRODUCTION: from then on nothing answers under this name.
            etag: see `update_model`.
        """
        request = pb.DeleteModelRequest(name=name, force=force, etag=etag)
        return self._connection.unary(self._connection.stub.DeleteModel, request).model

    def restore_model(self, name: str) -> pb.Model:
        """Bring a deleted model back, with the versions that went with it. Never retried."""
        request = pb.RestoreModelRequest(name=name)
        return self._connection.unary(self._connection.stub.RestoreModel, request).model

    def delete_version(self, model: str, version: str, *, etag: str = "") -> pb.ModelVersion:
        """Hide a version; until its `purge_time` it can be restored. Never retried.

        The name of one that was ever READY is never given again; that of a FAILED one is free at once.
        """
        request = pb.DeleteVersionRequest(model=model, version=version, etag=etag)
        return self._connection.unary(self._connection.stub.DeleteVersion, request).version

    def restore_version(self, model: str, version: str) -> pb.ModelVersion:
        """Bring a deleted version back, in the stage it had. Never retried."""
        request = pb.RestoreVersionRequest(model=model, version=version)
        return self._connection.unary(self._connection.stub.RestoreVersion, request).version

    def record_evaluation(
        self,
        model: str,
        version: str,
        metrics: Mapping[str, float],
        *,
        dataset: str = "",
        note: str = "",
        request_id: str | None = None,
        failure: str = "",
    ) -> pb.Evaluation:
        """Record how well a version did; the answer says whether the model's success criteria are met.

        Args:
            model: the model.
            version: the exact version.
            metrics: by name: at most 256 of finite numbers, and one at least where there is no failure.
            dataset: on what, for example a dataset's name and digest; at most 256 characters.
            note: at most 4,096 characters.
            request_id: the same again gives the first result for 7 days. None: a new one.
            failure: why it could not be tried (it does not load, or answers with errors): it has not passed then.
        """
        request = pb.RecordEvaluationRequest(
            model=model,
            version=version,
            metrics=metrics,
            dataset=dataset,
            note=note,
            request_id=request_id or uuid7(),
            failure=failure,
        )
        return self._connection.unary(self._connection.stub.RecordEvaluation, request).evaluation

    def evaluations(self, model: str, version: str = "", *, page_size: int = 0) -> Iterator[pb.Evaluation]:
        """List the evaluations of a model, or of one version, the newest first."""

        def fetch(token: str) -> pb.ListEvaluationsResponse:
            request = pb.ListEvaluationsRequest(model=model, version=version, page_size=page_size, page_token=token)
            return self._connection.unary(self._connection.stub.ListEvaluations, request)

        return (evaluation for page in pages(fetch) for evaluation in page.evaluations)


def _replace(edited: Edited, paths: list[str], field: str, value: Any) -> None:
    """Set a scalar, a list or a map, and name it in the mask; what the caller did not mention stays."""
    if value is UNSET:
        return
    paths.append(field)
    edited.MergeFrom(type(edited)(**{field: value}))


def _put(edited: Edited, paths: list[str], field: str, value: Any) -> None:
    """Set a message and name it in the mask, or of a mapping the single fields that it names."""
    if value is UNSET:
        return
    if not isinstance(value, Mapping):
        paths.append(field)
        if value is not None:
            getattr(edited, field).CopyFrom(value)
        return
    _put_each(getattr(edited, field), paths, field, value)


def _put_each(message: Message, paths: list[str], field: str, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name not in message.DESCRIPTOR.fields_by_name:
            allowed = ", ".join(message.DESCRIPTOR.fields_by_name)
            sentence = f"there is no {name!r}; it has {allowed}"
            violation = FieldViolation(f"{field}.{name}", sentence)
            raise InvalidArgument(f"{field}: {sentence}", reason="UNKNOWN_FIELD", violations=[violation])
        inner = message.DESCRIPTOR.fields_by_name[name].message_type
        if isinstance(value, Mapping) and inner not in (None, Struct.DESCRIPTOR) and not inner.GetOptions().map_entry:
            _put_each(getattr(message, name), paths, f"{field}.{name}", value)
            continue
        paths.append(f"{field}.{name}")
        if name in _ENUMS:
            value = enum_number(f"{field}.{name}", _ENUMS[name], value)
        if value is not None:
            message.MergeFrom(type(message)(**{name: value}))
