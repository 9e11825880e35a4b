"""ONNX Runtime's types by the Open Inference Protocol's names, and its sequences and maps as tensors.

The registry's validator says what a model gives, and the inference service gives it: both by these rules.

- `seq(map(K, tensor(T)))`, scikit-learn's ZipMap: [rows, keys], a column a key, in the keys' ascending order (text by
  its UTF-8 bytes), which is the order of scikit-learn's `classes_`.
- `map(K, tensor(T))`: [keys], in the same order.
- `seq(tensor(T))`: the tensors stacked along a new first dimension; their shapes must agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
"""ONNX Runtime's names of tensors' types → the Open Inference Protocol's."""

_MAP_VALUES: Final[dict[str, np.dtype[Any]]] = {
    "FP32": np.dtype("f4"),
    "FP64": np.dtype("f8"),
    "INT64": np.dtype("i8"),
    "BYTES": np.dtype("O"),
}
_SEQUENCE = re.compile(r"seq\((.+)\)")
_MAP = re.compile(r"map\((?:int64|string),(.+)\)")


class NotATensor(ValueError):
    """What came cannot be laid out as one tensor; the sentence says why."""


def composite_type(declared: str) -> tuple[str, tuple[int, ...]] | None:
    """Give the datatype and shape of a sequence or map type as a tensor; None where it is not served as one.

    The shape of `seq(tensor(T))` is (): the type says nothing of its elements' rank.
    """
    sequence = _SEQUENCE.fullmatch(declared)
    inner = sequence[1] if sequence else declared
    mapping = _MAP.fullmatch(inner)
    if mapping:
        datatype = DATATYPES.get(mapping[1], "")
        return (datatype, (-1, -1) if sequence else (-1,)) if datatype in _MAP_VALUES else None
    datatype = DATATYPES.get(inner, "")
    # The binding knows no numpy type of BF16, and has no other way to give a sequence.
    return (datatype, ()) if sequence and datatype and datatype != "BF16" else None


def as_tensor(answer: Any, datatype: str) -> NDArray[Any]:
    """Lay out what the runtime gave for an output; a tensor stays as it is. Raises NotATensor."""
    if isinstance(answer, np.ndarray):
        return answer
    if isinstance(answer, Mapping):
        row: NDArray[Any] = _of_maps([answer], datatype)[0]
        return row
    if not isinstance(answer, Sequence):
        raise NotATensor(f"it is a {type(answer).__name__}, and only tensors, sequences and maps can be served")
    if answer and isinstance(answer[0], np.ndarray):
        return _stacked(answer)
    return _of_maps(answer, datatype)


def _of_maps(rows: Sequence[Mapping[Any, Any]], datatype: str) -> NDArray[Any]:
    dtype = _MAP_VALUES.get(datatype, _MAP_VALUES["FP32"])
    if not rows:
        return np.empty((0, 0), dtype)
    keys = sorted(rows[0])
    if any(row.keys() != rows[0].keys() for row in rows):
        raise NotATensor("its maps have different keys, so they are no rows of one tensor")
    table = np.empty((len(rows), len(keys)), dtype)
    for index, row in enumerate(rows):
        table[index] = [row[key] for key in keys]
    return table


def _stacked(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    shapes = {part.shape for part in parts}
    if len(shapes) > 1:
        first, second, *_ = sorted(map(list, shapes))
        raise NotATensor(f"its sequence holds tensors of different shapes, {first} and {second} among them")
    return np.stack(parts)
