"""A BERT encoder in NumPy alone, written from its paper: what the ONNX graph of the MiniLM example is held against."""

from __future__ import annotations

from math import erf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.minilm.weights import BertConfig, Weights

Floats = NDArray[np.float64]
_erf = np.vectorize(erf, otypes=[np.float64])


def tiny_config() -> BertConfig:
    """Sizes of which no two are alike, so that a mixed-up axis shows."""
    return BertConfig(
        num_hidden_layers=2,
        num_attention_heads=3,
        hidden_size=12,
        intermediate_size=20,
        vocab_size=31,
        max_position_embeddings=17,
        type_vocab_size=2,
        layer_norm_eps=1e-6,
    )


def random_weights(config: BertConfig, *, seed: int = 0) -> Weights:
    """Give every tensor of the checkpoint, at random."""
    generator = np.random.default_rng(seed)
    size, wide = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, size),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, size),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, size),
        "embeddings.LayerNorm.weight": (size,),
        "embeddings.LayerNorm.bias": (size,),
    }
    for layer in range(config.num_hidden_layers):
        dense = {f"attention.self.{part}": (size, size) for part in ("query", "key", "value")}
        dense |= {"attention.output.dense": (size, size), "intermediate.dense": (wide, size)}
        dense |= {"output.dense": (size, wide)}
        for name, shape in dense.items():
            shapes[f"encoder.layer.{layer}.{name}.weight"] = shape
            shapes[f"encoder.layer.{layer}.{name}.bias"] = shape[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"encoder.layer.{layer}.{name}.weight"] = shapes[f"encoder.layer.{layer}.{name}.bias"] = (size,)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def embed(config: BertConfig, weights: Weights, ids: list[int], kinds: list[int]) -> Floats:
    """Embed one sentence without padding, in double precision: [hidden_size], of length 1."""
    mean: Floats = hidden(config, weights, ids, kinds).mean(axis=0)
    return mean / np.linalg.norm(mean)


def hidden(config: BertConfig, weights: Weights, ids: list[int], kinds: list[int]) -> Floats:
    """Give the last layer's vector for each token of one sentence without padding: [tokens, hidden_size]."""
    w: dict[str, Floats] = {name: np.asarray(each, np.float64) for name, each in weights.items()}
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][kinds]
    x = _norm(config, w, "embeddings.LayerNorm", x + w["embeddings.position_embeddings.weight"][: len(ids)])
    for layer in range(config.num_hidden_layers):
        name = f"encoder.layer.{layer}"
        query, key, value = (_dense(w, f"{name}.attention.self.{part}", x) for part in ("query", "key", "value"))
        heads = [
            _softmax(query[:, head] @ key[:, head].T / np.sqrt(query[:, head].shape[1])) @ value[:, head]
            for head in _columns_of_heads(config)
        ]
        attended = _dense(w, f"{name}.attention.output.dense", np.concatenate(heads, axis=1))
        x = _norm(config, w, f"{name}.attention.output.LayerNorm", x + attended)
        wide = _dense(w, f"{name}.intermediate.dense", x)
        narrow = _dense(w, f"{name}.output.dense", wide * 0.5 * (1 + _erf(wide / np.sqrt(2))))
        x = _norm(config, w, f"{name}.output.LayerNorm", x + narrow)
    return np.asarray(x)


def _columns_of_heads(config: BertConfig) -> list[slice]:
    size = config.hidden_size // config.num_attention_heads
    return [slice(head * size, (head + 1) * size) for head in range(config.num_attention_heads)]


def _dense(w: dict[str, Floats], name: str, x: Any) -> Floats:
    return np.asarray(x @ w[f"{name}.weight"].T + w[f"{name}.bias"])


def _norm(config: BertConfig, w: dict[str, Floats], name: str, x: Any) -> Floats:
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + config.layer_norm_eps)
    return np.asarray(centred / deviation * w[f"{name}.weight"] + w[f"{name}.bias"])


def _softmax(x: Any) -> Floats:
    shares = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))
