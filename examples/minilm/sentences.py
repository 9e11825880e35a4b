"""Sentences in, tensors out, and embeddings compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from examples.minilm.graph import INPUTS

LONGEST_TOKENS = 256
"""What sentence-transformers takes of a text for this model (sentence_bert_config.json); the rest is cut off."""
FIRST = ("The new movie is awesome", "The cat sits outside", "A man is playing guitar")
SECOND = ("The dog plays in the garden", "The new movie is so great", "A woman watches TV")
PUBLISHED = ((0.0543, 0.8939, -0.0502), (0.2838, -0.0029, 0.1310), (0.2277, -0.0136, -0.0327))
"""The cosine similarities of FIRST (rows) and SECOND (columns) with all-MiniLM-L6-v2, to four digits, as printed in the
documentation of sentence-transformers, "Semantic Textual Similarity".
"""


class SentenceTokenizer:
    """Makes a model's inputs of sentences."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(LONGEST_TOKENS)
        self._tokenizer.enable_padding()  # to the longest of a batch; the file says 128 tokens, always

    def tensors(self, sentences: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """Give input_ids, attention_mask and token_type_ids, INT64 [sentences, tokens of the longest]."""
        encoded = self._tokenizer.encode_batch(list(sentences))
        columns = ([each.ids for each in encoded], [each.attention_mask for each in encoded])
        kinds = [each.type_ids for each in encoded]
        return {name: np.array(each, np.int64) for name, each in zip(INPUTS, (*columns, kinds), strict=True)}


def similarities(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """Give the cosine of each row of the one with each of the other; both are of length 1 already."""
    return np.asarray(first @ second.T)
