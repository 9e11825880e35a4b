"""Tensors of many payloads as columns: those alike in name, type and shape are joined and read as one array."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.api.tensors.v1.tensors_pb2 import DataType, Tensor
from services.monitoring.profiles.frames import MAX_DIMENSIONS, ColumnBuilder, Rows, Tag
from services.monitoring.profiles.layouts import EMBEDDING_DIMENSIONS, Layout
from services.monitoring.profiles.reference import PREDICTION

MAX_EVENT_ROWS = 10_000
"""Rows of one event that are counted; those after are left out."""
FindColumn = Callable[[str, int], ColumnBuilder | None]
_DTYPES: dict[int, np.dtype[Any]] = {
    DataType.DATA_TYPE_BOOL: np.dtype("?"),
    DataType.DATA_TYPE_UINT8: np.dtype("u1"),
    DataType.DATA_TYPE_UINT16: np.dtype("<u2"),
    DataType.DATA_TYPE_UINT32: np.dtype("<u4"),
    DataType.DATA_TYPE_UINT64: np.dtype("<u8"),
    DataType.DATA_TYPE_INT8: np.dtype("i1"),
    DataType.DATA_TYPE_INT16: np.dtype("<i2"),
    DataType.DATA_TYPE_INT32: np.dtype("<i4"),
    DataType.DATA_TYPE_INT64: np.dtype("<i8"),
    DataType.DATA_TYPE_FP16: np.dtype("<f2"),
    DataType.DATA_TYPE_FP32: np.dtype("<f4"),
    DataType.DATA_TYPE_FP64: np.dtype("<f8"),
    DataType.DATA_TYPE_BF16: np.dtype("<u2"),  # widened below
}
_BYTES = DataType.DATA_TYPE_BYTES
_BF16 = DataType.DATA_TYPE_BF16


class TensorRows(NamedTuple):
    """What tensors have in common that are read together; `width` 0: they can't be read."""

    name: str
    datatype: int
    width: int
    sole: bool


Collected = dict[TensorRows, tuple[list[int], list[int], list[bytes]]]
"""The first row of each tensor, how many rows it has, and its bytes."""


def collect(found: Collected, tensors: Sequence[Tensor], start: int, count: int, *, predictions: bool) -> None:
    """Put a payload's tensors to those that are like them. `count` are its rows, the first is `start`."""
    sole = len(tensors) == 1
    seen: set[str] = set()
    for tensor in tensors:
        name = tensor.name
        if name in seen:
            continue  # a row has one value of a feature: the first
        seen.add(name)
        if predictions:
            name = PREDICTION if sole else f"{PREDICTION}.{name}"
        width = _width(tensor.shape, count)
        raw = _raw(tensor, width, count) if width else None
        key = TensorRows(name, tensor.datatype, 0 if raw is None else width, sole)
        starts, counts, raws = found.setdefault(key, ([], [], []))
        starts.append(start)
        counts.append(count)
        raws.append(raw or b"")


def put_tensors(collected: Collected, layout: Layout, find: FindColumn) -> None:
    """Put what was collected into its columns."""
    for key, (starts, counts, raws) in collected.items():
        rows = _rows(starts, counts)
        if not key.width:
            builder = find(key.name, rows.size)
            if builder is not None:
                builder.put_tag(rows, Tag.NESTED)
        elif key.datatype == _BYTES:
            _put_texts(key, rows, counts, raws, layout, find)
        else:
            _put_numbers(key, rows, raws, layout, find)


def _width(shape: Sequence[int], count: int) -> int:
    """Say how many columns a tensor has in each of `count` rows; 0: it has other rows, or too many columns."""
    if not shape or any(size < 1 for size in shape):
        return 1 if not shape and count == 1 else 0
    if shape[0] == count or shape[0] > count == MAX_EVENT_ROWS:
        width = math.prod(shape[1:])
    else:
        width = math.prod(shape) if count == 1 else 0
    return width if width <= MAX_DIMENSIONS else 0


def _raw(tensor: Tensor, width: int, count: int) -> bytes | None:
    """Give the bytes of the rows that count; None where they are not what datatype and shape need."""
    if tensor.datatype == _BYTES:  # each text takes four bytes at least: nobody claims millions without sending them
        return tensor.raw if len(tensor.raw) >= 4 * count * width else None
    dtype = _DTYPES.get(tensor.datatype)
    if dtype is None or math.prod(tensor.shape) * dtype.itemsize != len(tensor.raw):
        return None
    return tensor.raw[: count * width * dtype.itemsize]


def _rows(starts: Sequence[int], counts: Sequence[int]) -> Rows:
    if len(starts) == sum(counts):  # a row each, as most requests have
        return np.array(starts, np.intp)
    return np.concatenate([np.arange(start, start + count) for start, count in zip(starts, counts, strict=True)])


def _put_numbers(key: TensorRows, rows: Rows, raws: Sequence[bytes], layout: Layout, find: FindColumn) -> None:
    values: NDArray[Any] = np.frombuffer(b"".join(raws), _DTYPES[key.datatype]).reshape(rows.size, key.width)
    if key.datatype == _BF16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    names = _names(key, layout)
    if names is None:
        builder = find(key.name, rows.size)
        if builder is not None:
            builder.put_vectors(rows, values)
        return
    tag = Tag.BOOLEAN if key.datatype == DataType.DATA_TYPE_BOOL else Tag.NUMBER
    for name, column in zip(names, values.T, strict=True):
        builder = None if layout.leaves_out(name) else find(name, rows.size)
        if builder is not None:
            builder.put_numbers(rows, column, tag)


def _put_texts(
    key: TensorRows, rows: Rows, counts: Sequence[int], raws: Sequence[bytes], layout: Layout, find: FindColumn
) -> None:
    names = _names(key, layout) or [key.name]
    texts: list[str | None] = []
    for count, raw in zip(counts, raws, strict=True):
        texts.extend(_texts(raw, count * key.width))
    for number, name in enumerate(names):
        builder = None if layout.leaves_out(name) else find(name, rows.size)
        if builder is not None:
            some = texts[number :: key.width]
            builder.put_values(rows, [object() if text is None else text for text in some])


def _names(key: TensorRows, layout: Layout) -> Sequence[str] | None:
    """Name a tensor's columns; None: it is one embedding."""
    if key.name in layout.embeddings:
        return None
    if key.width == 1 and (key.name in layout.features or key.name in layout.predictions):
        return [key.name]
    columns = [key.name] if key.width == 1 else [f"{key.name}[{number}]" for number in range(key.width)]
    if columns[0] in layout.known or columns[0] in layout.predictions:
        return columns
    is_input = not (key.name == PREDICTION or key.name.startswith(f"{PREDICTION}."))
    if is_input and key.sole and len(layout.columns) == key.width:
        return layout.columns
    if is_input and key.sole and len(layout.features) == key.width and not layout.known.intersection(columns):
        return layout.features
    return None if key.width >= EMBEDDING_DIMENSIONS and key.datatype != _BYTES else columns


def _texts(raw: bytes, count: int) -> list[str | None]:
    """Split length-prefixed strings; None for what is no UTF-8, and for all where the lengths do not add up."""
    texts: list[str | None] = []
    position, end = 0, len(raw)
    while position + 4 <= end and len(texts) < count:
        length = int.from_bytes(raw[position : position + 4], "little")
        position += 4 + length
        if position > end:
            break
        try:
            texts.append(raw[position - length : position].decode())
        except UnicodeDecodeError:
            texts.append(None)
    return texts if len(texts) == count else [None] * count
