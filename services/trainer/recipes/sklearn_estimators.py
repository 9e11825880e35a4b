"""The estimators of scikit-learn that become ONNX, by name, and what they may be told. Imported while a run trains."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

from skl2onnx import get_model_alias
from sklearn.base import is_classifier
from sklearn.utils import all_estimators

from services.trainer.faults import TrainingFailed

_SEEDED: Final = "random_state"


def classes_by_name() -> dict[str, type]:
    """Give every classifier and regressor of one label that skl2onnx converts and that needs no other to be made."""
    found = {name: kind for name, kind in all_estimators(type_filter=["classifier", "regressor"]) if _alone(kind)}
    return {name: kind for name, kind in found.items() if _converts(kind) and not name.startswith("MultiTask")}


def made(name: str, parameters: Mapping[str, Any], *, seed: int, regression: bool) -> Any:
    """Make an estimator; its `random_state` is the seed, unless it is among the parameters.

    Raises:
        TrainingFailed: INVALID_PARAMETERS: there is no such estimator, it has no such parameter, or it is not for this
            task. What values a parameter takes scikit-learn says when it fits.
    """
    known = classes_by_name()
    if name not in known:
        raise _invalid(f"there is no estimator {name!r} that becomes ONNX; there are {', '.join(known)}")
    kind = known[name]
    takes = [each for each in inspect.signature(kind).parameters if each not in ("args", "kwargs")]
    unknown = sorted(set(parameters) - set(takes))
    if unknown:
        raise _invalid(f"{name} has no parameter {unknown[0]!r}; it has {', '.join(takes)}")
    given = dict(parameters)
    if _SEEDED in takes:
        given.setdefault(_SEEDED, seed)
    estimator = kind(**given)
    if is_classifier(estimator) is regression:
        task = "a regression" if regression else "classes"
        others = [each for each, other in known.items() if is_classifier(other()) is not regression]
        raise _invalid(f"{name} is not for {task}; these are: {', '.join(others)}")
    return estimator


def _alone(kind: type) -> bool:
    signature = inspect.signature(kind)
    return all(
        each.default is not inspect.Parameter.empty or each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        for each in signature.parameters.values()
    )


def _converts(kind: type) -> bool:
    try:
        get_model_alias(kind)
    except RuntimeError:
        return False
    return True


def _invalid(sentence: str) -> TrainingFailed:
    return TrainingFailed(sentence, reason="INVALID_PARAMETERS")
