"""Our own contract's tensors and specs ↔ values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from penstock.api.tensors.v1.tensors_pb2 import DataType, Tensor, TensorSpec
from services.inference import models, tensors

DATATYPE_NAMES: Final = {number: name.removeprefix("DATA_TYPE_") for name, number in DataType.items() if number}
DATATYPE_NUMBERS: Final = {name: DataType.Value(f"DATA_TYPE_{name}") for name in DATATYPE_NAMES.values()}
UNKNOWN: Final = "UNSPECIFIED"


def tensor_proto(name: str, array: tensors.Tensor) -> Tensor:
    """Write a tensor."""
    datatype = DATATYPE_NUMBERS[tensors.datatype_of(array)]
    return Tensor(name=name, datatype=datatype, shape=array.shape, raw=tensors.to_raw(array))


def tensor_of(tensor: Tensor) -> tensors.Tensor:
    """Read a tensor; raises InvalidArgument as `tensors.from_raw` does."""
    datatype = DATATYPE_NAMES.get(tensor.datatype, UNKNOWN)
    return tensors.from_raw(tensor.name, datatype, tuple(tensor.shape), tensor.raw)


def specs_of(specs: Iterable[TensorSpec]) -> tuple[models.TensorSpec, ...]:
    """Read a side of a signature."""
    return tuple(
        models.TensorSpec(spec.name, DATATYPE_NAMES.get(spec.datatype, UNKNOWN), tuple(spec.shape), tuple(spec.columns))
        for spec in specs
    )
