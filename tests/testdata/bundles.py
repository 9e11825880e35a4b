"""Tiny Transformers bundles, kind and hostile: each function returns files by path."""

from __future__ import annotations

import json

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

WORDS = ("[UNK]", "a", "is", "the", "pipe", "that", "feeds")


def bundle(
    *, vocabulary: int = len(WORDS), length: int | str = "length", graph: str = "model.onnx"
) -> dict[str, bytes]:
    """A tokenizer of seven words, and a graph that averages a table's rows: embedding FP32 [-1, 4] of each text."""
    return {
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": json.dumps({"model_max_length": 512}).encode(),
        "config.json": json.dumps({"model_type": "bert", "vocab_size": vocabulary}).encode(),
        graph: mean_of_table(vocabulary, length),
    }


def tokenizer() -> bytes:
    """One token a word."""
    made = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made.to_str().encode()


def tokenizer_of(**parts: object) -> bytes:
    """The file of a tokenizer, written by hand: what no library would save."""
    empty = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    model = {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"}
    document = {"version": "1.0", "added_tokens": [], "model": model} | dict.fromkeys(empty) | parts
    return json.dumps(document).encode()


PANICS_WHEN_OPENED = tokenizer_of(
    model={
        "type": "BPE",
        "continuing_subword_prefix": "é####",
        "vocab": {"a": 0, "b": 1, "ab": 2},
        "merges": ["a b"],
    }
)
"""A prefix longer than what it is cut from: a slice out of bounds within Rust."""
PANICS_WHEN_USED = tokenizer_of(pre_tokenizer={"type": "FixedLength", "length": 0})
"""Chunks of no length."""


def mean_of_table(vocabulary: int, length: int | str = "length", ids: str = "input_ids") -> bytes:
    """`embedding = Σ mask · table[ids] / Σ mask`, for INT64 `ids` and `attention_mask` of shape [-1, length]."""
    table = np.random.default_rng(0).standard_normal((vocabulary, 4)).astype(np.float32)
    constants = {"table": table, "axis": np.array([1]), "last": np.array([2])}
    nodes = [
        helper.make_node("Gather", ["table", ids], ["tokens"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["tokens", "wide"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "axis"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "axis"], ["count"], keepdims=1),
        helper.make_node("Max", ["count", "one"], ["some"]),
        helper.make_node("Div", ["sum", "some"], ["embedding"]),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", length]) for name in (ids, "attention_mask")]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph(nodes, "graph", inputs, [output])
    constants["one"] = np.array(1, np.float32)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content
