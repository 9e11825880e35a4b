"""What of a prediction is kept: the slim event always, its payloads by the version's policy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import penstock
from penstock.api.monitoring.v1.monitoring_pb2 import InferenceEvent
from penstock.api.registry.v1.registry_pb2 import CapturePolicy
from tests import inference
from tests.inference import Suite, fp32
from tests.postgres import PostgresServer
from tests.services import Running, running_inference
from tests.testdata import models


@pytest.fixture(scope="module")
def suite(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """One suite for all policies: each test has a model of its own."""
    with inference.running_suite(postgres_server, tmp_path_factory.mktemp("suite")) as suite:
        yield suite


def predicted(suite: Suite, model: str, policy: CapturePolicy, rows: int = 1) -> InferenceEvent:
    """Serve a classifier under a policy, predict once, and give the event."""
    inference.serve(suite, model, models.classifier(), capture_policy=policy)
    answer = suite.client.inference.predict(model, np.ones((rows, 4), np.float32))
    event = inference.event_of(suite.client, answer.inference_id).event
    assert (event.version, event.row_count) == ("1.0.0", rows), "the slim event is always there"
    assert event.HasField("confidence")
    return event


def has_payloads(event: InferenceEvent) -> tuple[bool, bool]:
    return event.HasField("features"), event.HasField("prediction")


def test_payloads_are_kept_unless_told_otherwise(suite: Suite) -> None:
    assert has_payloads(predicted(suite, "default", CapturePolicy())) == (True, True)


@pytest.mark.parametrize(
    ("model", "policy"),
    [
        ("disabled", CapturePolicy(disabled=True)),
        ("no-share", CapturePolicy(share=0)),
        ("no-bytes", CapturePolicy(max_bytes=1)),
    ],
)
def test_a_policy_that_says_no_keeps_the_slim_event_alone(suite: Suite, model: str, policy: CapturePolicy) -> None:
    assert has_payloads(predicted(suite, model, policy)) == (False, False)


def test_a_share_keeps_some_payloads_and_every_event(suite: Suite) -> None:
    inference.serve(suite, "half", models.linear(), capture_policy=CapturePolicy(share=0.5))
    ids = [suite.client.inference.predict("half", fp32([[1, 2, 3, 4]])).inference_id for _ in range(64)]
    kept = [inference.event_of(suite.client, each).event.HasField("features") for each in ids]
    # 64 fair coins fall all the same way once in 10^19.
    assert 0 < sum(kept) < 64


def test_a_payload_that_monitoring_would_refuse_does_not_cost_the_event(suite: Suite) -> None:
    inference.serve(suite, "greedy", models.linear(), capture_policy=CapturePolicy(max_bytes=2**30))
    rows = 2**20 // 16 + 1  # of four floats: a little over 1 MiB, and with their answers less than 2
    answer = suite.client.inference.predict("greedy", np.ones((rows, 4), np.float32))
    event = inference.event_of(suite.client, answer.inference_id).event
    assert event.row_count == rows
    assert has_payloads(event) == (False, False)


def test_without_capture_nothing_is_kept_and_predictions_are_answered(
    registry: Running, monitoring: Running, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("silent")
    with (
        running_inference(folder, registry=registry.address, monitoring=monitoring.address, capture=False) as service,
        inference.connected(registry, monitoring, service) as suite,
    ):
        inference.serve(suite, "linear", models.linear())
        answer = suite.client.inference.predict("linear", {"x": [1, 2, 3, 4]})
    assert not (folder / "spool").exists()
    with (
        penstock.Client(registry=registry.address, monitoring=monitoring.address) as client,
        pytest.raises(penstock.NotFound),
    ):
        client.monitoring.get_inference(answer.inference_id)
