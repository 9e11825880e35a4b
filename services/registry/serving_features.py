"""A version's feature view: protos to what the use cases take, each field checked by itself, and back."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.struct_pb2 import Struct

from penstock.api.registry.v1 import registry_pb2 as pb
from services.common import checks
from services.common.errors import InvalidArgument
from services.registry.models import Signature
from services.registry.serving import FeatureViewPolicy, MissingFeatureAction, ServingSettings

FIELD: Final = "serving_settings.feature_view"
MAX_NAMES: Final = 1_000
MAX_FEATURE_CHARS: Final = 63
MAX_VERSION: Final = 2**31 - 1


def feature_view(policy: pb.FeatureViewPolicy) -> FeatureViewPolicy:
    """Read how inputs are filled from a feature view."""
    action = checks.enum_name(
        f"{FIELD}.missing_action", pb.MissingFeatureAction, policy.missing_action, "MISSING_FEATURE_ACTION_"
    )
    return FeatureViewPolicy(
        view=_view(policy.view) if policy.view else "",
        names={_input("names", name): _feature(name, policy.names[name]) for name in _few("names", policy.names)},
        missing_action=MissingFeatureAction(action) if action else None,
        defaults=_defaults(policy.defaults),
    )


def view_message(policy: FeatureViewPolicy) -> pb.FeatureViewPolicy:
    """Write how inputs are filled from a feature view."""
    action = f"MISSING_FEATURE_ACTION_{policy.missing_action or 'UNSPECIFIED'}"
    message = pb.FeatureViewPolicy(
        view=policy.view,
        names=policy.names,
        missing_action=pb.MissingFeatureAction.Value(action),
    )
    if policy.defaults:
        message.defaults.update(policy.defaults)
    return message


def check_inputs(settings: ServingSettings, signature: Signature | None) -> None:
    """Let names and defaults pass that are of the model's inputs and columns, as far as its signature is known.

    Raises:
        InvalidArgument: one is neither (SIGNATURE_MISMATCH).
    """
    if signature is None or not signature.inputs or not all(spec.datatype for spec in signature.inputs):
        return
    known = {name for spec in signature.inputs for name in (spec.name, *spec.columns)}
    for field in ("names", "defaults"):
        for name in getattr(settings.feature_view, field):
            if name not in known:
                raise InvalidArgument.field(
                    f"{FIELD}.{field}",
                    f"{checks.shown(name)} is no input and no column; there are {', '.join(sorted(known))}",
                    reason="SIGNATURE_MISMATCH",
                )


def _view(text: str) -> str:
    name, mark, version = text.partition("@")
    checks.model_name(f"{FIELD}.view", name)
    number = int(version) if version.isascii() and version.isdigit() and len(version) <= len(str(MAX_VERSION)) else 0
    if mark and not 1 <= number <= MAX_VERSION:
        raise InvalidArgument.field(
            f"{FIELD}.view", f"got {checks.shown(text)}; send a view's name, or name@2", reason="INVALID_NAME"
        )
    return f"{name}@{number}" if mark else name


def _few(field: str, values: Any) -> Any:
    if len(values) > MAX_NAMES:
        raise InvalidArgument.field(
            f"{FIELD}.{field}", f"{len(values):,} came; at most {MAX_NAMES:,} are allowed", reason="TOO_MANY"
        )
    return values


def _input(field: str, name: str) -> str:
    checks.line(f"{FIELD}.{field}", name)
    if not name:
        raise InvalidArgument.field(
            f"{FIELD}.{field}", "a name is empty; name the input or the column as the model does", reason="INVALID_NAME"
        )
    return name


def _feature(name: str, feature: str) -> str:
    field = f"{FIELD}.names[{name[:MAX_FEATURE_CHARS]}]"
    checks.line(field, feature, MAX_FEATURE_CHARS)
    if not feature:
        raise InvalidArgument.field(field, "empty; name the view's feature", reason="INVALID_NAME")
    return feature


def _defaults(message: Struct) -> dict[str, float | str | bool]:
    found = checks.json_object(f"{FIELD}.defaults", message)
    for name, value in _few("defaults", found).items():
        _input("defaults", name)
        if not isinstance(value, float | int | str | bool):
            raise InvalidArgument.field(
                f"{FIELD}.defaults", f"{checks.shown(name)} is no number, text or boolean", reason="INVALID_FIELDS"
            )
    return found
