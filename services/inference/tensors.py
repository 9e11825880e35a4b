"""Open Inference Protocol tensors as numpy arrays, and back.

Raw data is little-endian and row-major. Every size is checked before anything is allocated, so that a few bytes
on the wire can never ask for gigabytes. Fixed-size tensors are views of the bytes they came in: no copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import penstock.tensors
from penstock import byte_strings
from services.common.errors import InvalidArgument

Tensor = NDArray[Any]
Buffer = bytes | bytearray | memoryview

BFLOAT16: Final = np.dtype(ml_dtypes.bfloat16)
"""numpy's own types have none."""

DTYPES: Final[dict[str, np.dtype[Any]]] = {**penstock.tensors.DTYPES, "BF16": BFLOAT16}
"""The numpy type of each datatype. BYTES elements are `bytes` on their way in, `bytes` or `str` on their way out."""

DATATYPES: Final = {dtype: datatype for datatype, dtype in DTYPES.items()}
MAX_RANK: Final = 32
MAX_ELEMENTS: Final = 2**31 - 1
"""More than any message holds."""
MAX_EMPTY_ELEMENTS: Final = 2**24
"""The product of the other sizes where one is 0: a model may answer with as many, though nothing came."""


def dtype_of(name: str, datatype: str) -> np.dtype[Any]:
    """Find the numpy type of tensor `name`; raises InvalidArgument(UNSUPPORTED_DATATYPE) for any other."""
    dtype = DTYPES.get(datatype)
    if dtype is None:
        allowed = ", ".join(DTYPES)
        raise InvalidArgument.field(
            name, f"datatype {datatype!r} is not served; send one of {allowed}", reason="UNSUPPORTED_DATATYPE"
        )
    return dtype


def datatype_of(array: Tensor) -> str:
    """Name an array's datatype; strings of any width are BYTES. Raises InvalidArgument for complex and the like."""
    datatype = DATATYPES.get(array.dtype)
    if datatype is not None:
        return datatype
    if array.dtype.kind in "SU":
        return "BYTES"
    raise InvalidArgument(f"numpy type {array.dtype} has no datatype", reason="UNSUPPORTED_DATATYPE")


def element_count(name: str, shape: Sequence[int]) -> int:
    """Count the elements of a shape; raises InvalidArgument(INVALID_SHAPE) if it is negative, too deep or too big."""
    if len(shape) > MAX_RANK:
        raise _invalid_shape(name, f"the shape has {len(shape)} dimensions; at most {MAX_RANK} are allowed")
    if shape and min(shape) < 0:
        raise _invalid_shape(name, f"the shape {list(shape)} has a negative dimension; send the real sizes")
    count = prod(shape)
    if count > MAX_ELEMENTS:
        raise _invalid_shape(name, f"the shape has more than {MAX_ELEMENTS} elements; send less at once")
    # A zero hides how big the others are, and numpy would stumble over them.
    if count == 0 and prod(size or 1 for size in shape) > MAX_EMPTY_ELEMENTS:
        raise _invalid_shape(name, f"the shape {list(shape)} is empty and too big; send smaller sizes")
    return count


def from_raw(name: str, datatype: str, shape: Sequence[int], raw: Buffer) -> Tensor:
    """Read tensor `name` from its raw bytes. Anything but BYTES is a read-only view of them.

    Raises InvalidArgument: UNSUPPORTED_DATATYPE, INVALID_SHAPE, SHAPE_MISMATCH (the length is not what the shape
    needs), or BYTES_TRUNCATED.
    """
    dtype = dtype_of(name, datatype)
    count = element_count(name, shape)
    if dtype.hasobject:
        elements = _split(name, count, raw)
        array = np.empty(count, dtype=object)
        array[:] = elements
        return array.reshape(shape)
    if count * dtype.itemsize != len(raw):
        raise InvalidArgument.field(
            name,
            f"{len(raw)} raw bytes came; shape {list(shape)} of {datatype} takes {count * dtype.itemsize}",
            reason="SHAPE_MISMATCH",
        )
    view = np.ndarray(shape, dtype, raw)
    # Runtimes read whole words: a view that begins in the middle of one is copied.
    return view if view.flags.aligned else view.copy()


def to_raw(array: Tensor) -> bytes:
    """Write an array's raw bytes; BYTES elements may be `bytes` or `str`, the latter written as UTF-8."""
    dtype = array.dtype
    if dtype.kind not in "OSU":
        if dtype.byteorder == ">":
            array = array.astype(dtype.newbyteorder("<"))
        return array.tobytes()
    elements = array.ravel().tolist()
    return byte_strings.join(each if isinstance(each, bytes) else str(each).encode() for each in elements)


def _split(name: str, count: int, raw: Buffer) -> list[bytes]:
    try:
        return byte_strings.split(raw, count)
    except byte_strings.MalformedByteStrings as error:
        reason = "SHAPE_MISMATCH" if error.left_over else "BYTES_TRUNCATED"
        raise InvalidArgument.field(name, str(error), reason=reason) from error


def _invalid_shape(name: str, sentence: str) -> InvalidArgument:
    return InvalidArgument.field(name, sentence, reason="INVALID_SHAPE")
