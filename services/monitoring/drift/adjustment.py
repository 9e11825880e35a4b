"""How many were looked at is allowed for: Benjamini and Hochberg, J. Royal Statistical Society B 57 (1995), p. 289."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Give each p as it is after the step-up procedure: below α, it is among those that are found at level α.

    Where nothing has drifted, any is below α in at most α of the cases (Simes), if the p are independent or depend on
    each other positively.
    """
    count = len(p_values)
    order = np.argsort(p_values)
    ranked = np.asarray(p_values, dtype=np.float64)[order] * count / np.arange(1, count + 1)
    stepped = np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1.0)
    result = np.empty(count)
    result[order] = stepped
    return [float(value) for value in result]
