"""The ONNX graph of dense layers. Imported while a run trains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from services.trainer.recipes.dense_network import ACTIVATIONS
from services.trainer.recipes.onnx_version import OnnxVersion
from services.trainer.recipes.scores import BINARY

if TYPE_CHECKING:
    from services.trainer.recipes.keras_parent import Parent


def write_onnx(path: Path, made: Parent) -> None:
    """Write the graph, with what a finetune needs inside."""
    version, target = OnnxVersion(made.preprocessing), made.target
    said = version.matrix
    for place, layer in enumerate(made.network):
        kernel = version.constant(layer.kernel, f"kernel_{place}")
        said = version.add("Gemm", [said, kernel, version.constant(layer.bias, f"bias_{place}")])
        operator = ACTIVATIONS[layer.activation]
        said = version.add(operator, [said]) if operator else said
    if target.is_regression:
        scale, center = (version.constant(np.array(each, np.float32)) for each in (target.scale, target.center))
        version.answer_number(version.add("Add", [version.add("Mul", [said, scale]), center]))
    else:
        if target.task_type == BINARY:
            other = version.add("Sub", [version.constant(np.array(1, np.float32)), said])
            said = version.add("Concat", [other, said], axis=1)
        version.answer_classes(target, version.add("ArgMax", [said], axis=1, keepdims=0), said)
    version.write(path, producer="keras-mlp", recipe=made.to_json())
