"""The SavedModel of a network: inputs, preprocessing and answers of its ONNX graph. Imported while a run trains.

Only operators that compute are in it, and variables: no table, no file, nothing of Keras.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from services.trainer.recipes.dense_network import Network
from services.trainer.recipes.onnx_version import LABEL, PREDICTION, PROBABILITIES
from services.trainer.recipes.preprocessing import Category, Preprocessing
from services.trainer.recipes.scores import BINARY
from services.trainer.recipes.targets import Target

SIGNATURE: Final = "serving_default"
RECIPE: Final = "assets.extra/penstock.json"
"""Where what its recipe needs to go on from it is kept: a folder that TensorFlow leaves to others."""
VARIABLES: Final = "variables/variables"


def foreign_names(preprocessing: Preprocessing) -> list[str]:
    """Give the inputs' names that TensorFlow takes for none, such as those with a dot."""
    return [] if preprocessing.input_name else [name for name in preprocessing.order if not _is_plain(name)]


def write(
    folder: Path, preprocessing: Preprocessing, target: Target, network: Network, recipe: Mapping[str, Any]
) -> None:
    """Write it; an input with a foreign name is called `column_` and its place."""
    served = _Served(preprocessing, target, network)
    names = input_names(preprocessing)
    texts = {names[each.name] for each in preprocessing.categories}
    columns = len(preprocessing.numbers) if preprocessing.input_name else 1
    specs = {
        name: tf.TensorSpec([None, columns], tf.string if name in texts else tf.float32, name=name)
        for name in names.values()
    }
    serve = tf.function(served.serve).get_concrete_function(**specs)
    tf.saved_model.save(served, str(folder), signatures={SIGNATURE: serve})
    extra = folder / RECIPE
    extra.parent.mkdir(exist_ok=True)
    extra.write_text(json.dumps(recipe))


def run(folder: Path, preprocessing: Preprocessing, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run it as it is served."""
    names = input_names(preprocessing)
    serve = tf.saved_model.load(str(folder)).signatures[SIGNATURE]
    feed = {names[name]: tf.constant(array) for name, array in inputs.items()}
    return {name: np.asarray(answer) for name, answer in serve(**feed).items()}


def input_names(preprocessing: Preprocessing) -> dict[str, str]:
    """Give the SavedModel's name of each input."""
    if preprocessing.input_name:
        return {preprocessing.input_name: preprocessing.input_name}
    foreign = foreign_names(preprocessing)
    return {name: f"column_{place}" if name in foreign else name for place, name in enumerate(preprocessing.order)}


def _is_plain(name: str) -> bool:
    # What TensorFlow would rename, or take for an argument of its own; and what we call the others.
    word = name.isascii() and name.isidentifier() and not keyword.iskeyword(name)
    return word and not name.startswith("_") and name != "self" and not re.fullmatch(r"column_\d+", name)


class _Served(tf.Module):  # type: ignore[misc] # TensorFlow is not read by the type checker
    def __init__(self, preprocessing: Preprocessing, target: Target, network: Network) -> None:
        super().__init__()
        self.kernels = [tf.Variable(layer.kernel) for layer in network]
        self.biases = [tf.Variable(layer.bias) for layer in network]
        self._activations = [tf.keras.activations.get(layer.activation) for layer in network]
        self._preprocessing = preprocessing
        self._target = target

    def serve(self, **inputs: Any) -> dict[str, Any]:
        said = self._matrix(inputs)
        for kernel, bias, activation in zip(self.kernels, self.biases, self._activations, strict=True):
            said = activation(tf.matmul(said, kernel) + bias)
        target = self._target
        if target.is_regression:
            return {PREDICTION: said * np.float32(target.scale) + np.float32(target.center)}
        probabilities = tf.concat([1 - said, said], axis=1) if target.task_type == BINARY else said
        served = target.served()
        classes = tf.constant(served.tolist(), tf.string if served.dtype.hasobject else tf.int64)
        return {LABEL: tf.gather(classes, tf.argmax(probabilities, axis=1)), PROBABILITIES: probabilities}

    def _matrix(self, inputs: Mapping[str, Any]) -> Any:
        names, texts = input_names(self._preprocessing), self._preprocessing.categories
        numbers = [self._numbers(inputs, names)] if self._preprocessing.numbers else []
        return tf.concat([*numbers, *(_ones(inputs[names[each.name]], each) for each in texts)], axis=1)

    def _numbers(self, inputs: Mapping[str, Any], names: Mapping[str, str]) -> Any:
        columns = [names.get(each.name, self._preprocessing.input_name) for each in self._preprocessing.numbers]
        # All of one input, or each of its own.
        raw = tf.concat([inputs[name] for name in dict.fromkeys(columns)], axis=1)
        fill, center, scale = self._preprocessing.constants()
        return (tf.where(tf.math.is_finite(raw), raw, fill) - center) / scale


def _ones(raw: Any, column: Category) -> Any:
    """Compare texts [rows, 1] with every category: ones and zeros [rows, categories]."""
    filled = tf.where(raw == "", column.fill, raw)
    return tf.cast(filled == tf.constant([list(column.categories)]), tf.float32)
