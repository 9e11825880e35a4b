"""How a model looks in the Open Inference Protocol: what it takes and gives, how it is served, what it has counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from services.inference.engine.statistics import VersionStatistics
from services.inference.models import ResolvedVersion, TensorSpec
from services.inference.oip import open_inference_pb2 as pb
from services.inference.oip.repository import IndexEntry
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


def statistics_response(
    found: Iterable[VersionStatistics], held: Mapping[tuple[str, str], int]
) -> pb.ModelStatisticsResponse:
    """Write the counts of versions; `held` is what each loaded one takes in memory, by model and version."""
    return pb.ModelStatisticsResponse(
        model_stats=[_statistics(each, held.get((each.version.model, each.version.version), 0)) for each in found]
    )


def _statistics(statistics: VersionStatistics, memory_bytes: int) -> pb.ModelStatistics:
    duration = pb.StatisticDuration
    ok = statistics.successes
    return pb.ModelStatistics(
        name=statistics.version.model,
        version=statistics.version.version,
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
            cache_hit=duration(count=statistics.cache_hits, ns=statistics.cache_hit_ns),
            cache_miss=duration(count=statistics.cache_misses, ns=statistics.cache_miss_ns),
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
        memory_usage=[pb.MemoryUsage(type="CPU", id=0, byte_size=memory_bytes)] if memory_bytes else [],
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
