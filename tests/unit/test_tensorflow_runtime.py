"""TensorFlow where it is not: neither imported before a model needs it, nor installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from services.common.errors import FailedPrecondition
from services.inference.runtimes.tensorflow_runtime import TensorFlowRuntime

SERVES_ONNX = """
import pathlib, sys
from services.inference.composition import runtimes_of
from services.inference.settings import InferenceSettings

builders = runtimes_of(InferenceSettings(cache_dir=pathlib.Path(sys.argv[1])))
assert "tensorflow" in builders
builders["onnx"][0]()
sys.exit(any(name in sys.modules for name in ("tensorflow", "keras")))
"""


def test_where_it_is_not_installed_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "tensorflow" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(FailedPrecondition, match=r"pip install 'penstock\[tensorflow\]'") as caught:
        TensorFlowRuntime()
    assert caught.value.reason == "RUNTIME_NOT_INSTALLED"


@pytest.mark.slow
def test_a_service_without_such_models_never_imports_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVES_ONNX, str(tmp_path)]
    assert subprocess.run(command, check=False, timeout=240).returncode == 0
