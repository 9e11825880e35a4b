"""The example client, run as its first line says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.embedded import DEADLINE_S
from tests.suite import RunningSuite, start_suite

pytestmark = pytest.mark.slow
__all__ = ["start_suite"]
ROOT = Path(__file__).parents[2]


def test_the_example_client_registers_predicts_and_scores(
    tmp_path: Path, start_suite: Callable[[Path], RunningSuite]
) -> None:
    suite = start_suite(tmp_path / "data")
    addresses = {f"PENSTOCK_{name.upper()}_ADDRESS": address for name, address in suite.state.addresses.items()}
    model = str(tmp_path / "iris.onnx")
    for command in (("examples.iris", model), ("examples.client", model)):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env={**os.environ, **addresses},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].endswith("is deployment number 1")
    assert done.stdout.splitlines()[-1] == "predictions: 1, accuracy: 1.0"
