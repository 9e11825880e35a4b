"""What ONNX Runtime's binding cannot take or give as numpy arrays, in both directions: text, BF16, sequences, maps."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before it is imported; see `onnx_runtime`

import onnxruntime

from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.onnx_outputs import DATATYPES, NotATensor, as_tensor, composite_type
from services.inference.models import ANY, ModelFailed, Signature, TensorSpec
from services.inference.tensors import BFLOAT16, Tensor

ONNX_BFLOAT16 = 16
"""BFLOAT16 in ONNX's TensorProto.DataType."""


def signature_of(session: Any) -> Signature:
    """Read names, types and shapes; raises FailedPrecondition(UNSUPPORTED_DATATYPE) for what cannot be served."""
    inputs = tuple(_spec(node, None) for node in session.get_inputs())
    outputs = tuple(_spec(node, composite_type(node.type)) for node in session.get_outputs())
    return Signature(inputs, outputs)


def composites_of(session: Any) -> dict[str, str]:
    """Name the outputs that are sequences or maps, each with the datatype that it is given as."""
    found = {node.name: composite_type(node.type) for node in session.get_outputs()}
    return {name: composite[0] for name, composite in found.items() if composite is not None}


def _spec(node: Any, composite: tuple[str, tuple[int, ...]] | None) -> TensorSpec:
    if composite is not None:
        return TensorSpec(node.name, *composite)
    datatype = DATATYPES.get(node.type)
    if datatype is None:
        sentence = f"{node.name!r} is {node.type}, which is not served; export the model with another type"
        raise FailedPrecondition(sentence, reason="UNSUPPORTED_DATATYPE")
    shape = tuple(size if isinstance(size, int) and size >= 0 else ANY for size in node.shape)
    return TensorSpec(node.name, datatype, shape)


Call = Callable[[Sequence[str], Mapping[str, Any], Any], Sequence[Any]]
"""Runs a session: the outputs' names, the inputs by name, RunOptions → the answers, in the names' order."""


def call_of(session: Any, signature: Signature) -> Call:
    """Choose how a session is run: by the binding's own `run`, unless BF16 comes out, for which numpy has no name.

    By OrtValues a run of a small model takes 40 µs more, so only such sessions pay for them.
    """
    if all(spec.datatype != "BF16" for spec in signature.outputs):
        run: Call = session.run
        return run
    odd = [spec.name for spec in signature.inputs if spec.datatype == "BYTES"] + sorted(composites_of(session))
    if odd:
        sentence = f"{odd[0]!r} is no plain tensor, which cannot be served beside an output of BF16; cast one of them"
        raise FailedPrecondition(sentence, reason="UNSUPPORTED_DATATYPE")

    def run_with_values(names: Sequence[str], feed: Mapping[str, Any], options: Any) -> list[Tensor]:
        values = {name: _value(given) for name, given in feed.items()}
        return [_array(value) for value in session.run_with_ort_values(names, values, options)]

    return run_with_values


def _value(given: Any) -> Any:
    if isinstance(given, onnxruntime.OrtValue):
        return given
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(given))


def _array(value: Any) -> Tensor:
    if value.data_type() != "tensor(bfloat16)":
        array: Tensor = value.numpy()
        return array
    # Neither numpy nor its reading of DLPack knows the type, so its bytes are copied from where they lie.
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(data, BFLOAT16).reshape(value.shape())


Feed = Callable[[Mapping[str, Tensor]], Mapping[str, Any]]


def feed_of(signature: Signature) -> Feed | None:
    """Choose what makes the binding's inputs of ours; None where they are the same."""
    changes = {spec.name: _CHANGES[spec.datatype] for spec in signature.inputs if spec.datatype in _CHANGES}
    if not changes:
        return None
    return lambda inputs: {
        name: changes[name](name, tensor) if name in changes else tensor for name, tensor in inputs.items()
    }


def _text(name: str, tensor: Tensor) -> Tensor:
    """Turn BYTES into text: ONNX strings are UTF-8, and the binding would write `b'…'` for bytes."""
    text = np.empty(tensor.size, dtype=object)
    for index, element in enumerate(tensor.ravel().tolist()):
        try:
            text[index] = element.decode() if isinstance(element, bytes) else str(element)
        except UnicodeDecodeError as error:
            sentence = f"element {index} is not UTF-8: {error.reason} at byte {error.start}"
            raise InvalidArgument.field(name, sentence, reason="INVALID_UTF8") from error
    return text.reshape(tensor.shape)


def _bfloat16(_name: str, tensor: Tensor) -> Any:
    bits = np.ascontiguousarray(tensor).view(np.uint16)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, ONNX_BFLOAT16)


_CHANGES: dict[str, Callable[[str, Tensor], Any]] = {"BYTES": _text, "BF16": _bfloat16}


def laid_out(name: str, answer: Any, datatype: str) -> Tensor:
    """Make a tensor of a sequence or map; raises ModelFailed(OUTPUT_NOT_A_TENSOR)."""
    try:
        return as_tensor(answer, datatype)
    except NotATensor as error:
        raise ModelFailed(f"output {name!r} is no tensor: {error}", reason="OUTPUT_NOT_A_TENSOR") from error
