"""Labels as texts, so that what a file, a model and a person say of the same class is the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def text_of(value: Any) -> str:
    """Give a label's text: whole numbers without a fraction (2.0 is `2`), booleans as 1 and 0, bytes as UTF-8."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return str(int(value)) if float(value).is_integer() else repr(float(value))
    return str(value)


def texts_of(values: Sequence[Any] | NDArray[Any]) -> NDArray[np.object_]:
    """Give the text of each label."""
    array = values if isinstance(values, np.ndarray) else np.array(list(values), dtype=object)
    texts = np.empty(len(array), dtype=object)
    flat = array.reshape(len(array))
    if array.dtype.hasobject:
        texts[:] = [text_of(value) for value in flat]
        return texts
    # Few values come again and again: each is written once.
    found, where = np.unique(flat, return_inverse=True)
    written = np.array([text_of(value) for value in found.tolist()], dtype=object)
    texts[:] = written[where.reshape(-1)] if len(found) else []
    return texts
