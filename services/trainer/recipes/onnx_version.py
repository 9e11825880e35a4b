"""The ONNX graph of a version: preprocessing, then a model, then answers. Imported by recipes while they train.

Inputs are `features` FP32 [-1, n], or with texts among the columns one [-1, 1] a column. Outputs: of a classifier
`label` [-1], whole numbers or texts as the rows had them, and `probabilities` FP32 [-1, classes]; of a regression
`prediction` FP32 [-1, 1]. Rows are independent of each other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

# Since 1.29 ONNX Runtime reports to its makers over the network, unless told not to before it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.preprocessing import Preprocessing
from services.trainer.recipes.targets import Target

OPSETS: Final = {"": 17, "ai.onnx.ml": 3}
"""Old enough for every runtime of the last years."""
IR_VERSION: Final = 8
LABEL, PROBABILITIES, PREDICTION = "label", "probabilities", "prediction"
RECIPE: Final = "penstock.recipe"
"""Where a graph keeps what its recipe needs to go on from it, as JSON."""
_FATAL_ONLY: Final = 4
_MAX_SENTENCE_CHARS: Final = 1_000
_ML: Final = "ai.onnx.ml"
OWN: Final = "penstock/"
"""What every name in a graph begins with, but for its inputs and outputs: a column may be called anything else."""


class OnnxVersion:
    """A graph that grows: it begins with the inputs and their preprocessing, whose matrix is `matrix`."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._opsets = dict(OPSETS)
        self.matrix = self._preprocessed(preprocessing)
        """The name of the tensor FP32 [rows, width] that a model takes."""

    def add(self, operator: str, inputs: Sequence[str], *, output: str = "", domain: str = "", **more: Any) -> str:
        """Append a node, with more attributes; gives its output's name."""
        name = output or f"{OWN}{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], domain=domain, **more))
        return name

    def constant(self, array: NDArray[Any], name: str = "") -> str:
        """Append a constant; gives its name."""
        name = f"{OWN}{name or f'constant_{len(self._constants)}'}"
        if array.dtype.hasobject:
            texts = [text.encode() for text in array.reshape(-1)]
            self._constants.append(helper.make_tensor(name, TensorProto.STRING, array.shape, texts))
        else:
            self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def embed(self, model: onnx.ModelProto, tensor: str) -> list[str]:
        """Append another model of one input, which is given this tensor; gives its outputs' names."""
        inner = onnx.compose.add_prefix(model, f"{OWN}inner/")
        (taken,) = (value.name for value in inner.graph.input)
        self.add("Identity", [tensor], output=taken)
        self._nodes.extend(inner.graph.node)
        self._constants.extend(inner.graph.initializer)
        for opset in inner.opset_import:
            self._opsets[opset.domain] = max(self._opsets.get(opset.domain, 0), opset.version)
        return [value.name for value in inner.graph.output]

    def answer_classes(self, target: Target, place: str, probabilities: str = "") -> None:
        """Answer with the class in this place, INT64 [rows], and with its probabilities."""
        served = target.served()
        self.add("Gather", [self.constant(served, "classes"), place], output=LABEL)
        kind = TensorProto.STRING if served.dtype.hasobject else TensorProto.INT64
        self._outputs.append(helper.make_tensor_value_info(LABEL, kind, ["rows"]))
        if probabilities:
            self.add("Identity", [probabilities], output=PROBABILITIES)
            columns = len(target.classes)
            self._outputs.append(helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["rows", columns]))

    def answer_number(self, number: str) -> None:
        """Answer with a number, FP32 [rows, 1]."""
        self.add("Identity", [number], output=PREDICTION)
        self._outputs.append(helper.make_tensor_value_info(PREDICTION, TensorProto.FLOAT, ["rows", 1]))

    def write(self, path: Path, *, producer: str, recipe: Mapping[str, Any] | None = None) -> None:
        """Write the file; `recipe` is kept in it as JSON, for whoever goes on from it."""
        graph = helper.make_graph(self._nodes, producer, self._inputs, self._outputs, self._constants)
        opsets = [helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        model = helper.make_model(graph, producer_name=f"penstock {producer}", opset_imports=opsets)
        model.ir_version = IR_VERSION
        if recipe is not None:
            helper.set_model_props(model, {RECIPE: json.dumps(recipe)})
        onnx.save(model, path)

    def _preprocessed(self, preprocessing: Preprocessing) -> str:
        if preprocessing.input_name:
            columns = len(preprocessing.numbers)
            self._takes(preprocessing.input_name, TensorProto.FLOAT, columns)
            return self._numbers(preprocessing, preprocessing.input_name)
        texts = {each.name for each in preprocessing.categories}
        for name in preprocessing.order:
            self._takes(name, TensorProto.STRING if name in texts else TensorProto.FLOAT, 1)
        parts = []
        if preprocessing.numbers:
            columns_of_numbers = [each.name for each in preprocessing.numbers]
            parts.append(self._numbers(preprocessing, self.add("Concat", columns_of_numbers, axis=1)))
        parts += [self._ones(each.name, each.fill, each.categories) for each in preprocessing.categories]
        return self.add("Concat", parts, axis=1)

    def _takes(self, name: str, kind: int, columns: int) -> None:
        self._inputs.append(helper.make_tensor_value_info(name, kind, ["rows", columns]))

    def _numbers(self, preprocessing: Preprocessing, raw: str) -> str:
        fill, center, scale = map(self.constant, preprocessing.constants())
        missing = self.add("Or", [self.add("IsNaN", [raw]), self.add("IsInf", [raw])])
        filled = self.add("Where", [missing, fill, raw])
        return self.add("Div", [self.add("Sub", [filled, center]), scale])

    def _ones(self, raw: str, fill: str, categories: Sequence[str]) -> str:
        """Look the row of a category up in a table of ones and zeros, whose last row is that of an unknown one."""
        width = len(categories)
        places = {"": categories.index(fill)} | {text: place for place, text in enumerate(categories)}
        place = self.add(
            "LabelEncoder", [raw], domain=_ML,
            keys_strings=list(places), values_int64s=list(places.values()), default_int64=width,
        )  # fmt: skip
        table = self.constant(np.eye(width + 1, width, dtype=np.float32))
        looked_up = self.add("Gather", [table, place])
        return self.add("Reshape", [looked_up, self.constant(np.array([-1, width], np.int64))])


def run(path: Path, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run a version as it is served, but on one thread; raises TrainingFailed(INVALID_OUTCOME) where it cannot be."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY  # the rest comes as an exception
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except Exception as error:  # ONNX Runtime's share no base
        sentence = f"ONNX Runtime does not run the graph that was made: {error}"
        raise TrainingFailed(sentence[:_MAX_SENTENCE_CHARS], reason="INVALID_OUTCOME") from error
