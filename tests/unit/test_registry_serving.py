"""Serving settings as the registry takes them: each field's limits, what goes together, and what is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.tensors.v1 import tensors_pb2
from penstock.tensors import to_tensor
from penstock.values import to_struct
from services.common.errors import InvalidArgument
from services.inference.convert import catalog_version
from services.inference.models import FeatureViewPolicy, MissingFeatureAction, QueueFullAction
from services.registry.models import Signature, TensorSpec
from services.registry.serving import ServingSettings, json_of
from services.registry.serving_protos import serving_settings, settings_message
from services.registry.signatures import check_warm_ups

ROW = to_tensor("X", [[1.5, float("nan")]])
TEXTS = to_tensor("text", ["été", ""])
FULL = pb.ServingSettings(
    max_in_flight=64,
    pinned=True,
    max_batch_size=65_536,
    max_queue_delay_us=10_000_000,
    max_queue_size=100_000,
    queue_full_action=pb.QUEUE_FULL_ACTION_DISPLACE,
    priority_levels=16,
    default_priority=16,
    timeout_ms=3_600_000,
    instances=64,
    warm_up=[pb.WarmUpRequest(tensors=[ROW, TEXTS], repeat_count=100), pb.WarmUpRequest(row_count=65_536)],
    preload=True,
    response_cache=pb.ResponseCachePolicy(enabled=True, ttl_ms=30 * 86_400_000, max_answer_bytes=2**31 - 1),
    feature_view=pb.FeatureViewPolicy(
        view="spending@2",
        names={"X": "amount"},
        missing_action=pb.MISSING_FEATURE_ACTION_USE_NAN,
        defaults=to_struct({"X": 1.5, "text": "none", "member": True}),
    ),
)
TAKES = Signature((TensorSpec("X", "FP64", (-1, 2)),), ())


def warm_up(**tensor: Any) -> pb.ServingSettings:
    whole = {"name": "X", "datatype": tensors_pb2.DATA_TYPE_FP32, "shape": [1], "raw": b"1234", **tensor}
    return pb.ServingSettings(warm_up=[pb.WarmUpRequest(tensors=[tensors_pb2.Tensor(**whole)])])


def test_every_field_is_kept_in_json_and_told_again() -> None:
    settings = serving_settings(FULL)
    kept = TypeAdapter(ServingSettings).validate_python(json.loads(json.dumps(json_of(settings))))
    assert kept == settings
    assert settings_message(kept) == FULL
    assert len(FULL.ListFields()) == len(pb.ServingSettings.DESCRIPTOR.fields), "a new field belongs into this test"


def test_what_was_kept_before_the_fields_came_is_the_default() -> None:
    assert settings_message(TypeAdapter(ServingSettings).validate_python({"pinned": True})) == pb.ServingSettings(
        pinned=True
    )
    assert settings_message(serving_settings(pb.ServingSettings())) == pb.ServingSettings()


def test_inference_reads_every_field_as_the_registry_wrote_it() -> None:
    version = pb.ModelVersion(state=pb.VERSION_STATE_READY, serving_settings=settings_message(serving_settings(FULL)))
    resolved = catalog_version(version).resolved
    assert resolved is not None
    read = resolved.serving
    assert (read.max_batch_size, read.max_queue_delay_us, read.timeout_ms, read.preload) == (
        65_536, 10_000_000, 3_600_000, True,
    )  # fmt: skip
    assert read.queue_full_action is QueueFullAction.DISPLACE
    assert read.feature_view == FeatureViewPolicy(
        "spending@2", {"X": "amount"}, MissingFeatureAction.USE_NAN, {"X": 1.5, "text": "none", "member": True}
    )
    first, second = read.warm_up
    assert first.tensors["text"].tolist() == ["été".encode(), b""]
    assert (first.row_count, first.repeat_count, second.row_count, second.repeat_count) == (1, 100, 65_536, 1)
    assert (read.response_cache.enabled, read.response_cache.ttl_ms) == (True, 30 * 86_400_000)


@pytest.mark.parametrize(
    ("settings", "reason", "field"),
    [
        (pb.ServingSettings(max_batch_size=65_537), "OUT_OF_BOUNDS", "max_batch_size"),
        (pb.ServingSettings(max_batch_size=-1), "OUT_OF_BOUNDS", "max_batch_size"),
        (pb.ServingSettings(max_queue_delay_us=10_000_001), "OUT_OF_BOUNDS", "max_queue_delay_us"),
        (pb.ServingSettings(max_queue_size=100_001), "OUT_OF_BOUNDS", "max_queue_size"),
        (pb.ServingSettings(queue_full_action=7), "INVALID_ENUM", "queue_full_action"),  # type: ignore[arg-type] # what a newer client may send
        (pb.ServingSettings(priority_levels=17), "OUT_OF_BOUNDS", "priority_levels"),
        (pb.ServingSettings(default_priority=-1), "OUT_OF_BOUNDS", "default_priority"),
        (pb.ServingSettings(timeout_ms=3_600_001), "OUT_OF_BOUNDS", "timeout_ms"),
        (pb.ServingSettings(instances=65), "OUT_OF_BOUNDS", "instances"),
        (pb.ServingSettings(warm_up=[pb.WarmUpRequest()] * 17), "TOO_MANY", "warm_up"),
        (pb.ServingSettings(warm_up=[pb.WarmUpRequest(row_count=65_537)]), "OUT_OF_BOUNDS", "warm_up[0].row_count"),
        (pb.ServingSettings(warm_up=[pb.WarmUpRequest(repeat_count=101)]), "OUT_OF_BOUNDS", "warm_up[0].repeat_count"),
        (pb.ServingSettings(warm_up=[pb.WarmUpRequest(tensors=[ROW, ROW])]), "DUPLICATE_NAME", "warm_up[0].tensors"),
        (warm_up(name=""), "INVALID_NAME", "warm_up[0].tensors[0].name"),
        (warm_up(datatype=0), "INVALID_ENUM", "warm_up[0].tensors[0].datatype"),
        (warm_up(shape=[-1]), "OUT_OF_BOUNDS", "warm_up[0].tensors[0].shape"),
        (warm_up(shape=[1] * 33), "OUT_OF_BOUNDS", "warm_up[0].tensors[0].shape"),
        (warm_up(shape=[2]), "SHAPE_MISMATCH", "warm_up[0].tensors[0].raw"),
        (warm_up(datatype=tensors_pb2.DATA_TYPE_BYTES), "SHAPE_MISMATCH", "warm_up[0].tensors[0].raw"),
        (warm_up(shape=[1_000_000] * 32), "SHAPE_MISMATCH", "warm_up[0].tensors[0].raw"),
        (warm_up(shape=[2**18 + 1], raw=bytes(2**20 + 4)), "TOO_LARGE", "warm_up"),
        (pb.ServingSettings(response_cache=pb.ResponseCachePolicy(ttl_ms=30 * 86_400_000 + 1)), "OUT_OF_BOUNDS",
         "response_cache.ttl_ms"),
        (pb.ServingSettings(response_cache=pb.ResponseCachePolicy(max_answer_bytes=-1)), "OUT_OF_BOUNDS",
         "response_cache.max_answer_bytes"),
    ],
)  # fmt: skip
def test_a_value_beyond_its_limit_names_its_field(settings: pb.ServingSettings, reason: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        serving_settings(settings)
    assert (caught.value.reason, caught.value.violations[0].field) == (reason, f"serving_settings.{field}")


@pytest.mark.parametrize(("levels", "default", "fits"), [(0, 0, True), (0, 1, True), (0, 2, False), (3, 4, False)])
def test_the_default_priority_is_one_of_the_levels(levels: int, default: int, fits: bool) -> None:
    settings = serving_settings(pb.ServingSettings(priority_levels=levels, default_priority=default))
    if fits:
        settings.check()
        return
    with pytest.raises(InvalidArgument) as caught:
        settings.check()
    assert caught.value.violations[0].field == "serving_settings.default_priority"


@pytest.mark.parametrize(
    ("tensor", "signature", "fits"),
    [
        (ROW, TAKES, True),
        (ROW, None, True),
        (to_tensor("X", [[1.0, 2.0, 3.0]]), TAKES, False),
        (to_tensor("X", [1.0, 2.0]), TAKES, False),
        (to_tensor("X", [[1, 2]]), TAKES, False),
        (to_tensor("Y", [[1.0, 2.0]]), TAKES, False),
        # Only columns were declared: what the inputs are called, the file will say.
        (to_tensor("Y", [[1.0, 2.0]]), Signature((TensorSpec("", "", (), ("a", "b")),), ()), True),
        (ROW, Signature((TensorSpec("X", "", (), ("a", "b")),), ()), True),
    ],
)
def test_warm_up_tensors_are_held_to_what_is_known_of_the_inputs(
    tensor: tensors_pb2.Tensor, signature: Signature | None, fits: bool
) -> None:
    settings = serving_settings(pb.ServingSettings(warm_up=[pb.WarmUpRequest(), pb.WarmUpRequest(tensors=[tensor])]))
    if fits:
        check_warm_ups(settings, signature)
        return
    with pytest.raises(InvalidArgument) as caught:
        check_warm_ups(settings, signature)
    assert caught.value.reason == "SIGNATURE_MISMATCH"
    assert caught.value.violations[0].field == "serving_settings.warm_up[1].tensors[0]"
