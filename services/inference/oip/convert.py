"""The Open Inference Protocol's predictions ↔ values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from services.common.errors import InvalidArgument
from services.inference.features import Given
from services.inference.lookups.lookups import EntityInputs
from services.inference.models import ResolvedVersion, Signature
from services.inference.oip import open_inference_pb2 as pb
from services.inference.oip.classes import best_classes
from services.inference.oip.parameters import OFFSET, REGION, SIZE, class_count_of, entity_ids_of, place_of
from services.inference.prediction import Inputs, Prediction
from services.inference.shared_memory.control import SharedMemory
from services.inference.shared_memory.regions import Place
from services.inference.tensors import Tensor, datatype_of, dtype_of, element_count, from_raw, to_raw

# Where each datatype's elements stand in InferTensorContents. FP16 and BF16 travel raw only.
CONTENTS: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def read_inputs_of(request: pb.ModelInferRequest, memory: SharedMemory) -> Inputs:
    """Say how the inputs are read; raises InvalidArgument as `parameters.entity_ids_of` does."""
    read = partial(inputs_of, request, memory)
    ids = entity_ids_of(request)
    return EntityInputs(ids, lambda signature: Given(read(signature), {})) if ids else read


def inputs_of(request: pb.ModelInferRequest, memory: SharedMemory, signature: Signature) -> dict[str, Tensor]:
    """Read the inputs: those in the message are all raw or all typed, the others lie in shared memory.

    Raises:
        InvalidArgument: raw and typed in one request (MIXED_CONTENTS), one raw entry an input is not there
            (RAW_COUNT_MISMATCH), an input came twice (DUPLICATE_INPUT), one that lies in shared memory is none of the
            model's (UNKNOWN_INPUT), or what `from_raw` raises.
        DomainError: as `SharedMemory.regions` and `Regions.read` do.
    """
    raws = request.raw_input_contents
    raw_count = len(raws)  # each look at a field of a message costs as much as ten at a variable
    inputs: dict[str, Tensor] = {}
    used = 0
    for tensor in request.inputs:
        name = tensor.name
        if name in inputs:
            raise InvalidArgument.field(name, "this input came twice", reason="DUPLICATE_INPUT")
        place = place_of(name, tensor.parameters) if tensor.parameters else None
        if (raw_count or place) and tensor.HasField("contents"):
            raise InvalidArgument.field(
                name, "its bytes and contents came in one request; send one of them", reason="MIXED_CONTENTS"
            )
        if place is not None:
            inputs[name] = _from_memory(tensor, place, memory, signature)
        elif not raw_count:
            inputs[name] = _from_contents(tensor)
        else:
            if used < raw_count:
                inputs[name] = from_raw(name, tensor.datatype, _shape_of(tensor), raws[used])
            used += 1
    if used != raw_count:
        raise InvalidArgument.field(
            "raw_input_contents",
            f"{raw_count} entries came for {used} inputs; send one an input, in order",
            reason="RAW_COUNT_MISMATCH",
        )
    return inputs


def _shape_of(tensor: pb.ModelInferRequest.InferInputTensor) -> tuple[int, ...]:
    return tuple(tensor.shape[:])  # in one slice: a quarter of what it costs element by element


def _from_memory(
    tensor: pb.ModelInferRequest.InferInputTensor, place: Place, memory: SharedMemory, signature: Signature
) -> Tensor:
    regions = memory.regions
    if all(spec.name != tensor.name for spec in signature.inputs):  # so many at most are read, however many came
        taken = ", ".join(repr(spec.name) for spec in signature.inputs) or "none"
        sentence = f"the model has no such input; it takes {taken}"
        raise InvalidArgument.field(tensor.name, sentence, reason="UNKNOWN_INPUT")
    shape = _shape_of(tensor)
    dtype = dtype_of(tensor.name, tensor.datatype)
    needed = element_count(tensor.name, shape) * dtype.itemsize
    if not dtype.hasobject and needed != place.size_bytes:  # before anything is read
        raise InvalidArgument.field(
            tensor.name,
            f"{place.size_bytes} bytes lie in shared memory; shape {list(shape)} of {tensor.datatype} takes {needed}",
            reason="SHAPE_MISMATCH",
        )
    return from_raw(tensor.name, tensor.datatype, shape, regions.read(place))


def _from_contents(tensor: pb.ModelInferRequest.InferInputTensor) -> Tensor:
    dtype = dtype_of(tensor.name, tensor.datatype)
    field = CONTENTS.get(tensor.datatype)
    if field is None:
        raise InvalidArgument.field(
            tensor.name, f"{tensor.datatype} travels raw only: send raw_input_contents", reason="RAW_ONLY_DATATYPE"
        )
    shape = _shape_of(tensor)
    count = element_count(tensor.name, shape)
    values = getattr(tensor.contents, field)
    if len(values) != count:
        raise InvalidArgument.field(
            tensor.name,
            f"{len(values)} elements came in {field}; shape {list(shape)} takes {count}",
            reason="SHAPE_MISMATCH",
        )
    if dtype.hasobject:
        array = np.empty(count, dtype=object)
        array[:] = list(values)
        return array.reshape(shape)
    try:
        return np.array(values, dtype=dtype).reshape(shape)
    except OverflowError as error:
        raise InvalidArgument.field(
            tensor.name, f"a value is out of {tensor.datatype}'s range", reason="VALUE_OUT_OF_RANGE"
        ) from error


def outputs_of(request: pb.ModelInferRequest, memory: SharedMemory) -> tuple[str, ...]:
    """Read the names of the outputs wanted; none: all. What is asked of them is checked before anything runs.

    Raises:
        InvalidArgument: `classification` is no whole number over 0 (INVALID_PARAMETER).
        DomainError: as `SharedMemory.regions` and `Regions.check` do.
    """
    if not request.outputs:
        return ()
    names: list[str] = []
    for output in request.outputs:
        names.append(output.name)
        if output.parameters:
            class_count_of(output)
            place = place_of(output.name, output.parameters)
            if place is not None:
                memory.regions.check(place)
    return tuple(names)


@dataclass(frozen=True, slots=True)
class Answers:
    """How answers are written: `mirrored`, also requests that do not ask for it are answered typed if they were."""

    memory: SharedMemory
    mirrored: bool = False


def infer_response(
    request: pb.ModelInferRequest, prediction: Prediction, answers: Answers, response: pb.ModelInferResponse
) -> pb.ModelInferResponse:
    """Write the answer into `response`, and outputs that are to lie in shared memory there.

    Raw, unless the request was typed and asked for the same (`mirror_contents`), and all outputs can be typed. Raises
    as `best_classes` and `Regions.write` do.
    """
    version = prediction.version
    response.model_name = request.model_name
    response.model_version = version.version
    response.id = request.id
    response.parameters["inference_id"].string_param = prediction.inference_id
    if prediction.lookup is not None:
        response.parameters["feature_view"].string_param = f"{prediction.lookup.view}@{prediction.lookup.version}"
    arrays = prediction.outputs
    wishes: dict[str, pb.ModelInferRequest.InferRequestedOutputTensor] = {}
    if request.outputs:
        wishes = {output.name: output for output in request.outputs if output.parameters}
        arrays = {name: _wished(name, array, wishes.get(name), version) for name, array in arrays.items()}
    typed = _wants_mirror(request, answers) and all(datatype_of(array) in CONTENTS for array in arrays.values())
    outputs = response.outputs
    raws: list[bytes] = []
    for name, array in arrays.items():
        datatype = datatype_of(array)
        output = outputs.add(name=name, datatype=datatype)
        output.shape.extend(array.shape)
        place = place_of(name, wishes[name].parameters) if name in wishes else None
        if place is not None:
            _to_memory(array, place, answers.memory, output)
            raws.append(b"")
        elif typed:
            getattr(output.contents, CONTENTS[datatype]).extend(_elements(array))
        else:
            raws.append(to_raw(array))
    if not typed:
        response.raw_output_contents.extend(raws)
    return response


def _wished(
    name: str,
    array: Tensor,
    wish: pb.ModelInferRequest.InferRequestedOutputTensor | None,
    version: ResolvedVersion,
) -> Tensor:
    """Give an output as it was asked for: its scores, or the best of its classes."""
    class_count = class_count_of(wish) if wish is not None else 0
    return best_classes(name, array, class_count, version) if class_count else array


def _wants_mirror(request: pb.ModelInferRequest, answers: Answers) -> bool:
    if request.raw_input_contents:
        return False
    if "mirror_contents" in request.parameters:
        return request.parameters["mirror_contents"].bool_param
    return answers.mirrored and any(tensor.HasField("contents") for tensor in request.inputs)


def _to_memory(
    array: Tensor, place: Place, memory: SharedMemory, output: pb.ModelInferResponse.InferOutputTensor
) -> None:
    raw = to_raw(array)
    memory.regions.write(place, raw)
    output.parameters[REGION].string_param = place.region
    output.parameters[SIZE].int64_param = len(raw)
    if place.offset_bytes:
        output.parameters[OFFSET].int64_param = place.offset_bytes


def _elements(array: Tensor) -> Iterator[Any]:
    return (value.encode() if isinstance(value, str) else value for value in array.ravel().tolist())
