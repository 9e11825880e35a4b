"""How a model looks in the Open Inference Protocol: what it takes and gives, how it is served, what it has counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from services.inference.models import ResolvedVersion, TensorSpec
from services.inference.oip import open_inference_pb2 as pb
from services.inference.oip.repository import IndexEntry
from services.inference.oip.statistics import Counts
from services.inference.shared_memory.regions import Region
from services.inference.tensors import DTYPES

CONFIG_TYPES: Final = {
    name: pb.DataType.Value("TYPE_STRING" if name == "BYTES" else f"TYPE_{name}") for name in (*DTYPES, "BF16")
}
# What Triton calls the runtimes; clients and dashboards show it.
PLATFORMS: Final = {"onnx": "onnxruntime_onnx", "tensorflow": "tensorflow_savedmodel"}
BACKENDS: Final = {"onnx": "onnxruntime", "tensorflow": "tensorflow"}


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


def config_response(version: ResolvedVersion, max_batch_size: int) -> pb.ModelConfigResponse:
    """Write how a model is served. With a `max_batch_size` over 0 the dims leave the batch dimension out."""
    signature = version.signature
    config = pb.ModelConfig(
        name=version.model,
        platform=PLATFORMS.get(version.framework, version.framework),
        backend=BACKENDS.get(version.framework, version.framework),
        max_batch_size=max_batch_size,
    )
    first = 1 if max_batch_size else 0
    for spec in signature.inputs:
        config.input.add(name=spec.name, data_type=_config_type(spec), dims=spec.shape[first:])
    for spec in signature.outputs:
        config.output.add(name=spec.name, data_type=_config_type(spec), dims=spec.shape[first:])
    if max_batch_size:
        config.dynamic_batching.max_queue_delay_microseconds = version.serving.max_queue_delay_us
    return pb.ModelConfigResponse(config=config)


def _config_type(spec: TensorSpec) -> pb.DataType.ValueType:
    return CONFIG_TYPES.get(spec.datatype, pb.TYPE_INVALID)


def statistics_proto(counts: Counts) -> pb.ModelStatistics:
    """Write one version's counts."""
    numbers = counts.numbers
    answered = numbers["successes"]

    def spent(name: str) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=answered, ns=numbers[name])

    def counted(count: str, ns: str) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=numbers.get(count, 0), ns=numbers.get(ns, 0))

    return pb.ModelStatistics(
        name=counts.model,
        version=counts.version,
        last_inference=numbers["last_inference_ms"],
        inference_count=numbers["inferences"],
        execution_count=numbers["executions"],
        inference_stats=pb.InferStatistics(
            success=counted("successes", "success_ns"),
            fail=counted("failed", "failed_ns"),
            queue=spent("queue_ns"),
            compute_input=spent("compute_input_ns"),
            compute_infer=spent("compute_infer_ns"),
            compute_output=spent("compute_output_ns"),
            cache_hit=counted("cache_hits", "cache_hit_ns"),
            cache_miss=counted("cache_misses", "cache_miss_ns"),
        ),
        batch_stats=[_batch(size, tally) for size, tally in sorted(counts.batches.items())],
        memory_usage=[pb.MemoryUsage(type="CPU", id=0, byte_size=counts.memory_bytes)] if counts.memory_bytes else [],
    )


def _batch(size: int, tally: Mapping[str, int]) -> pb.InferBatchStatistics:
    runs = tally["executions"]
    return pb.InferBatchStatistics(
        batch_size=size,
        compute_input=pb.StatisticDuration(count=runs, ns=tally["compute_input_ns"]),
        compute_infer=pb.StatisticDuration(count=runs, ns=tally["compute_infer_ns"]),
        compute_output=pb.StatisticDuration(count=runs, ns=tally["compute_output_ns"]),
    )


def index_response(entries: Iterable[IndexEntry]) -> pb.RepositoryIndexResponse:
    """Write which models there are."""
    return pb.RepositoryIndexResponse(
        models=[
            pb.RepositoryIndexResponse.ModelIndex(
                name=entry.model,
                version=entry.version,
                state="READY" if entry.ready else "UNAVAILABLE",
                reason=entry.reason,
            )
            for entry in entries
        ]
    )


def regions_response(regions: Iterable[Region]) -> pb.SystemSharedMemoryStatusResponse:
    """Write which regions of shared memory are registered."""
    status = pb.SystemSharedMemoryStatusResponse.RegionStatus
    return pb.SystemSharedMemoryStatusResponse(
        regions={
            region.name: status(
                name=region.name, key=region.key, offset=region.offset_bytes, byte_size=region.size_bytes
            )
            for region in regions
        }
    )
