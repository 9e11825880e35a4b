"""Recipes in processes of their own: what they tell, what they leave, and what becomes of those that misbehave."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil
import pytest

from services.trainer.faults import TrainingFailed
from services.trainer.task import Epoch, Event
from tests.executing import Ran, Stopped

pytestmark = pytest.mark.slow


@pytest.fixture
def ran(tmp_path: Path) -> Ran:
    return Ran(tmp_path)


def test_what_a_recipe_tells_prints_and_leaves_arrives(ran: Ran) -> None:
    outcome = ran.execute(
        """
def train(context):
    print("learning", context.parameters["rate"])
    context.report(1, {"loss": 0.5}, total=2)
    context.report(2, {"loss": 0.25}, total=2)
    return left(context, label="species", metrics={"train": {"loss": 0.25}})
""",
        parameters={"rate": 0.1},
    )
    assert outcome.label == "species"
    assert outcome.metrics == {"train": {"loss": 0.25}}
    assert ran.epochs == [Epoch(1, {"loss": 0.5}, 2), Epoch(2, {"loss": 0.25}, 2)]
    assert "learning 0.1" in ran.log
    assert (ran.folder.artifact / "model.onnx").read_bytes() == b"an artifact"


def test_a_recipe_that_raises_fails_with_its_traceback_in_the_log(ran: Ran) -> None:
    with pytest.raises(TrainingFailed, match="ValueError: no such animal") as failed:
        ran.execute("def train(context): raise ValueError('no such animal')")
    assert failed.value.reason == "TRAINING_FAILED"
    assert "Traceback" in ran.log
    assert "train.py" in ran.log


def test_a_run_that_is_to_end_ends_with_all_that_it_started(ran: Ran) -> None:
    pids: list[int] = []

    def stop(event: Event) -> None:
        if isinstance(event, Epoch):
            pids.append(int(event.metrics["pid"]))
            threading.Thread(target=ran.stopping.stop).start()

    ran.on_event = stop
    with pytest.raises(Stopped):
        ran.execute(
            """
import os, time
def train(context):
    child = os.fork()
    if child:
        context.report(1, {"pid": child})
    time.sleep(600)
"""
        )
    assert len(pids) == 1
    assert not psutil.pid_exists(pids[0]) or psutil.Process(pids[0]).status() == psutil.STATUS_ZOMBIE
