"""Networks for benchmarks, with random weights: what they cost is real, what they answer means nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.random import Generator
from onnx import NodeProto, TensorProto, helper, numpy_helper

from examples.models.small import FP32, model, value

MLP_WIDTHS = (10, 8, 4, 1)
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
"""ResNet-18's four stages of two blocks: channels, and the stride of the first block."""


def mlp() -> bytes:
    """Three dense layers, 10-8-4-1: x FP32 [rows, 10] to y FP32 [rows, 1]."""
    network = _Network(np.random.default_rng(1))
    name = "x"
    for inner, outer in pairwise(MLP_WIDTHS):
        name = network.dense(name, inner, outer)
        name = network.relu(name) if outer > 1 else name
    network.nodes[-1].output[0] = "y"
    return model(network.nodes, [value("x", FP32, 10)], [value("y", FP32, 1)], network.weights)


def resnet18() -> bytes:
    """ResNet-18: image FP32 [rows, 3, 224, 224] to scores FP32 [rows, 1000].

    The layers are those of He et al., "Deep Residual Learning for Image Recognition" (2016), table 1. Normalisation is
    folded into the convolutions, as for serving: 45 MiB of weights.
    """
    network = _Network(np.random.default_rng(18))
    name = network.relu(network.convolve("image", 3, 64, size=7, stride=2))
    name = network.add("MaxPool", [name], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for wider, first_stride in STAGES:
        for stride in (first_stride, 1):
            name = _block(network, name, channels, wider, stride)
            channels = wider
    name = network.add("Flatten", [network.add("GlobalAveragePool", [name])])
    network.dense(name, channels, 1000)
    network.nodes[-1].output[0] = "scores"
    return model(network.nodes, [value("image", FP32, 3, 224, 224)], [value("scores", FP32, 1000)], network.weights)


def _block(network: _Network, name: str, channels: int, wider: int, stride: int) -> str:
    """Two convolutions of 3 by 3, added to the input; where sizes change, the input goes through one of 1 by 1."""
    through = network.relu(network.convolve(name, channels, wider, size=3, stride=stride))
    through = network.convolve(through, wider, wider, size=3)
    if stride > 1 or channels != wider:
        name = network.convolve(name, channels, wider, size=1, stride=stride)
    return network.relu(network.add("Add", [through, name]))


class _Network:
    """The layers so far, and their weights: drawn as by He et al. (2015), so that signals keep their size."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def add(self, operator: str, inputs: Sequence[str], **attributes: int | list[int]) -> str:
        """Append a node; gives its output's name."""
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))  # type: ignore[arg-type]  # any
        return name

    def relu(self, name: str) -> str:
        """Append a ReLU."""
        return self.add("Relu", [name])

    def dense(self, name: str, inner: int, outer: int) -> str:
        """Append a dense layer."""
        return self.add("Gemm", [name, self._kernel(inner, outer, inputs=inner), self._bias(outer)])

    def convolve(self, name: str, channels: int, wider: int, *, size: int, stride: int = 1) -> str:
        """Append a convolution that keeps the image's size, but for its stride."""
        kernel = self._kernel(wider, channels, size, size, inputs=channels * size * size)
        pads = [size // 2] * 4
        return self.add("Conv", [name, kernel, self._bias(wider)], strides=[stride, stride], pads=pads)

    def _kernel(self, *shape: int, inputs: int) -> str:
        drawn = self._generator.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / inputs))
        return self._weight(numpy_helper.from_array(drawn, f"kernel_{len(self.weights)}"))

    def _bias(self, size: int) -> str:
        return self._weight(numpy_helper.from_array(np.zeros(size, np.float32), f"bias_{len(self.weights)}"))

    def _weight(self, tensor: TensorProto) -> str:
        self.weights.append(tensor)
        return tensor.name
