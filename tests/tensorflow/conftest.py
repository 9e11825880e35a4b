"""These tests need TensorFlow, which comes with `make test` and with nothing smaller."""

from __future__ import annotations

import importlib.util
import os

import pytest

# Little to say, before it is imported.
os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "TF_ENABLE_ONEDNN_OPTS": "0"}
_MISSING = importlib.util.find_spec("tensorflow") is None
if _MISSING and os.environ.get("CI") == "true":
    pytest.fail("TensorFlow is not installed; make .venv/.tensorflow", pytrace=False)
collect_ignore_glob = ["test_*.py"] if _MISSING else []


def pytest_report_header() -> str:
    """Say whether they are there."""
    return f"tensorflow: {'none, its tests are left out (make .venv/.tensorflow)' if _MISSING else 'installed'}"
