"""Sentences whose likeness is published, and how embeddings are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FIRST = ("The new movie is awesome", "The cat sits outside", "A man is playing guitar")
SECOND = ("The dog plays in the garden", "The new movie is so great", "A woman watches TV")
PUBLISHED = ((0.0543, 0.8939, -0.0502), (0.2838, -0.0029, 0.1310), (0.2277, -0.0136, -0.0327))
"""The cosine similarities of FIRST (rows) and SECOND (columns) with all-MiniLM-L6-v2, to four digits, as printed in the
documentation of sentence-transformers, "Semantic Textual Similarity".
"""


def similarities(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """Give the cosine of each row of the one with each of the other; both are of length 1 already."""
    return np.asarray(first @ second.T)
