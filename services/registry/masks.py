"""Field masks, read: which fields of an update count, and their new values, checked."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from penstock.api.registry.v1 import registry_pb2 as pb
from services.common import checks
from services.common.errors import InvalidArgument
from services.registry import convert, measures, serving_protos
from services.registry.edits import MODEL_FIELDS, VERSION_FIELDS, ModelEdit, VersionEdit

MAX_PATHS = 64
_READ: Mapping[str, Callable[[Any], Any]] = {
    "description": lambda found: checks.text("description", found.description),
    "tags": lambda found: checks.tags("tags", found.tags),
    "labels": lambda found: checks.labels("labels", found.labels),
    "training_config": lambda found: measures.training_config(found.training_config),
    "serving_settings": lambda found: serving_protos.serving_settings(found.serving_settings),
    "capture_policy": lambda found: convert.capture_policy(found.capture_policy),
}


def model_edit(request: pb.UpdateModelRequest) -> ModelEdit:
    """Read a change of a model; only what the mask names is looked at."""
    model = request.model
    return ModelEdit(
        name=checks.model_name("model.name", model.name),
        etag=checks.line("model.etag", model.etag),
        values=_values(model, request.update_mask, MODEL_FIELDS),
    )


def version_edit(request: pb.UpdateVersionRequest) -> VersionEdit:
    """Read a change of a version; only what the mask names is looked at."""
    version = request.version
    return VersionEdit(
        model=checks.model_name("version.model", version.model),
        version=checks.version_name("version.version", version.version),
        etag=checks.line("version.etag", version.etag),
        values=_values(version, request.update_mask, VERSION_FIELDS),
    )


def _values(found: pb.Model | pb.ModelVersion, mask: FieldMask, allowed: tuple[str, ...]) -> dict[str, Any]:
    """Read the fields that a mask names.

    Raises:
        InvalidArgument: the mask is empty, or names what there is not or what does not change (INVALID_MASK).
    """
    if not 0 < len(mask.paths) <= MAX_PATHS:
        raise _invalid(f"{len(mask.paths):,} fields are named; name 1 to {MAX_PATHS}", allowed)
    unknown = next((path for path in mask.paths if path not in allowed), None)
    if unknown is not None:
        raise _invalid(f"{checks.shown(unknown)} is no field that can be changed", allowed)
    wholes = {path.partition(".")[0] for path in mask.paths}
    values = {whole: _READ[whole](found) for whole in wholes}
    return {path: _at(values, path) for path in mask.paths}


def _at(values: Mapping[str, Any], path: str) -> Any:
    whole, *inner = path.split(".")
    return functools.reduce(getattr, inner, values[whole])


def _invalid(what: str, allowed: tuple[str, ...]) -> InvalidArgument:
    return InvalidArgument.field("update_mask", f"{what}; allowed are {', '.join(allowed)}", reason="INVALID_MASK")
