"""A feature's values as the model takes them: its datatype, and what stands in where there is no value."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock.feature_columns import FeatureValues
from services.common.errors import FailedPrecondition
from services.inference.features import is_float
from services.inference.models import FeatureViewPolicy, MissingFeatureAction, TensorSpec
from services.inference.tensors import Tensor, dtype_of

_REASONS: Final = {"ABSENT": "ENTITY_NOT_FOUND", "EXPIRED": "FEATURE_STALE"}
_MAX_ECHOED_CHARS: Final = 64


class FeatureColumns:
    """What was read for one request, feature by feature. `substituted_count`: values for which others stood in."""

    def __init__(self, found: FeatureValues, policy: FeatureViewPolicy) -> None:
        self._found = found
        self._policy = policy
        self.substituted_count = 0

    def column(self, name: str, feature: str, datatype: str) -> Tensor:
        """Give a feature of one value a row, for the model's input or column `name`.

        Raises:
            FailedPrecondition: there is no value and none may stand in (ENTITY_NOT_FOUND, FEATURE_MISSING,
                FEATURE_STALE), or values are not what the model takes (FEATURE_MISMATCH).
        """
        values = self._found.columns[feature]
        dtype = dtype_of(name, datatype)
        if values.ndim > 1 or not _suits(values.dtype, dtype):
            raise self._mismatch(name, feature, datatype)
        typed = self._typed(name, feature, values, dtype)
        gone = self._found.missing[feature]
        if gone.any():
            typed = typed.copy()
            typed[gone] = self._stand_in(name, feature, dtype, gone)
        return typed

    def whole(self, spec: TensorSpec, feature: str) -> Tensor:
        """Give a feature as a whole input: of one value a row, or a list a row; raises as `column`."""
        values = self._found.columns[feature]
        rank = len(spec.shape)
        if values.ndim == 1 and rank == 2 and spec.shape[1] in (1, -1):
            return self.column(spec.name, feature, spec.datatype).reshape(-1, 1)
        if values.ndim == 1 and rank == 1:
            return self.column(spec.name, feature, spec.datatype)
        dtype = dtype_of(spec.name, spec.datatype)
        if values.ndim != 2 or rank != 2 or not is_float(dtype):
            raise self._mismatch(spec.name, feature, f"{spec.datatype} {list(spec.shape)}")
        gone = self._found.missing[feature]
        if gone.any():  # a list has no default; and where no row has one, it has no length either
            width = spec.shape[1] if gone.all() and spec.shape[1] > 0 else values.shape[1]
            values = np.where(gone[:, None], np.nan, values if values.shape[1] == width else np.zeros((1, width)))
            self._stand_in(spec.name, feature, dtype, gone, width=width)
        if spec.shape[1] not in (-1, values.shape[1]):
            raise self._mismatch(spec.name, feature, f"{spec.datatype} {list(spec.shape)}")
        return self._typed(spec.name, feature, values, dtype)

    def _typed(self, name: str, feature: str, values: NDArray[Any], dtype: np.dtype[Any]) -> Tensor:
        if dtype.hasobject:
            texts = np.empty(len(values), dtype=object)
            texts[:] = [text.encode() for text in values.tolist()]
            return texts
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            typed = values.astype(dtype)
        if is_float(dtype):
            lost = np.isinf(typed) & np.isfinite(values.astype(np.float64))
        else:
            lost = typed.astype(values.dtype) != values if values.dtype.kind == "i" else np.zeros(1, bool)
            if dtype.kind == "u":
                lost = lost | (values < 0)
        if lost.any():
            raise FailedPrecondition(
                f"the feature {feature!r} has a value that {name!r} does not hold: it is {dtype}",
                reason="FEATURE_MISMATCH",
            )
        return typed

    def _stand_in(
        self, name: str, feature: str, dtype: np.dtype[Any], gone: NDArray[np.bool_], *, width: int = 0
    ) -> Any:
        """Give what stands in for values that are not there, and count them; raises where nothing may."""
        policy, found = self._policy, self._found
        default = None if policy.missing_action is MissingFeatureAction.REFUSE or width else policy.defaults.get(name)
        self.substituted_count += int(gone.sum())
        if default is not None:
            return self._default(name, default, dtype)
        if policy.missing_action is MissingFeatureAction.USE_NAN and is_float(dtype):
            return np.nan
        row = int(gone.argmax())
        entity, status = found.keys[row][:_MAX_ECHOED_CHARS], found.statuses[row]
        view = f"{found.view}@{found.version}"
        sentence = {
            "ABSENT": f"{view} knows nothing of {entity!r}; write it, or send {name!r}",
            "EXPIRED": f"what {view} knows of {entity!r} is older than its TTL; write it anew, or send {name!r}",
        }.get(status, f"{view} has no {feature!r} of {entity!r}; write it, or send {name!r}")
        raise FailedPrecondition(sentence, reason=_REASONS.get(status, "FEATURE_MISSING"))

    def _default(self, name: str, default: float | str | bool, dtype: np.dtype[Any]) -> Any:
        text = isinstance(default, str)
        if text != dtype.hasobject or (dtype.kind == "b") != isinstance(default, bool):
            raise self._no_default(name, default, dtype)
        if isinstance(default, str):
            return default.encode()
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            if not (float(default).is_integer() and limits.min <= default <= limits.max):
                raise self._no_default(name, default, dtype)
            return int(default)
        return default

    def _no_default(self, name: str, default: float | str | bool, dtype: np.dtype[Any]) -> FailedPrecondition:
        return FailedPrecondition(
            f"the default {default!r} of {name!r} is no {'text' if dtype.hasobject else dtype}; change it in the "
            "version's serving settings",
            reason="FEATURE_MISMATCH",
        )

    def _mismatch(self, name: str, feature: str, takes: str) -> FailedPrecondition:
        values = self._found.columns[feature]
        kind = "texts" if values.dtype.hasobject else "lists" if values.ndim > 1 else str(values.dtype)
        return FailedPrecondition(
            f"the feature {feature!r} of {self._found.view}@{self._found.version} has {kind}; {name!r} takes {takes}",
            reason="FEATURE_MISMATCH",
        )


def _suits(feature: np.dtype[Any], taken: np.dtype[Any]) -> bool:
    """Whether values of a feature's type are, as they are, also of the model's. True and false are 1 and 0."""
    if feature.hasobject or taken.hasobject:
        return bool(feature.hasobject and taken.hasobject)
    kinds = {"f": "", "i": "iu", "b": "biu"}[feature.kind]
    return is_float(taken) or taken.kind in kinds
