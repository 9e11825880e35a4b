"""The counts: what was asked is what the metrics page, ModelStatistics and monitoring all say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import penstock
from services.inference.oip import open_inference_pb2 as oip
from tests import inference
from tests.inference import DEADLINE_S, Suite, infer_request, metrics_page
from tests.postgres import PostgresServer
from tests.testdata import models

LABELS = '{model="linear",version="1.0.0"}'
GRPC = '{grpc_code="OK",grpc_method="ModelInfer",grpc_service="inference.GRPCInferenceService",grpc_type="unary"}'
# What the dashboards that people already have read; none of them ends in _total.
COUNTERS = (
    "nv_inference_request_success",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us",
    "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_output_duration_us",
)


@pytest.fixture
def suite(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Suite]:
    with inference.running_suite(postgres_server, tmp_path) as suite:
        inference.serve(suite, "linear", models.linear())
        yield suite


def test_every_count_equals_what_was_asked(suite: Suite) -> None:
    for rows in (1, 1, 1, 5):
        suite.oip.ModelInfer(infer_request("linear", {"x": np.ones((rows, 4), np.float32)}), timeout=DEADLINE_S)
    answer = suite.client.inference.predict("linear", np.ones((2, 4), np.float32))
    with pytest.raises(penstock.InvalidArgument):
        suite.client.inference.predict("linear", np.ones((2, 3), np.float32))

    page = metrics_page(suite.inference)
    assert {f"{name}{LABELS}" for name in COUNTERS} <= set(page)
    assert not any(name.startswith("nv_") and "_total" in name for name in page)
    assert page[f"nv_inference_request_success{LABELS}"] == 5
    assert page[f"nv_inference_count{LABELS}"] == 10
    assert page[f"nv_inference_exec_count{LABELS}"] == 5
    assert page['nv_inference_request_failure{model="linear",reason="OTHER",version="1.0.0"}'] == 1
    assert page[f"nv_inference_pending_request_count{LABELS}"] == 0
    assert page[f"nv_inference_request_duration_us{LABELS}"] >= page[f"nv_inference_compute_infer_duration_us{LABELS}"]
    assert page[f"nv_model_load_duration_secs{LABELS}"] > 0
    assert page[f"penstock_session_bytes{LABELS}"] > 0
    assert page[f"grpc_server_handled_total{GRPC}"] == 4

    (statistics,) = suite.oip.ModelStatistics(oip.ModelStatisticsRequest(name="linear"), timeout=DEADLINE_S).model_stats
    assert (statistics.inference_count, statistics.execution_count) == (10, 5)
    assert (statistics.inference_stats.success.count, statistics.inference_stats.fail.count) == (5, 1)
    assert [(batch.batch_size, batch.compute_infer.count) for batch in statistics.batch_stats] == [
        (1, 3),
        (2, 1),
        (5, 1),
    ]

    inference.event_of(suite.client, answer.inference_id)
    kept = inference.wait_until(
        lambda: found if (found := suite.client.monitoring.get_metrics("linear")).inference_count == 6 else None
    )
    assert (kept.error_count, kept.row_count) == (1, 11)
    inference.until_metric(suite.inference, "penstock_spool_delivered_events_total", 6)
    assert metrics_page(suite.inference)["penstock_spool_dropped_events_total"] == 0


def test_names_that_clients_make_up_leave_no_trace_in_the_metrics(suite: Suite) -> None:
    before = set(metrics_page(suite.inference))
    for number in range(20):
        for model, version in ((f"made-up-{number}", ""), ("linear", f"9.{number}.0")):
            with pytest.raises(penstock.NotFound):
                suite.client.inference.predict(model, np.ones((1, 4), np.float32), version=version)
    grown = {name for name in set(metrics_page(suite.inference)) - before if "NOT_FOUND" not in name}
    assert not any("made-up" in name or "9." in name for name in grown)
    assert not suite.oip.ModelStatistics(oip.ModelStatisticsRequest(), timeout=DEADLINE_S).model_stats
