"""Versions as the registry sends them, and requests as our own front door takes them."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.api.inference.v1.inference_pb2 import PredictRequest
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.tensors import to_tensor
from services.common.errors import InvalidArgument
from services.inference.convert import caller_of, catalog_version, inputs_of
from services.inference.models import CapturePolicy, Signature, TensorSpec


def test_a_version_is_read_whole() -> None:
    found = catalog_version(
        pb.ModelVersion(
            model="iris",
            version="1",
            deployment_number=3,
            framework=pb.FRAMEWORK_ONNX,
            state=pb.VERSION_STATE_READY,
            stage=pb.STAGE_PRODUCTION,
            files=[pb.File(path="model.onnx", sha256="ab" * 32, size_bytes=7)],
            capture_policy=pb.CapturePolicy(share=0),
        )
    )
    assert (found.stage_name, found.state_name, found.ready) == ("production", "READY", True)
    assert found.resolved is not None
    assert (found.resolved.framework, found.resolved.deployment_number) == ("onnx", 3)
    assert found.resolved.capture == CapturePolicy(share=0), "a share of 0 is not a share that nobody gave"
    assert found.resolved.size_bytes == 7


def test_a_warm_up_that_only_a_newer_registry_understands_stops_nobody_from_following() -> None:
    strange = to_tensor("x", [1.0])
    strange.datatype = 99  # type: ignore[assignment]
    warm_ups = [pb.WarmUpRequest(tensors=[strange]), pb.WarmUpRequest(row_count=8)]
    version = pb.ModelVersion(
        state=pb.VERSION_STATE_READY, serving_settings=pb.ServingSettings(warm_up=warm_ups, preload=True)
    )
    resolved = catalog_version(version).resolved
    assert resolved is not None
    assert [each.row_count for each in resolved.serving.warm_up] == [8]
    assert resolved.serving.preload


def test_a_version_that_is_not_ready_cannot_be_served() -> None:
    found = catalog_version(pb.ModelVersion(model="iris", version="1", state=pb.VERSION_STATE_VALIDATING))
    assert (found.ready, found.state_name) == (False, "VALIDATING")


def test_what_a_newer_registry_knows_is_taken_in_as_unknown() -> None:
    newer = pb.ModelVersion(model="iris", version="1", framework=99, state=99, stage=99)  # type: ignore[arg-type] # so newer
    found = catalog_version(newer)
    assert (found.ready, found.state_name, found.stage_name) == (False, "unknown", "unknown")
    newer.state = pb.VERSION_STATE_READY
    ready = catalog_version(newer)
    assert ready.resolved is not None
    assert ready.resolved.framework == "unknown"


def test_every_bad_id_is_named_at_once() -> None:
    with pytest.raises(InvalidArgument) as caught:
        caller_of(PredictRequest(user_id="u" * 257, session_id="a\tb", request_id="fine"))
    assert [violation.field for violation in caught.value.violations] == ["user_id", "session_id", "model"]


def test_a_nameless_tensor_beside_its_named_self_came_twice() -> None:
    signature = Signature((TensorSpec("x", "FP32", (-1, 4)),), ())
    row = np.ones((1, 4), np.float32)
    request = PredictRequest(model="m", tensors=[to_tensor("", row), to_tensor("x", row)])
    with pytest.raises(InvalidArgument) as caught:
        inputs_of(request, signature)
    assert caught.value.reason == "DUPLICATE_INPUT"
