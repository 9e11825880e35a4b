"""Triton's extensions of the Open Inference Protocol in the eyes of NVIDIA's own client."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests import inference
from tests.inference import Suite
from tests.postgres import PostgresServer
from tests.testdata import models

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[1] / "testdata" / "triton_extras.py"
Report = dict[str, Any]
ROWS = np.array([[1, 2, 3, 4], [4, 3, 2, 1]], np.float32)


@pytest.fixture(scope="module")
def suite(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    folder = tmp_path_factory.mktemp("suite")
    with inference.running_suite(postgres_server, folder, shared_memory=True, server_name="triton") as suite:
        inference.serve(
            suite, "classifier", models.classifier(), metadata={"fields": {"labels": ["one", "two", "three"]}}
        )
        inference.serve(suite, "strings", models.strings())
        inference.serve(suite, "half", models.identity(onnx.TensorProto.FLOAT16))
        inference.serve(suite, "brain", models.identity(onnx.TensorProto.BFLOAT16))
        yield suite


@pytest.fixture(scope="module")
def report(suite: Suite) -> Report:
    """What the client saw."""
    done = subprocess.run(
        [sys.executable, SCRIPT, suite.inference.address], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    found: Report = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def ours(suite: Suite, report: Report) -> dict[str, Any]:
    """The same rows through our own front door."""
    return dict(suite.client.inference.predict("classifier", tensors={"X": ROWS}).outputs)


def test_its_stream_is_answered_in_order_and_an_error_belongs_to_one_request(report: Report) -> None:
    stream = report["stream"]
    assert stream["ids"] == [str(number) for number in range(40) if number != 7]
    assert stream["failed"] == [7]
    assert "Request for unknown model" in stream["errors"][0]
    assert stream["labels"] == report["unary_labels"]
    assert report["asyncio_ids"] == [str(number) for number in range(8)]


def test_its_stream_marks_the_last_answers_where_that_is_asked_for(report: Report) -> None:
    assert report["stream"]["marked"] == [str(number) for number in range(0, 40, 2)]


def test_its_tensors_travel_through_shared_memory_both_ways(report: Report, ours: dict[str, Any]) -> None:
    memory = report["memory"]
    assert memory["labels"] == ours["label"].tolist()
    np.testing.assert_allclose(memory["probabilities"], ours["probabilities"], rtol=1e-6)
    assert memory["in_message"] == [16, 0]
    assert set(memory["status"]) == {"both", "tail"}
    assert (memory["status"]["tail"]["offset"], memory["status"]["tail"]["byte_size"]) == ("192", "64")


@pytest.mark.parametrize(
    ("case", "status", "text"),
    [
        ("beyond", "INVALID_ARGUMENT", "which has 64"),
        ("small", "INVALID_ARGUMENT", "takes 24 bytes"),
        ("unknown", "NOT_FOUND", "Unable to find shared memory region: 'unknown'"),
        ("missing", "NOT_FOUND", "/penstock_nowhere"),
        ("too_small", "INVALID_ARGUMENT", "10000"),
        ("escaping", "INVALID_ARGUMENT", "../etc/passwd"),
    ],
)
def test_what_is_wrong_with_a_region_is_said(report: Report, case: str, status: str, text: str) -> None:
    came, message = report["memory"][case]
    assert came == f"StatusCode.{status}"
    assert text in message


def test_it_loads_and_unloads_models(report: Report) -> None:
    repository = report["repository"]
    assert repository["loaded"]
    assert repository["unloaded"]
    for case in ("unknown", "unknown_unload"):
        assert repository[case][0] == "StatusCode.NOT_FOUND"
        assert "Request for unknown model" in repository[case][1]
    assert repository["own_files"][0] == "StatusCode.UNIMPLEMENTED"


def test_it_reads_classes_with_their_labels(report: Report, ours: dict[str, Any]) -> None:
    names = ["one", "two", "three"]
    best = [(row.max(), int(row.argmax())) for row in ours["probabilities"]]
    assert report["otherwise"]["classes"] == [f"{score:f}:{place}:{names[place]}" for score, place in best]


def test_it_sends_and_reads_half_precision_of_both_kinds(report: Report) -> None:
    for name in ("halves", "brains"):
        assert report["otherwise"][name] == [[1.5, 2.5, -3, 0]]


def test_it_may_say_how_urgent_a_request_is_and_no_sequence(report: Report, ours: dict[str, Any]) -> None:
    otherwise = report["otherwise"]
    assert otherwise["urgent"] == ours["label"].tolist()
    assert otherwise["sequence"][0] == "StatusCode.UNIMPLEMENTED"


def test_it_reads_that_rows_are_batched_and_shapes_that_agree(report: Report) -> None:
    config = report["otherwise"]["config"]
    assert config["max_batch_size"] == 32
    assert config["input"] == [{"name": "X", "data_type": "TYPE_FP32", "dims": ["4"]}]
    assert "dynamic_batching" in config
    assert report["otherwise"]["metadata"] == [{"name": "X", "datatype": "FP32", "shape": ["-1", "4"]}]


def test_it_reads_only_extensions_that_work(report: Report) -> None:
    assert report["otherwise"]["extensions"] == [
        "classification", "logging", "model_configuration", "model_repository", "parameters", "schedule_policy",
        "statistics", "system_shared_memory",
    ]  # fmt: skip


def test_it_changes_the_log_and_leaves_it_as_it_was(report: Report) -> None:
    otherwise = report["otherwise"]
    assert otherwise["log"]["log_info"] == {"bool_param": False}
    assert otherwise["log_after"]["log_info"] == {"bool_param": True}
    assert otherwise["log_file"][0] == "StatusCode.INVALID_ARGUMENT"
    assert otherwise["trace"]["trace_level"] == {"value": ["OFF"]}
