"""Lists of doubles, a list a row: a missing list has no result, and none has one of another length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from services.registry.features.expressions.arrays import valid

if TYPE_CHECKING:
    import pyarrow


def length(lists: pyarrow.Array) -> pyarrow.Array:
    """Count the values of each."""
    import pyarrow
    from pyarrow import compute

    return compute.list_value_length(lists).cast(pyarrow.int64())


def element(lists: pyarrow.Array, place: int) -> pyarrow.Array:
    """Take the value at a place, from 0; behind the end there is none."""
    import pyarrow

    begins, lengths, values = _parts(lists)
    there = lengths > place
    taken = np.zeros(len(lists))
    taken[there] = values[begins[there] + place]
    return pyarrow.array(taken, mask=~there)


def total(lists: pyarrow.Array) -> pyarrow.Array:
    """Add the values of each; of none it is 0."""
    import pyarrow

    begins, lengths, values = _parts(lists)
    return pyarrow.array(_sums(values, begins, lengths), mask=~valid(lists))


def mean(lists: pyarrow.Array) -> pyarrow.Array:
    """Give the mean of each; of none there is none."""
    import pyarrow

    begins, lengths, values = _parts(lists)
    with np.errstate(all="ignore"):
        means = _sums(values, begins, lengths) / lengths
    return pyarrow.array(means, mask=~valid(lists) | (lengths == 0))


def dot(left: pyarrow.Array, right: pyarrow.Array) -> pyarrow.Array:
    """Give the scalar product of two lists; of different lengths there is none."""
    import pyarrow

    (begins, lengths, values), (other_begins, other_lengths, others) = _parts(left), _parts(right)
    both = valid(left) & valid(right) & (lengths == other_lengths)
    kept = np.where(both, lengths, 0)
    with np.errstate(all="ignore"):
        products = values[_places(begins, kept)] * others[_places(other_begins, kept)]
    return pyarrow.array(_sums(products, np.cumsum(kept) - kept, kept), mask=~both)


def _parts(lists: pyarrow.Array) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Give where each begins, how long it is (0 where it is missing), and all values."""
    offsets = lists.offsets.to_numpy()
    lengths = np.where(valid(lists), np.diff(offsets), 0)
    return offsets[:-1], lengths, lists.values.to_numpy(zero_copy_only=False)


def _places(begins: NDArray[Any], lengths: NDArray[Any]) -> NDArray[Any]:
    """Give the places of all values of lists, one list after the other."""
    return np.repeat(begins - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


def _sums(values: NDArray[np.float64], begins: NDArray[Any], lengths: NDArray[Any]) -> NDArray[np.float64]:
    sums = np.zeros(len(lengths))
    some = lengths > 0
    if some.any():
        # Reduced between the beginnings of lists that lie one behind the other, without what lies between.
        places = _places(begins[some], lengths[some])
        held = lengths[some]
        with np.errstate(all="ignore"):
            sums[some] = np.add.reduceat(values[places], np.cumsum(held) - held)
    return sums
