"""Checks a request's tensors against a model's signature, before the model sees them.

The check runs on every request, so what never changes is worked out once, when the check is built.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from services.common.errors import InvalidArgument
from services.inference.models import Signature, TensorSpec
from services.inference.tensors import Tensor, datatype_of, dtype_of


class SignatureCheck:
    """The check for one signature. Dtypes must match exactly; NaN and infinities are the model's own affair."""

    __slots__ = ("_free", "_inputs", "_outputs", "_row_input", "joinable", "signature")

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self._inputs = tuple(_Input(spec) for spec in signature.inputs)
        self._outputs = frozenset(spec.name for spec in signature.outputs)
        first = signature.inputs[0] if signature.inputs else None
        self._row_input = first.name if first and first.shape and first.shape[0] < 0 else None
        specs = (*signature.inputs, *signature.outputs)
        self.joinable = bool(signature.inputs) and all(spec.shape and spec.shape[0] < 0 for spec in specs)
        """Whether every input and output has rows in front, as many as are sent."""
        self._free = tuple(
            (spec.name, axis) for spec in signature.inputs for axis, size in enumerate(spec.shape) if axis and size < 0
        )

    def check(self, inputs: Mapping[str, Tensor]) -> None:
        """Pass, or raise InvalidArgument that names the input, what came and what the model takes.

        Reasons: MISSING_INPUT, UNKNOWN_INPUT, DATATYPE_MISMATCH, RANK_MISMATCH, DIMENSION_MISMATCH.
        """
        for wanted in self._inputs:
            tensor = inputs.get(wanted.name)
            if tensor is None:
                raise InvalidArgument.field(
                    wanted.name,
                    f"this input is missing; the model takes {_list(self.signature.inputs)}",
                    reason="MISSING_INPUT",
                )
            shape = tensor.shape
            if tensor.dtype != wanted.dtype or len(shape) != wanted.rank:
                wanted.refuse(tensor)
            for axis, size in wanted.fixed:
                if shape[axis] != size:
                    wanted.refuse(tensor)
        if len(inputs) != len(self._inputs):
            self._refuse_unknown(inputs)

    def check_outputs(self, names: tuple[str, ...]) -> None:
        """Pass, or raise InvalidArgument(UNKNOWN_OUTPUT) for a requested output that the model does not give."""
        for name in names:
            if name not in self._outputs:
                raise InvalidArgument.field(
                    name,
                    f"the model has no such output; it gives {_list(self.signature.outputs)}",
                    reason="UNKNOWN_OUTPUT",
                )

    def row_count(self, inputs: Mapping[str, Tensor]) -> int:
        """Count the rows of checked inputs: the first input's first dimension where it is free, else 1."""
        return 1 if self._row_input is None else int(inputs[self._row_input].shape[0])

    def join_key(self, inputs: Mapping[str, Tensor], outputs: tuple[str, ...]) -> Hashable:
        """What checked requests must have in common to be joined: their free sizes and outputs; None: with no other."""
        if len(inputs) > 1:
            rows = self.row_count(inputs)
            if any(tensor.shape[0] != rows for tensor in inputs.values()):
                return None  # the model's own refusal is this caller's alone
        if not self._free:
            return outputs
        return (outputs, *(inputs[name].shape[axis] for name, axis in self._free))

    def _refuse_unknown(self, inputs: Mapping[str, Tensor]) -> None:
        known = {wanted.name for wanted in self._inputs}
        name = next(name for name in inputs if name not in known)
        raise InvalidArgument.field(
            name,
            f"the model has no such input; it takes {_list(self.signature.inputs)}",
            reason="UNKNOWN_INPUT",
        )


class _Input:
    """One input, as the check wants to read it."""

    __slots__ = ("dtype", "fixed", "name", "rank", "spec")

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.dtype: np.dtype[Any] = dtype_of(spec.name, spec.datatype)
        self.rank = len(spec.shape)
        self.fixed = tuple((axis, size) for axis, size in enumerate(spec.shape) if size >= 0)

    def refuse(self, tensor: Tensor) -> None:
        """Raise the error that says what is wrong; reached only when something is."""
        if tensor.dtype != self.dtype:
            sentence = f"datatype {datatype_of(tensor)} came; the model takes {self.spec.datatype}"
            raise InvalidArgument.field(self.name, sentence, reason="DATATYPE_MISMATCH")
        came, takes = list(tensor.shape), list(self.spec.shape)
        if len(came) != self.rank:
            sentence = f"shape {came} of rank {len(came)} came; the model takes rank {self.rank}, {takes}"
            raise InvalidArgument.field(self.name, sentence, reason="RANK_MISMATCH")
        sentence = f"shape {came} came; the model takes {takes}, where -1 is any size"
        raise InvalidArgument.field(self.name, sentence, reason="DIMENSION_MISMATCH")


def _list(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(repr(spec.name) for spec in specs) or "none"
