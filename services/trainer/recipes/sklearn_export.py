"""A fitted estimator as an ONNX graph with its preprocessing, by skl2onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.onnx_version import OPSETS, OnnxVersion
from services.trainer.recipes.rows import Rows


def export(estimator: Any, rows: Rows, path: Path) -> None:
    """Write the graph; raises TrainingFailed(INVALID_OUTCOME) where the estimator does not become one."""
    name = type(estimator).__name__
    target = rows.target
    likely = hasattr(estimator, "predict_proba")
    # What a classifier answers for a class is a column, not a map; of scores that are no probabilities it never is one.
    options = {"zipmap": False} if likely else {}
    try:
        converted = convert_sklearn(
            estimator,
            initial_types=[("matrix", FloatTensorType([None, rows.preprocessing.width]))],
            target_opset=dict(OPSETS),
            options={id(estimator): options},
        )
    except Exception as error:  # whatever skl2onnx raises of an estimator as it was told
        sentence = f"{name}, with these parameters, does not become ONNX: {error}"
        raise TrainingFailed(sentence[:1_000], reason="INVALID_OUTCOME") from error
    version = OnnxVersion(rows.preprocessing)
    first, *others = version.embed(converted, version.matrix)
    if target.is_regression:
        version.answer_number(first)
    else:
        version.answer_classes(target, first, others[0] if likely else "")
    version.write(path, producer="sklearn")
