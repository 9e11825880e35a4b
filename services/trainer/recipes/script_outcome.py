"""What a script says of the version that it left; what it leaves unsaid is seen from the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from services.common.model_files import graphs
from services.trainer.faults import TrainingFailed
from services.trainer.recipes.context import Context
from services.trainer.recipes.provenance import code_sha256, environment
from services.trainer.task import Outcome

_LIBRARIES: Final = (
    "numpy", "pyarrow", "pandas", "scikit-learn", "skl2onnx", "xgboost", "lightgbm", "torch", "tensorflow",
    "tensorflow-cpu", "keras", "onnx", "onnxruntime",
)  # fmt: skip


def outcome_of(said: Any, context: Context, recipe: str) -> Outcome:
    """Make an outcome of what `train` gave back: an Outcome, an object of its fields, or nothing.

    `framework` is seen from the files, `features` may be an object of datatypes by name, and `environment` and
    `code_sha256` are added.

    Raises:
        TrainingFailed: INVALID_OUTCOME: it is none of these, or has fields that an Outcome has not.
    """
    if isinstance(said, Outcome):
        said = {each.name: getattr(said, each.name) for each in fields(said)}
        said["features"] = [{"name": each.name, "datatype": each.datatype} for each in said["features"]]
    if said is None:
        said = {}
    if not isinstance(said, Mapping):
        raise _invalid(f"train(context) gave back a {type(said).__name__}; give back an object of an Outcome's fields")
    known = {each.name for each in fields(Outcome)}
    if unknown := sorted(map(str, set(said) - known)):
        raise _invalid(f"train(context) gave back {', '.join(unknown)}; an Outcome has {', '.join(sorted(known))}")
    told = dict(said)
    features = told.get("features", ())
    if isinstance(features, Mapping):
        told["features"] = [{"name": name, "datatype": datatype} for name, datatype in features.items()]
    ran_with = {**environment(*_LIBRARIES), **told.get("environment", {})}
    told["framework"] = told.get("framework") or _framework(context)
    told["environment"] = ran_with
    told["code_sha256"] = told.get("code_sha256") or code_sha256(recipe, context.parameters, ran_with)
    try:
        return Outcome.of(told)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _invalid(f"train(context) gave back what is no outcome: {error}") from error


def _framework(context: Context) -> str:
    files = [path.relative_to(context.artifact).as_posix() for path in context.artifact.rglob("*") if path.is_file()]
    if any(path.endswith(("saved_model.pb", ".keras")) for path in files):
        return "TENSORFLOW"
    if graphs(files):
        return "TRANSFORMERS" if "tokenizer.json" in files else "ONNX"
    there = ", ".join(sorted(files)[:8]) or "nothing"
    raise _invalid(f"the script left {there} in context.artifact; leave an ONNX graph or a SavedModel there")


def _invalid(sentence: str) -> TrainingFailed:
    return TrainingFailed(sentence[:1_000], reason="INVALID_OUTCOME")
