"""What a finetune begins with: the weights, preprocessing and classes of a version that `keras-mlp` made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.dense_network import ACTIVATIONS, Dense, Network
from services.trainer.recipes.preprocessing import Preprocessing
from services.trainer.recipes.targets import Target

NAME: Final = "keras-mlp"
_ARRAYS: Final = ("kernel", "bias")


@dataclass(frozen=True, slots=True)
class Parent:
    """A version of this recipe, as it can be gone on from."""

    preprocessing: Preprocessing
    target: Target
    network: Network

    def to_json(self) -> dict[str, Any]:
        """Write what is kept beside the weights."""
        return {
            "recipe": NAME,
            "preprocessing": self.preprocessing.to_json(),
            "target": self.target.to_json(),
            "activations": [layer.activation for layer in self.network],
        }

    @classmethod
    def read(cls, folder: Path) -> Parent:
        """Read it from a version's files; raises TrainingFailed(INVALID_PARAMETERS) where they are of another make."""
        try:
            kept, arrays = _of_saved_model(folder) if (folder / "saved_model.pb").exists() else _of_onnx(folder)
            if kept["recipe"] != NAME:
                raise ValueError(f"it is of {kept['recipe']}")
            parent = cls(
                Preprocessing.of(kept["preprocessing"]),
                Target.of(kept["target"]),
                tuple(_layers(kept["activations"], arrays)),
            )
        except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise TrainingFailed(
                f"a finetune begins with the weights of a version that {NAME} made, and the parent has none to be "
                "found (it is of another make, or was optimised or quantised since): start a RETRAIN, or name another "
                "parent",
                reason="INVALID_PARAMETERS",
            ) from error
        return parent


def _layers(activations: list[str], arrays: Mapping[str, NDArray[Any]]) -> Iterator[Dense]:
    for place, activation in enumerate(activations):
        kernel, bias = (np.asarray(arrays[f"{name}_{place}"], np.float32) for name in _ARRAYS)
        if activation not in ACTIVATIONS or kernel.ndim != 2 or kernel.shape[1:] != bias.shape:
            raise ValueError(f"layer {place} is none")
        yield Dense(kernel, bias, activation)


def _of_onnx(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    import onnx
    from google.protobuf.message import DecodeError

    from services.trainer.recipes.onnx_version import OWN, RECIPE

    (path,) = folder.rglob("*.onnx")
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError("it is no ONNX") from error
    kept = {each.key: each.value for each in model.metadata_props}
    prefixes = tuple(f"{OWN}{name}_" for name in _ARRAYS)
    weights = [each for each in model.graph.initializer if each.name.startswith(prefixes)]
    return json.loads(kept[RECIPE]), {each.name.removeprefix(OWN): onnx.numpy_helper.to_array(each) for each in weights}


def _of_saved_model(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    import tensorflow as tf

    from services.trainer.recipes.keras_saved_model import RECIPE, VARIABLES

    kept = json.loads((folder / RECIPE).read_text())
    try:
        saved = tf.train.load_checkpoint(str(folder / VARIABLES))  # reads arrays, and runs nothing
        arrays = {
            f"{name}_{place}": saved.get_tensor(f"{attribute}/{place}/.ATTRIBUTES/VARIABLE_VALUE")
            for name, attribute in zip(_ARRAYS, ("kernels", "biases"), strict=True)
            for place in range(len(kept["activations"]))
        }
    except tf.errors.OpError as error:
        raise ValueError("its variables cannot be read") from error
    return kept, arrays
