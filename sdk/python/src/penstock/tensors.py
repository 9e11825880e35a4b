"""numpy arrays as tensors on the wire, and back: one copy out, and in a view of the bytes that came."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock import byte_strings
from penstock.api.tensors.v1 import tensors_pb2 as pb
from penstock.errors import FieldViolation, InvalidArgument

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
"""The numpy type of each datatype, by its name in the Open Inference Protocol. BF16's is of the package `ml_dtypes`."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_BFLOAT16 = "bfloat16"


def datatype_name(datatype: pb.DataType.ValueType) -> str:
    """Name a datatype as the Open Inference Protocol does: `FP32`, `BYTES`; a number where it is unknown here."""
    try:
        return pb.DataType.Name(datatype).removeprefix("DATA_TYPE_")
    except ValueError:
        return str(datatype)


def datatype_of(name: str, dtype: np.dtype[Any]) -> str:
    """Find the datatype of a numpy type, whatever its byte order; strings of every kind are BYTES.

    BF16 is the type of that name that `ml_dtypes` gives numpy, and with it JAX and TensorFlow.

    Raises:
        InvalidArgument: there is none (UNSUPPORTED_DATATYPE); `name` is the tensor's, for the sentence.
    """
    if dtype.kind in "OSUT":
        return "BYTES"
    found = "BF16" if dtype.name == _BFLOAT16 else _NAMES.get(dtype.newbyteorder("<"))
    if found is None:
        raise _refused(name, f"numpy type {dtype} has no datatype; give one of {_allowed()}", "UNSUPPORTED_DATATYPE")
    return found


def to_tensor(name: str, array: ArrayLike) -> pb.Tensor:
    """Encode an array, of any memory layout and byte order. Lists are taken as `numpy.asarray` takes them.

    BYTES elements are bytes, or strings, which travel as UTF-8. A fixed-width numpy bytes array loses trailing
    zero bytes, by numpy's own rule: use an object array to keep them.

    Raises:
        InvalidArgument: the type has no datatype, or an object array holds something else (UNSUPPORTED_DATATYPE).
    """
    values = np.asarray(array)
    datatype = datatype_of(name, values.dtype)
    return pb.Tensor(
        name=name,
        datatype=pb.DataType.Value(f"DATA_TYPE_{datatype}"),
        shape=values.shape,
        raw=_raw(name, values, datatype),
    )


def from_tensor(tensor: pb.Tensor) -> NDArray[Any]:
    """Decode a tensor. The array is read-only: a view of the bytes that came; BYTES are an object array of bytes.

    BF16 needs the package `ml_dtypes`, which gives numpy the type.

    Raises:
        InvalidArgument: numpy has no such type (UNSUPPORTED_DATATYPE), or the bytes are not what datatype and shape
            need (SHAPE_MISMATCH).
    """
    name, datatype, shape, raw = tensor.name, datatype_name(tensor.datatype), tuple(tensor.shape), tensor.raw
    dtype = _bfloat16(name) if datatype == "BF16" else DTYPES.get(datatype)
    if dtype is None:
        raise _refused(name, f"datatype {datatype} is not one of {_allowed()}", "UNSUPPORTED_DATATYPE")
    if any(size < 0 for size in shape):
        raise _refused(name, f"the shape {list(shape)} has a negative dimension", "SHAPE_MISMATCH")
    if datatype == "BYTES":
        values = _byte_strings(name, prod(shape), raw)
    else:
        if prod(shape) * dtype.itemsize != len(raw):
            sentence = f"{len(raw)} bytes came; shape {list(shape)} of {datatype} takes {prod(shape) * dtype.itemsize}"
            raise _refused(name, sentence, "SHAPE_MISMATCH")
        values = np.frombuffer(raw, dtype)
    try:
        values = values.reshape(shape)
    except ValueError as error:  # of more dimensions than numpy has, or empty and beyond all addresses
        raise _refused(name, f"numpy takes no array of shape {list(shape)}", "SHAPE_MISMATCH") from error
    values.flags.writeable = False
    return values


def _bfloat16(name: str) -> np.dtype[Any]:
    """The one array type that numpy learns from a package of its own, which only those need who have such tensors."""
    try:
        dtype: np.dtype[Any] = np.dtype(import_module("ml_dtypes").bfloat16)
        return dtype
    except ImportError:
        sentence = "numpy has no bfloat16 of its own: pip install ml-dtypes"
        raise _refused(name, sentence, "UNSUPPORTED_DATATYPE") from None


def _raw(name: str, values: NDArray[Any], datatype: str) -> bytes:
    if datatype == "BYTES":
        return byte_strings.join(_elements(name, values))
    return values.astype(DTYPES.get(datatype, values.dtype), copy=False).tobytes()


def _elements(name: str, values: NDArray[Any]) -> Iterator[bytes]:
    for index, element in enumerate(values.ravel().tolist()):
        if isinstance(element, str):
            yield element.encode()
        elif isinstance(element, bytes):
            yield element
        else:
            sentence = f"element {index} is a {type(element).__name__}; an object array holds bytes or strings only"
            raise _refused(name, sentence, "UNSUPPORTED_DATATYPE")


def _byte_strings(name: str, count: int, raw: bytes) -> NDArray[Any]:
    try:
        elements = byte_strings.split(raw, count)
    except byte_strings.MalformedByteStrings as error:
        raise _refused(name, str(error), "SHAPE_MISMATCH") from error
    values = np.empty(count, dtype=object)
    values[:] = elements
    return values


def _allowed() -> str:
    return ", ".join((*DTYPES, "BF16"))


def _refused(name: str, sentence: str, reason: str) -> InvalidArgument:
    field = name or "tensor"
    return InvalidArgument(f"{field}: {sentence}", reason=reason, violations=[FieldViolation(field, sentence)])
