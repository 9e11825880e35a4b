"""Recipes in processes of their own: what they tell, what they leave, and what becomes of those that misbehave."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import numpy as np
import onnx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from services.trainer.faults import TrainingFailed
from services.trainer.task import Epoch, Event, Part
from tests.executing import MIB, Ran, Stopped

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


def test_the_script_of_the_docs_trains_a_version(ran: Ran) -> None:
    document = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()
    (parameters,) = [yaml.safe_load(each) for each in re.findall(r"```yaml\n(depth.*?)```", document, re.DOTALL)]
    generator = np.random.default_rng(0)
    for part in Part:
        matrix = generator.standard_normal((90, 2))
        species = np.array(["setosa", "virginica"])[(matrix[:, 0] > 0).astype(int)]
        table = pa.table({"petal": matrix[:, 0], "sepal": matrix[:, 1], "species": species})
        pq.write_table(table, ran.folder.rows(part))
    outcome = ran.execute("", parameters=parameters)
    assert outcome.metrics[Part.TEST]["accuracy"] > 0.9
    assert [column.name for column in outcome.features] == ["petal", "sepal"]
    assert ran.epochs[0].metrics == outcome.metrics[Part.TEST]
    model = onnx.load(str(ran.folder.artifact / "model.onnx"))
    assert [each.name for each in model.graph.input] == [outcome.input_name]
    assert "scikit-learn" in outcome.environment


def test_recipes_of_the_house_run_where_nothing_else_can_be_had(ran: Ran) -> None:
    generator = np.random.default_rng(0)
    for part in Part:
        matrix = generator.standard_normal((60, 2)).astype(np.float32)
        pq.write_table(
            pa.table({"a": matrix[:, 0], "b": matrix[:, 1], "label": matrix.sum(axis=1) > 0}), ran.folder.rows(part)
        )
    outcome = ran.execute(
        "",
        recipe="search",
        parameters={
            "recipe": "sklearn",
            "parameters": {"estimator": "RandomForestClassifier", "estimator_parameters": {"n_jobs": -1}},
            "space": {"estimator_parameters.max_depth": {"type": "int", "low": 1, "high": 4}},
            "trials": 2,
        },
        memory_limit_bytes=2048 * MIB,
    )
    assert ran.checkpoints == [1, 2]
    assert outcome.metadata["search"]["trials"] == 2
    assert outcome.framework == "ONNX"
