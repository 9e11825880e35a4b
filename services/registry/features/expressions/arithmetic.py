"""Numbers of whole columns: what has no result in 64 bits is missing, and FLOAT64 is IEEE 754 throughout."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from services.registry.features.expressions.arrays import numbers, valid

if TYPE_CHECKING:
    import pyarrow

LEAST, MOST = -(2**63), 2**63 - 1
Ints = NDArray[np.int64]
Sound = tuple[NDArray[Any], NDArray[np.bool_] | None]


def calculated(work: Callable[..., Sound], *arrays: pyarrow.Array) -> pyarrow.Array:
    """Do this with the rows that have all values; of the others there is none.

    `work` gives the results, and which of them there are; None: all.
    """
    import pyarrow

    known = np.logical_and.reduce([valid(array) for array in arrays])
    with np.errstate(all="ignore"):
        values, sound = work(*map(numbers, arrays))
    return pyarrow.array(values, mask=~known if sound is None else ~(known & sound))


def floats(work: Callable[..., Any]) -> Callable[..., pyarrow.Array]:
    """Make a kernel of what calculates with doubles."""

    def kernel(*arrays: pyarrow.Array) -> pyarrow.Array:
        return calculated(lambda *values: (np.asarray(work(*values), "<f8"), None), *arrays)

    return kernel


def ints(work: Callable[..., Sound]) -> Callable[..., pyarrow.Array]:
    """Make a kernel of what calculates with 64-bit integers, and knows where it cannot."""

    def kernel(*arrays: pyarrow.Array) -> pyarrow.Array:
        return calculated(work, *arrays)

    return kernel


def add(a: Ints, b: Ints) -> Sound:
    """Add; an overflow is missing."""
    total = a + b
    return total, ((a ^ total) & (b ^ total)) >= 0


def subtract(a: Ints, b: Ints) -> Sound:
    """Subtract; an overflow is missing."""
    rest = a - b
    return rest, ((a ^ b) & (a ^ rest)) >= 0


def multiply(a: Ints, b: Ints) -> Sound:
    """Multiply; an overflow is missing."""
    product = a * b
    back = np.floor_divide(product, np.where(a == 0, 1, a))
    wrapped = (a == -1) & (b == LEAST) | (a == LEAST) & (b == -1)
    return product, (a == 0) | ((back == b) & (np.where(a == 0, 0, product % np.where(a == 0, 1, a)) == 0) & ~wrapped)


def floor_divide(a: Ints, b: Ints) -> Sound:
    """Divide towards minus infinity; by 0, or with an overflow, it is missing."""
    sound = (b != 0) & ~((a == LEAST) & (b == -1))
    return np.floor_divide(a, np.where(sound, b, 1)), sound


def remainder(a: Ints, b: Ints) -> Sound:
    """Give what is left by `floor_divide`, with the divisor's sign; by 0 it is missing."""
    sound = b != 0
    return np.where(b == -1, 0, np.mod(a, np.where(sound & (b != -1), b, 1))), sound


def negate(a: Ints) -> Sound:
    """Change the sign; an overflow is missing."""
    return -a, a != LEAST


def absolute(a: Ints) -> Sound:
    """Take the sign away; an overflow is missing."""
    return np.abs(a), a != LEAST


def whole(a: NDArray[np.float64]) -> Sound:
    """Cut off what is behind the point; what is no 64-bit integer then is missing."""
    sound = (a >= float(LEAST)) & (a < float(2**63))
    return np.where(sound, a, 0.0).astype("<i8"), sound


def scaled(factor: int) -> Callable[[Ints], Sound]:
    """Make what multiplies by a constant above 0."""

    def scale(a: Ints) -> Sound:
        return a * factor, (a >= -(MOST // factor)) & (a <= MOST // factor)

    return scale
