"""Fixtures for every test: the real servers that they run on."""

from __future__ import annotations

import os

# ONNX Runtime reports to its makers over the network unless told not to before it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import gc
import logging
import signal
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

# A shell that runs the tests in the background makes them deaf to Ctrl-C, and so all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Services in this process log as they do on their own; only what is wrong is worth a reader's time here.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
# How long an example takes says how busy the machine is; as in CI, where Hypothesis has it so by itself.
settings.register_profile("unhurried", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
pytest_plugins = ["tests.postgres", "tests.s3", "tests.services"]
MEASURED_CHILDREN = frozenset(
    {
        "e2e/test_embedded.py",  # what `penstock up` runs
        "integration/test_inference_workers.py",  # a supervisor, its workers and their follower
        "unit/test_outbox_apprise.py",  # a notification's child
        "integration/test_trainer_confinement.py",
        "integration/test_trainer_local.py",  # a recipe's process
        "integration/test_training_workers_refusals.py",  # a worker of trainings
        "integration/test_feature_cli.py",  # what reads a file of features
        "unit/test_process.py",  # how each service begins and ends
        "unit/test_validation_child.py",
        "integration/test_validator_process.py",
        "unit/test_workers_children.py",
    }
)
"""The files of tests whose children are measured: one for each kind of process there is."""


def pytest_collection_finish() -> None:
    """Let no collection of garbage look at what all tests and their libraries are: it takes a second, and finds none.

    Keras has one made for each network that is let go of, and so has a search for each of its trials.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def children_measured_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """Measure coverage in few of the processes that tests start: it nearly doubles what a start costs.

    All others run what these and this process run already, and it finds next to nothing in them.
    """
    with pytest.MonkeyPatch.context() as patch:
        if f"{request.path.parent.name}/{request.path.name}" not in MEASURED_CHILDREN:
            patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no setting of the shell that runs the tests reach them, nor a `.env` in the checkout."""
    for name in list(os.environ):
        if name.startswith("PENSTOCK_") and not name.startswith("PENSTOCK_TEST_"):
            monkeypatch.delenv(name)
