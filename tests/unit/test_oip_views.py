"""How models look in the Open Inference Protocol, and what they have counted."""

from __future__ import annotations

from dataclasses import replace

from services.inference.engine.statistics import Timings, VersionStatistics
from services.inference.models import ResolvedVersion, ServingSettings, Signature, TensorSpec
from services.inference.oip import open_inference_pb2 as pb
from services.inference.oip import views

VERSION = ResolvedVersion(
    "iris",
    "1.0.0",
    1,
    "onnx",
    "production",
    Signature((TensorSpec("X", "FP32", (-1, 4)),), (TensorSpec("label", "BYTES", (-1,)),)),
    serving=ServingSettings(max_queue_delay_us=700),
)


def test_metadata_and_config_say_the_same_of_a_model_that_is_never_batched() -> None:
    metadata = views.metadata_response(VERSION, ["1.0.0"])
    config = views.config_response(VERSION, 0).config
    names = ("onnxruntime_onnx", "onnxruntime_onnx", "onnxruntime")
    assert (metadata.platform, config.platform, config.backend) == names
    assert list(metadata.inputs[0].shape) == list(config.input[0].dims) == [-1, 4]
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert config.output[0].data_type == pb.TYPE_STRING
    assert not metadata.properties


def test_the_config_of_a_batched_model_leaves_the_batch_dimension_out() -> None:
    config = views.config_response(VERSION, 32).config
    assert config.max_batch_size == 32
    assert list(config.input[0].dims) == [4]
    assert list(config.output[0].dims) == []
    assert config.dynamic_batching.max_queue_delay_microseconds == 700
    assert list(views.metadata_response(VERSION, []).inputs[0].shape) == [-1, 4]


def test_a_datatype_that_is_not_known_breaks_no_config() -> None:
    odd = replace(VERSION, signature=Signature((TensorSpec("X", "FP8", (1,)),), ()))
    assert views.config_response(odd, 0).config.input[0].data_type == pb.TYPE_INVALID


def test_statistics_are_written_with_their_batches_and_memory() -> None:
    statistics = VersionStatistics(VERSION)
    timings = Timings(queue_ns=1, compute_input_ns=2, compute_infer_ns=3, compute_output_ns=4, total_ns=10)
    statistics.count_success(5, timings)
    statistics.count_run(5, timings)
    statistics.count_look(hit=False, duration_ns=7)
    (written,) = views.statistics_response([statistics], {("iris", "1.0.0"): 1_024}).model_stats
    assert (written.name, written.version) == ("iris", "1.0.0")
    assert (written.inference_count, written.execution_count) == (5, 1)
    assert written.last_inference == statistics.last_inference_ms > 1_700_000_000_000
    assert (written.inference_stats.success.count, written.inference_stats.success.ns) == (1, 10)
    assert (written.inference_stats.cache_hit.count, written.inference_stats.cache_miss.ns) == (0, 7)
    assert (written.batch_stats[0].batch_size, written.batch_stats[0].compute_infer.ns) == (5, 3)
    assert written.memory_usage[0].byte_size == 1_024


def test_what_is_not_loaded_takes_no_memory() -> None:
    (written,) = views.statistics_response([VersionStatistics(VERSION)], {}).model_stats
    assert not written.memory_usage
