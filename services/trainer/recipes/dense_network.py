"""Dense layers as plain arrays: what a network is, whichever library trained or runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

ACTIVATIONS: Final = {
    "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "elu": "Elu", "selu": "Selu", "softplus": "Softplus",
    "softmax": "Softmax", "linear": "",
}  # fmt: skip
"""By Keras' name, the operator of ONNX with the same formula and constants; '': none is needed."""


@dataclass(frozen=True, slots=True)
class Dense:
    """activation(x · kernel + bias); kernel FP32 [inputs, units], bias FP32 [units]."""

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    activation: str


Network = tuple[Dense, ...]
"""Layers, one after the other."""


def shape_of(network: Network) -> list[tuple[int, str]]:
    """Units and activation of each layer."""
    return [(len(layer.bias), layer.activation) for layer in network]
