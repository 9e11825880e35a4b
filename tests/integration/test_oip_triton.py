"""The Open Inference Protocol in the eyes of a client that nobody here wrote: NVIDIA's tritonclient."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import inference
from tests.inference import Suite
from tests.postgres import PostgresServer
from tests.testdata import models

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[1] / "testdata" / "triton_client.py"
Report = dict[str, Any]


@pytest.fixture(scope="module")
def suite(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    with inference.running_suite(postgres_server, tmp_path_factory.mktemp("suite"), run_limit_ms=1_500) as suite:
        inference.serve(suite, "classifier", models.classifier())
        inference.serve(suite, "strings", models.strings())
        inference.serve(suite, "words", models.embedding())
        inference.serve(suite, "slow", models.patient())
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
    rows = np.array([[1, 2, 3, 4], [4, 3, 2, 1]], np.float32)
    return dict(suite.client.inference.predict("classifier", rows).outputs)


def test_it_finds_the_server_and_its_models_ready(report: Report) -> None:
    around = report["around"]
    assert [around[name] for name in ("live", "ready", "model_ready", "version_ready")] == [True] * 4
    assert around["unknown_ready"] is False


def test_it_reads_who_serves_and_only_extensions_that_work(report: Report) -> None:
    server = report["around"]["server"]
    assert server["name"] == "penstock"
    assert server["version"]
    assert server["extensions"] == [
        "classification", "logging", "model_configuration", "model_repository", "parameters", "schedule_policy",
        "statistics",
    ]  # fmt: skip


def test_it_reads_what_a_model_takes_and_gives(report: Report) -> None:
    metadata = report["around"]["metadata"]
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == (
        "classifier",
        ["1.0.0"],
        "onnxruntime_onnx",
    )
    assert metadata["inputs"] == [{"name": "X", "datatype": "FP32", "shape": ["-1", "4"]}]
    assert [output["name"] for output in metadata["outputs"]] == ["label", "probabilities"]
    config = report["around"]["config"]
    assert (config["name"], config["backend"]) == ("classifier", "onnxruntime")
    assert config["input"] == [{"name": "X", "data_type": "TYPE_FP32", "dims": ["4"]}]


def test_it_lists_the_repository(report: Report) -> None:
    assert [(entry["name"], entry["version"], entry["state"]) for entry in report["around"]["index"]] == [
        (name, "1.0.0", "READY") for name in ("classifier", "slow", "strings", "words")
    ]


def test_its_predictions_are_ours(report: Report, ours: dict[str, Any]) -> None:
    predicted = report["predicted"]
    assert (predicted["id"], predicted["version"]) == ("req-7", "1.0.0")
    assert predicted["labels"] == ours["label"].tolist()
    assert np.array_equal(np.array(predicted["probabilities"], np.float32), ours["probabilities"])
    assert predicted["async_labels"] == [ours["label"].tolist()] * 8
    assert report["asyncio_labels"] == ours["label"].tolist()


def test_it_gets_the_outputs_that_it_asked_for(report: Report) -> None:
    assert report["predicted"]["wanted"] == ["probabilities"]
    assert report["predicted"]["unwanted"]


def test_it_gets_the_best_class_of_each_row(report: Report, ours: dict[str, Any]) -> None:
    rows = ours["probabilities"]
    assert report["predicted"]["best"] == [[f"{row.max():f}:{row.argmax()}"] for row in rows]


def test_it_sends_text_and_whole_numbers(report: Report, suite: Suite) -> None:
    ours = suite.client.inference.predict("strings", {"colour": [["red"], ["green"]]})
    assert report["predicted"]["numbers"] == ours.outputs["number"].tolist()
    assert report["predicted"]["vectors_shape"] == [1, 2, 4]


def test_it_reads_statistics_that_equal_what_it_asked(report: Report) -> None:
    assert "inference_stats" not in report["before"] or report["before"]["inference_stats"]["success"] == {}
    after = report["after"]
    # One with a request id, one with a requested output, one with classes, and eight at once, of two rows each; of the
    # eight, those that wait together run as one batch.
    assert (after["inference_count"], after["inference_stats"]["success"]["count"]) == ("22", "11")
    assert int(after["inference_stats"]["success"]["ns"]) > 0
    batches = [(int(batch["batch_size"]), int(batch["compute_infer"]["count"])) for batch in after["batch_stats"]]
    assert all(size % 2 == 0 for size, _ in batches)
    assert sum(size * count for size, count in batches) == 22
    assert sum(count for _, count in batches) == int(after["execution_count"])
    assert 4 <= int(after["execution_count"]) <= 11
    assert int(after["memory_usage"][0]["byte_size"]) > 0


@pytest.mark.parametrize(
    ("case", "status", "text"),
    [
        ("unknown_model", "NOT_FOUND", "Request for unknown model"),
        ("unknown_version", "NOT_FOUND", "Request for unknown model"),
        ("unknown_metadata", "NOT_FOUND", "Request for unknown model"),
        ("unknown_config", "NOT_FOUND", "Request for unknown model"),
        ("unknown_statistics", "NOT_FOUND", "Request for unknown model"),
        ("wrong_name", "INVALID_ARGUMENT", "X"),
        ("wrong_datatype", "INVALID_ARGUMENT", "FP64"),
        ("wrong_shape", "INVALID_ARGUMENT", "[2, 3]"),
        ("server_timeout", "DEADLINE_EXCEEDED", "Request timeout expired"),
        ("client_timeout", "DEADLINE_EXCEEDED", ""),
    ],
)
def test_its_user_reads_what_went_wrong(report: Report, case: str, status: str, text: str) -> None:
    came, message = report["wrong"][case]
    assert came == f"StatusCode.{status}"
    assert text in message
