"""A BERT encoder as an ONNX graph, operator by operator: no PyTorch, no export.

The layers are those of Devlin et al., "BERT" (2019), §3, with the tensors named as in Hugging Face's checkpoints; the
mean over the tokens that are no padding, scaled to length 1, is sentence-transformers' way to a sentence's embedding.
All operators are of ONNX's own domain, as of opset 17.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from examples.minilm.weights import BertConfig, Weights

OPSET, IR_VERSION = 17, 8
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "sentence_embedding"
_HIDDEN = -1e9
"""What attention adds to a padding's score: softmax makes it exactly 0, and a row of padding alone stays finite."""


def build(config: BertConfig, weights: Weights) -> bytes:
    """Give the ONNX file: three inputs INT64 [batch, sequence], and `sentence_embedding` FP32 [batch, hidden_size]."""
    graph = _Graph(weights)
    visible = graph.add("Cast", "attention_mask", to=TensorProto.BOOL)
    bias = graph.add("Where", graph.add("Unsqueeze", visible, graph.vector(1, 2)), graph.real(0), graph.real(_HIDDEN))
    tokens = _embeddings(graph, config)
    for layer in range(config.num_hidden_layers):
        tokens = _layer(graph, config, f"encoder.layer.{layer}", tokens, bias)
    _pool(graph, tokens, visible)
    return graph.finish(config.hidden_size).SerializeToString(deterministic=True)


def _embeddings(graph: _Graph, config: BertConfig) -> str:
    """Add up what each token is, where it stands, and to which of two sentences it belongs."""
    shape = graph.add("Shape", "input_ids", start=1, end=2)
    positions = graph.add("Range", graph.integer(0), graph.add("Squeeze", shape), graph.integer(1))
    words = graph.add("Gather", graph.weight("embeddings.word_embeddings.weight"), "input_ids")
    places = graph.add("Gather", graph.weight("embeddings.position_embeddings.weight"), positions)
    kinds = graph.add("Gather", graph.weight("embeddings.token_type_embeddings.weight"), "token_type_ids")
    total = graph.add("Add", graph.add("Add", words, kinds), places)
    return _normalised(graph, config, "embeddings.LayerNorm", total)


def _layer(graph: _Graph, config: BertConfig, name: str, tokens: str, bias: str) -> str:
    """Self-attention and two dense layers, each added to its input and normalised."""
    attended = _attention(graph, config, f"{name}.attention.self", tokens, bias)
    attended = _dense(graph, f"{name}.attention.output.dense", attended)
    tokens = _normalised(graph, config, f"{name}.attention.output.LayerNorm", graph.add("Add", attended, tokens))
    wide = _gelu(graph, _dense(graph, f"{name}.intermediate.dense", tokens))
    narrow = _dense(graph, f"{name}.output.dense", wide)
    return _normalised(graph, config, f"{name}.output.LayerNorm", graph.add("Add", narrow, tokens))


def _attention(graph: _Graph, config: BertConfig, name: str, tokens: str, bias: str) -> str:
    """Each token takes of all others' values what its query finds in their keys."""
    head_size = config.hidden_size // config.num_attention_heads
    split = graph.vector(0, 0, config.num_attention_heads, head_size)

    def heads(part: str, *order: int) -> str:
        return graph.add("Transpose", graph.add("Reshape", _dense(graph, f"{name}.{part}", tokens), split), perm=order)

    query, key, value = heads("query", 0, 2, 1, 3), heads("key", 0, 2, 3, 1), heads("value", 0, 2, 1, 3)
    scores = graph.add("Mul", graph.add("MatMul", query, key), graph.real(1 / math.sqrt(head_size)))
    shares = graph.add("Softmax", graph.add("Add", scores, bias), axis=-1)
    taken = graph.add("Transpose", graph.add("MatMul", shares, value), perm=(0, 2, 1, 3))
    return graph.add("Reshape", taken, graph.vector(0, 0, config.hidden_size))


def _pool(graph: _Graph, tokens: str, visible: str) -> None:
    """Take the mean over the tokens that are no padding, and scale it to length 1."""
    shares = graph.add("Unsqueeze", graph.add("Cast", visible, to=TensorProto.FLOAT), graph.vector(2))
    total = graph.add("ReduceSum", graph.add("Mul", tokens, shares), graph.vector(1), keepdims=0)
    count = graph.add("ReduceSum", shares, graph.vector(1), keepdims=0)
    mean = graph.add("Div", total, graph.add("Max", count, graph.real(1e-9)))
    length = graph.add("ReduceL2", mean, axes=[1], keepdims=1)
    graph.add("Div", mean, graph.add("Max", length, graph.real(1e-12)), output=OUTPUT)


def _dense(graph: _Graph, name: str, tokens: str) -> str:
    kernel = graph.weight(f"{name}.weight", transposed=True)
    return graph.add("Add", graph.add("MatMul", tokens, kernel), graph.weight(f"{name}.bias"))


def _normalised(graph: _Graph, config: BertConfig, name: str, tokens: str) -> str:
    scale, shift = graph.weight(f"{name}.weight"), graph.weight(f"{name}.bias")
    return graph.add("LayerNormalization", tokens, scale, shift, axis=-1, epsilon=config.layer_norm_eps)


def _gelu(graph: _Graph, tokens: str) -> str:
    """x/2 · (1 + erf(x/√2)); the operator Gelu is of opset 20, and this runs in older runtimes too."""
    erf = graph.add("Erf", graph.add("Div", tokens, graph.real(math.sqrt(2))))
    return graph.add("Mul", graph.add("Mul", tokens, graph.add("Add", erf, graph.real(1))), graph.real(0.5))


class _Graph:
    """The nodes so far. Equal constants are stored once; names count up, so that the same model is the same bytes."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Append a node with one output; gives its name."""
        name = output or f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def weight(self, name: str, *, transposed: bool = False) -> str:
        """Store a tensor of the checkpoint; PyTorch keeps the kernels of dense layers the other way round."""
        weight = self._weights[name]
        return self._constant(name, np.ascontiguousarray(weight.T) if transposed else weight)

    def vector(self, *values: int) -> str:
        """Store a vector of INT64."""
        return self._constant(f"vector_{'_'.join(map(str, values))}", np.array(values, np.int64))

    def integer(self, value: int) -> str:
        """Store an INT64."""
        return self._constant(f"integer_{value}", np.array(value, np.int64))

    def real(self, value: float) -> str:
        """Store an FP32."""
        return self._constant(f"real_{value:g}", np.array(value, np.float32))

    def _constant(self, name: str, values: NDArray[np.float32] | NDArray[np.int64]) -> str:
        self._constants.setdefault(name, numpy_helper.from_array(values, name))
        return name

    def finish(self, hidden_size: int) -> ModelProto:
        """Close the graph over its inputs and its output, and check it."""
        model = helper.make_model(
            self._closed(hidden_size),
            producer_name="penstock-example",
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        checker.check_model(model)
        return model

    def _closed(self, hidden_size: int) -> GraphProto:
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in INPUTS]
        output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", hidden_size])
        return helper.make_graph(self._nodes, "sentence_encoder", inputs, [output], [*self._constants.values()])
