"""The Open Inference Protocol's messages ↔ values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np

from services.common.errors import InvalidArgument, Unimplemented
from services.inference.convert import check_ids
from services.inference.engine.statistics import VersionStatistics
from services.inference.models import Caller, ResolvedVersion, Signature, TensorSpec
from services.inference.oip import open_inference_pb2 as pb
from services.inference.prediction import Prediction
from services.inference.tensors import DTYPES, Tensor, datatype_of, dtype_of, element_count, from_raw, to_raw

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
CONFIG_TYPES: Final = {name: pb.DataType.Value("TYPE_STRING" if name == "BYTES" else f"TYPE_{name}") for name in DTYPES}
# What Triton calls the runtimes; clients and dashboards show it.
PLATFORMS: Final = {"onnx": "onnxruntime_onnx", "tensorflow": "tensorflow_savedmodel"}
BACKENDS: Final = {"onnx": "onnxruntime", "tensorflow": "tensorflow"}


def caller_of(request: pb.ModelInferRequest) -> Caller:
    """Read who asks: `id` is the request's, and the parameters `user_id` and `session_id` say for whom."""
    if not request.parameters:
        check_ids(request.model_name, {"id": request.id})
        return Caller(request_id=request.id)
    ids = {
        "user_id": request.parameters["user_id"].string_param if "user_id" in request.parameters else "",
        "session_id": request.parameters["session_id"].string_param if "session_id" in request.parameters else "",
        "request_id": request.id,
    }
    check_ids(request.model_name, ids)
    return Caller(**ids)


def timeout_s_of(request: pb.ModelInferRequest, remaining_s: float | None) -> float | None:
    """Read the time left: the parameter `timeout`, in microseconds, or the call's deadline if that is sooner."""
    if "timeout" not in request.parameters:
        return remaining_s
    timeout_us = _integer(request.parameters["timeout"], "timeout")
    if timeout_us <= 0:
        return remaining_s
    timeout_s = timeout_us / 1e6
    return timeout_s if remaining_s is None else min(timeout_s, remaining_s)


def _integer(parameter: pb.InferParameter, name: str) -> int:
    # Clients send whole numbers as int64 or as uint64.
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        raise InvalidArgument.field(f"parameters[{name}]", "a whole number is expected", reason="INVALID_PARAMETER")
    return int(getattr(parameter, kind))


def inputs_of(request: pb.ModelInferRequest, _signature: Signature) -> dict[str, Tensor]:
    """Read the inputs, all raw or all typed.

    Raises:
        InvalidArgument: raw and typed in one request (MIXED_CONTENTS), one raw entry an input is not there
            (RAW_COUNT_MISMATCH), an input came twice (DUPLICATE_INPUT), or what `from_raw` raises.
    """
    raws = request.raw_input_contents
    tensors = request.inputs
    if raws and len(raws) != len(tensors):
        for tensor in tensors:
            _refuse_shared_memory(tensor)
        raise InvalidArgument.field(
            "raw_input_contents",
            f"{len(raws)} entries came for {len(tensors)} inputs; send one an input, in order",
            reason="RAW_COUNT_MISMATCH",
        )
    inputs: dict[str, Tensor] = {}
    for index, tensor in enumerate(tensors):
        name = tensor.name
        if name in inputs:
            raise InvalidArgument.field(name, "this input came twice", reason="DUPLICATE_INPUT")
        if not raws:
            inputs[name] = _from_contents(tensor)
        elif tensor.HasField("contents"):
            raise InvalidArgument.field(
                name, "raw_input_contents and contents came in one request; send one of them", reason="MIXED_CONTENTS"
            )
        else:
            inputs[name] = from_raw(name, tensor.datatype, tuple(tensor.shape), raws[index])
    return inputs


def _from_contents(tensor: pb.ModelInferRequest.InferInputTensor) -> Tensor:
    dtype = dtype_of(tensor.name, tensor.datatype)
    field = CONTENTS.get(tensor.datatype)
    if field is None:
        raise InvalidArgument.field(
            tensor.name, f"{tensor.datatype} travels raw only: send raw_input_contents", reason="RAW_ONLY_DATATYPE"
        )
    shape = tuple(tensor.shape)
    count = element_count(tensor.name, shape)
    values = getattr(tensor.contents, field)
    if len(values) != count:
        _refuse_shared_memory(tensor)
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


def _refuse_shared_memory(
    tensor: pb.ModelInferRequest.InferInputTensor | pb.ModelInferRequest.InferRequestedOutputTensor,
) -> None:
    if "shared_memory_region" in tensor.parameters:
        sentence = f"{tensor.name}: shared memory is not served here; send and take the bytes in the messages"
        raise Unimplemented(sentence, reason="SHARED_MEMORY_NOT_SERVED")


def outputs_of(request: pb.ModelInferRequest) -> tuple[str, ...]:
    """Read the names of the outputs wanted; none: all. What is asked of them is checked before anything runs.

    Raises:
        InvalidArgument: `classification` is no whole number over 0 (INVALID_PARAMETER).
        Unimplemented: an output is to go into shared memory (SHARED_MEMORY_NOT_SERVED).
    """
    for output in request.outputs:
        if output.parameters:
            _refuse_shared_memory(output)
            _class_count(output)
    return tuple(output.name for output in request.outputs) if request.outputs else ()


def _class_count(output: pb.ModelInferRequest.InferRequestedOutputTensor) -> int:
    """Read how many of the best classes are wanted in place of the scores; 0: the scores."""
    if "classification" not in output.parameters:
        return 0
    count = _integer(output.parameters["classification"], "classification")
    if count <= 0:
        sentence = f"{count} came; send how many of the best classes to give, 1 or more"
        raise InvalidArgument.field("parameters[classification]", sentence, reason="INVALID_PARAMETER")
    return count


def _classes(name: str, scores: Tensor, count: int) -> Tensor:
    """Write the `count` best along the last dimension as `score:index`, the best first."""
    if scores.dtype.hasobject or scores.dtype.kind == "U" or scores.ndim == 0:
        sentence = f"{datatype_of(scores)} of shape {list(scores.shape)} has no scores; ask for it without it"
        raise InvalidArgument.field(f"{name}.parameters[classification]", sentence, reason="INVALID_PARAMETER")
    best = np.argsort(-scores.astype(np.float64), axis=-1, kind="stable")[..., :count]
    ranked = np.take_along_axis(scores, best, axis=-1)
    pairs = zip(ranked.ravel().tolist(), best.ravel().tolist(), strict=True)
    classes = np.empty(best.size, dtype=object)
    classes[:] = [(f"{score:f}" if isinstance(score, float) else f"{score:d}") + f":{index}" for score, index in pairs]
    return classes.reshape(best.shape)


def infer_response(request: pb.ModelInferRequest, prediction: Prediction) -> pb.ModelInferResponse:
    """Write the answer: raw, unless the request was typed and asked for the same (`mirror_contents`)."""
    typed = (
        not request.raw_input_contents
        and "mirror_contents" in request.parameters
        and request.parameters["mirror_contents"].bool_param
    )
    response = pb.ModelInferResponse(
        model_name=request.model_name, model_version=prediction.version.version, id=request.id
    )
    response.parameters["inference_id"].string_param = prediction.inference_id
    class_counts = {output.name: _class_count(output) for output in request.outputs if output.parameters}
    for name, array in prediction.outputs.items():
        if class_count := class_counts.get(name):
            array = _classes(name, array, class_count)
        datatype = datatype_of(array)
        output = response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if typed and datatype in CONTENTS:
            getattr(output.contents, CONTENTS[datatype]).extend(_elements(array))
        else:
            response.raw_output_contents.append(to_raw(array))
    return response


def _elements(array: Tensor) -> Iterator[Any]:
    return (value.encode() if isinstance(value, str) else value for value in array.ravel().tolist())


def metadata_response(version: ResolvedVersion, versions: Iterable[str]) -> pb.ModelMetadataResponse:
    """Write what a model takes and gives."""
    return pb.ModelMetadataResponse(
        name=version.model,
        versions=versions,
        platform=PLATFORMS.get(version.framework, version.framework),
        inputs=_metadata(version.signature.inputs),
        outputs=_metadata(version.signature.outputs),
    )


def _metadata(specs: Iterable[TensorSpec]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
    return [
        pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        for spec in specs
    ]


def config_response(version: ResolvedVersion) -> pb.ModelConfigResponse:
    """Write how a model is served. max_batch_size is 0, so that dims are whole shapes."""
    signature = version.signature
    return pb.ModelConfigResponse(
        config=pb.ModelConfig(
            name=version.model,
            platform=PLATFORMS.get(version.framework, version.framework),
            backend=BACKENDS.get(version.framework, version.framework),
            input=[
                pb.ModelInput(name=spec.name, data_type=CONFIG_TYPES[spec.datatype], dims=spec.shape)
                for spec in signature.inputs
            ],
            output=[
                pb.ModelOutput(name=spec.name, data_type=CONFIG_TYPES[spec.datatype], dims=spec.shape)
                for spec in signature.outputs
            ],
        )
    )


def statistics_proto(statistics: VersionStatistics, memory_bytes: Mapping[str, int]) -> pb.ModelStatistics:
    """Write one version's counts; `memory_bytes` is what each loaded version takes, by its key."""
    version = statistics.version
    held = memory_bytes.get(version.key)
    duration = pb.StatisticDuration
    ok = statistics.successes
    return pb.ModelStatistics(
        name=version.model,
        version=version.version,
        last_inference=statistics.last_inference_ms,
        inference_count=statistics.inferences,
        execution_count=statistics.executions,
        inference_stats=pb.InferStatistics(
            success=duration(count=ok, ns=statistics.success_ns),
            fail=duration(count=statistics.failed, ns=statistics.failed_ns),
            queue=duration(count=ok, ns=statistics.queue_ns),
            compute_input=duration(count=ok, ns=statistics.compute_input_ns),
            compute_infer=duration(count=ok, ns=statistics.compute_infer_ns),
            compute_output=duration(count=ok, ns=statistics.compute_output_ns),
        ),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=size,
                compute_input=duration(count=tally.executions, ns=tally.compute_input_ns),
                compute_infer=duration(count=tally.executions, ns=tally.compute_infer_ns),
                compute_output=duration(count=tally.executions, ns=tally.compute_output_ns),
            )
            for size, tally in sorted(statistics.batches.items())
        ],
        memory_usage=[pb.MemoryUsage(type="CPU", id=0, byte_size=held)] if held is not None else [],
    )
