"""The Open Inference Protocol in the eyes of KServe's own client, in the environment that `.ci/kserve` makes."""

from __future__ import annotations

import json
import os
import subprocess
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
ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".tools" / "kserve" / "bin" / "python"
SCRIPT = ROOT / "tests" / "testdata" / "kserve_client.py"
LACKING = "KServe's client is not here: `.ci/kserve` brings it"
Report = dict[str, Any]
ROWS = np.array([[1, 2, 3, 4], [4, 3, 2, 1]], np.float32)


@pytest.fixture(scope="module")
def suite(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    if not PYTHON.exists():
        pytest.fail(LACKING) if os.environ.get("CI") == "true" else pytest.skip(LACKING)
    with inference.running_suite(postgres_server, tmp_path_factory.mktemp("suite"), run_limit_ms=1_500) as suite:
        inference.serve(suite, "classifier", models.classifier())
        inference.serve(suite, "strings", models.strings())
        inference.serve(suite, "half", models.identity(onnx.TensorProto.FLOAT16))
        inference.serve(
            suite, "slow", models.patient(), serving_settings={"instances": 1, "max_in_flight": 2, "max_queue_size": 1}
        )
        yield suite


@pytest.fixture(scope="module")
def report(suite: Suite) -> Report:
    """What the client saw."""
    done = subprocess.run(
        [PYTHON, SCRIPT, suite.inference.address], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    found: Report = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def ours(suite: Suite, report: Report) -> dict[str, Any]:
    """The same rows through our own front door."""
    return dict(suite.client.inference.predict("classifier", tensors={"X": ROWS}).outputs)


def test_it_finds_the_server_and_its_models_ready(report: Report) -> None:
    asked = report["asked"]
    assert [asked[name] for name in ("live", "ready", "model_ready", "unknown_ready")] == [True, True, True, False]


def test_its_predictions_are_ours_however_it_writes_them(report: Report, ours: dict[str, Any]) -> None:
    asked = report["asked"]
    assert asked["id"] == "r-1"
    for name in ("labels", "typed_labels", "mirrored_labels"):
        assert asked[name] == ours["label"].tolist()
    np.testing.assert_allclose(asked["probabilities"], ours["probabilities"], rtol=1e-6)
    assert asked["half"] == ROWS.tolist()


def test_its_texts_arrive_raw_and_typed(report: Report, suite: Suite) -> None:
    ours = suite.client.inference.predict("strings", {"colour": [["red"], ["green"]]}).outputs["number"]
    assert report["asked"]["numbers"] == [ours.tolist()] * 2


@pytest.mark.parametrize(
    ("case", "code", "text"),
    [
        ("unknown", "NOT_FOUND", "Request for unknown model"),
        ("wrong_shape", "INVALID_ARGUMENT", "[2, 3]"),
        ("expired", "DEADLINE_EXCEEDED", "Request timeout expired"),
    ],
)
def test_its_user_reads_what_went_wrong(report: Report, case: str, code: str, text: str) -> None:
    came, message = report["asked"][case]
    assert came == code
    assert text in message


def test_a_full_queue_is_no_reason_for_it_to_try_again(report: Report) -> None:
    codes = report["filled"]["codes"]
    assert "UNAVAILABLE" not in codes
    assert codes.count("RESOURCE_EXHAUSTED") >= 3
    assert any("Exceeds maximum queue size" in text for text in report["filled"]["texts"])


def test_it_loads_and_unloads_by_the_field_that_it_knows(report: Report) -> None:
    repository = report["repository"]
    assert repository["loaded"] == ["classifier", True]
    assert repository["unloaded"] == ["classifier", True]
    assert repository["unknown"][0] == "NOT_FOUND"
    assert repository["metadata"] == [["X", "FP32", [-1, 4]]]
