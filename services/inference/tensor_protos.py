"""Our own contract's tensors and specs ↔ values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from penstock.api.tensors.v1.tensors_pb2 import DataType, Tensor, TensorSpec
from services.inference import models, tensors

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

DATATYPE_NAMES: Final = {number: name.removeprefix("DATA_TYPE_") for name, number in DataType.items() if number}
DATATYPE_NUMBERS: Final = {name: DataType.Value(f"DATA_TYPE_{name}") for name in DATATYPE_NAMES.values()}
UNKNOWN: Final = "UNSPECIFIED"


def add_tensor(to: RepeatedCompositeFieldContainer[Tensor], name: str, array: tensors.Tensor) -> None:
    """Write a tensor where its message keeps tensors: in place, since a copy would cost as much again."""
    datatype = DATATYPE_NUMBERS[tensors.datatype_of(array)]
    to.add(name=name, datatype=datatype, shape=array.shape, raw=tensors.to_raw(array))


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
