"""Fills what a request leaves out of its inputs with what a feature view knows of its entities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.common.errors import FailedPrecondition, InvalidArgument
from services.inference.features import Given, stack_columns
from services.inference.lookups.columns import FeatureColumns
from services.inference.lookups.reader import FeatureReader
from services.inference.models import ANY, Lookup, ResolvedVersion, Signature, TensorSpec
from services.inference.tensors import Tensor

MAX_ENTITIES: Final = 10_000
MAX_ENTITY_CHARS: Final = 256


@dataclass(frozen=True, slots=True)
class EntityInputs:
    """The inputs of a request that names entities, one a row: what it brings, once the signature is known."""

    ids: tuple[str, ...]
    read_given: Callable[[Signature], Given]


def check_ids(ids: tuple[str, ...]) -> None:
    """Let ids pass that a feature view could have; raises InvalidArgument (TOO_MANY, INVALID_FIELD)."""
    if len(ids) > MAX_ENTITIES:
        raise InvalidArgument.field(
            "entity_ids",
            f"{len(ids):,} came; {MAX_ENTITIES:,} are the most: send them in parts",
            reason="TOO_MANY",
        )
    if not all(0 < len(each) <= MAX_ENTITY_CHARS for each in ids):
        raise InvalidArgument.field(
            "entity_ids", f"each needs 1 to {MAX_ENTITY_CHARS} characters; one has not", reason="INVALID_FIELD"
        )


class FeatureLookups:
    """Fills inputs from feature views, as versions' serving settings say."""

    def __init__(self, reader: FeatureReader) -> None:
        self._reader = reader

    def fill(
        self, version: ResolvedVersion, asked: EntityInputs, left_s: float | None
    ) -> tuple[dict[str, Tensor], Lookup | None]:
        """Give all inputs, and what was looked up: None where the request brings all of them.

        Args:
            version: whose inputs they are.
            asked: the entities, and what the request brings: that wins.
            left_s: the time that the caller has left; None: any.

        Raises:
            FailedPrecondition: NO_FEATURE_VIEW, or as `FeatureReader.read` and `FeatureColumns` say.
            InvalidArgument: the request brings another number of rows (ENTITY_COUNT_MISMATCH), or what
                `EntityInputs.read_given` refuses.
            DomainError: what `FeatureReader.read` raises.
        """
        policy = version.serving.feature_view
        if not policy.view:
            raise FailedPrecondition(
                f"{version.model} {version.version} fills no inputs: its serving settings name no feature_view; send "
                f"all inputs, or `penstock model set {version.model} {version.version} --serving feature_view.view=…`",
                reason="NO_FEATURE_VIEW",
            )
        given, count = asked.read_given(version.signature), len(asked.ids)
        _check_rows(version.signature, given, count)
        wanted = {name: policy.names.get(name, name) for name in _left_out(version.signature, given)}
        if not wanted:
            return _assembled(version.signature, given, count, {}), None
        found = self._reader.read(policy.view, list(dict.fromkeys(wanted.values())), asked.ids, left_s)
        columns = FeatureColumns(found, policy)
        filled: dict[str, Tensor] = {}
        for spec in version.signature.inputs:
            if spec.name in wanted and not spec.columns:
                filled[spec.name] = columns.whole(spec, wanted[spec.name])
            for name in spec.columns:
                if name in wanted and spec.name not in given.inputs:
                    filled[name] = columns.column(name, wanted[name], spec.datatype)
        lookup = Lookup(
            found.view,
            found.version,
            tuple(wanted),
            asked.ids,
            tuple(found.event_times_us.tolist()),
            columns.substituted_count,
        )
        return _assembled(version.signature, given, count, filled), lookup


def _left_out(signature: Signature, given: Given) -> list[str]:
    """Name the inputs that a request leaves out, and the columns of those that have columns."""
    names: list[str] = []
    for spec in signature.inputs:
        if spec.name not in given.inputs:
            names += [name for name in spec.columns or (spec.name,) if name not in given.columns]
    return names


def _assembled(signature: Signature, given: Given, count: int, filled: Mapping[str, Tensor]) -> dict[str, Tensor]:
    inputs: dict[str, Tensor] = {}
    for spec in signature.inputs:
        if spec.name in given.inputs:
            inputs[spec.name] = given.inputs[spec.name]
        elif spec.columns:
            columns = {name: given.columns[name] if name in given.columns else filled[name] for name in spec.columns}
            stacked = stack_columns(spec, columns)
            inputs[spec.name] = np.ascontiguousarray(np.broadcast_to(stacked, (count, stacked.shape[1])))
        else:
            inputs[spec.name] = filled[spec.name]
    # What is none of the model's is refused with all other inputs.
    return {**inputs, **{name: tensor for name, tensor in given.inputs.items() if name not in inputs}}


def _check_rows(signature: Signature, given: Given, count: int) -> None:
    for name, column in given.columns.items():
        if column.size not in (1, count):
            raise _mismatch(name, column.size, count)
    for spec in signature.inputs:
        if spec.name in given.inputs and _has_rows(spec):
            shape = given.inputs[spec.name].shape
            if shape and shape[0] != count:
                raise _mismatch(spec.name, shape[0], count)


def _has_rows(spec: TensorSpec) -> bool:
    return bool(spec.shape) and spec.shape[0] == ANY


def _mismatch(name: str, came: int, count: int) -> InvalidArgument:
    sentence = f"{count} came, and {came} rows of {name!r}; name one entity a row"
    return InvalidArgument.field("entity_ids", sentence, reason="ENTITY_COUNT_MISMATCH")
