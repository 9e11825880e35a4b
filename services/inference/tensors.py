"""Open Inference Protocol tensors as numpy arrays, and back.

Raw data is little-endian and row-major. Every size is checked before anything is allocated, so that a few bytes
on the wire can never ask for gigabytes. Fixed-size tensors are views of the bytes they came in: no copy.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import prod
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import penstock.tensors
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
_LENGTH: Final = struct.Struct("<I")


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
    view = np.frombuffer(raw, dtype).reshape(shape)
    # Runtimes read whole words: a view that begins in the middle of one is copied.
    return view if view.flags.aligned else view.copy()


def to_raw(array: Tensor) -> bytes:
    """Write an array's raw bytes; BYTES elements may be `bytes` or `str`, the latter written as UTF-8."""
    if array.dtype.kind not in "OSU":
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        return array.tobytes()
    parts: list[bytes] = []
    for element in array.ravel().tolist():
        encoded = element if isinstance(element, bytes) else str(element).encode()
        parts += (_LENGTH.pack(len(encoded)), encoded)
    return b"".join(parts)


def _split(name: str, count: int, raw: Buffer) -> list[bytes]:
    """Cut a BYTES tensor into its elements: a 4-byte length each, and then so many bytes."""
    size = len(raw)
    if count * _LENGTH.size > size:
        raise _truncated(name, f"{size} raw bytes came; {count} elements take at least {count * _LENGTH.size}")
    elements: list[bytes] = []
    position = 0
    for index in range(count):
        start = position + _LENGTH.size
        if start > size:
            raise _truncated(name, f"the bytes end inside the length of element {index} of {count}")
        position = start + _LENGTH.unpack_from(raw, start - _LENGTH.size)[0]
        if position > size:
            raise _truncated(name, f"element {index} is {position - start} bytes long, and {size - start} are left")
        elements.append(bytes(raw[start:position]))
    if position != size:
        raise InvalidArgument.field(
            name, f"{size - position} bytes are left over after {count} elements", reason="SHAPE_MISMATCH"
        )
    return elements


def _invalid_shape(name: str, sentence: str) -> InvalidArgument:
    return InvalidArgument.field(name, sentence, reason="INVALID_SHAPE")


def _truncated(name: str, sentence: str) -> InvalidArgument:
    return InvalidArgument.field(name, sentence, reason="BYTES_TRUNCATED")
