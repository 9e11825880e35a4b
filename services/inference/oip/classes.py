"""Scores as Triton's classification extension writes them: the best classes of each row."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from services.common.errors import InvalidArgument
from services.inference.models import ResolvedVersion
from services.inference.tensors import Tensor, datatype_of

LABELS_FIELD: Final = "labels"
"""The free field of a version's metadata that names its classes: a list, in their order."""


def best_classes(name: str, scores: Tensor, count: int, version: ResolvedVersion) -> Tensor:
    """Write the `count` best along the last dimension as `score:index`, or `score:index:label`, the best first.

    Raises InvalidArgument(INVALID_PARAMETER) for an output that has no scores.
    """
    if scores.dtype.hasobject or scores.dtype.kind in "SU" or scores.ndim == 0:
        sentence = f"{datatype_of(scores)} of shape {list(scores.shape)} has no scores; ask for it without it"
        raise InvalidArgument.field(f"{name}.parameters[classification]", sentence, reason="INVALID_PARAMETER")
    best = np.argsort(-scores.astype(np.float64), axis=-1, kind="stable")[..., :count]
    ranked = np.take_along_axis(scores, best, axis=-1)
    whole = ranked.dtype.kind in "iub"
    values: list[Any] = (ranked if whole else ranked.astype(np.float64)).ravel().tolist()
    labels = _labels_of(version)
    classes = np.empty(best.size, dtype=object)
    classes[:] = [
        (f"{value:d}:{index}" if whole else f"{value:f}:{index}") + (f":{labels[index]}" if index in labels else "")
        for value, index in zip(values, best.ravel().tolist(), strict=True)
    ]
    return classes.reshape(best.shape)


def _labels_of(version: ResolvedVersion) -> dict[int, str]:
    named = version.metadata.fields.get(LABELS_FIELD)
    return dict(enumerate(map(str, named))) if isinstance(named, list) else {}
