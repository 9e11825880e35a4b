"""Recipes that begin with a version, and a search, over the socket: what the registry says of the parent arrives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from google.protobuf.json_format import MessageToDict

import penstock
from penstock.api.trainer.v1 import training_pb2 as pb
from tests.postgres import PostgresServer
from tests.training import TrainingPlace, training

pytestmark = pytest.mark.slow
NETWORK = {"estimator": "MLPClassifier", "estimator_parameters": {"hidden_layer_sizes": [16], "max_iter": 50}}
SPACE = {"estimator_parameters.max_depth": {"type": "int", "low": 1, "high": 5}}


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingPlace]:
    """All services, a dataset, a model whose version is a network, and scripts allowed."""
    folder = tmp_path_factory.mktemp("trainer")
    matrix = np.random.default_rng(0).standard_normal((300, 3)).astype(np.float32)
    table = pa.table({name: matrix[:, at] for at, name in enumerate("abc")} | {"label": matrix.sum(axis=1) > 0})
    pyarrow.csv.write_csv(table, folder / "sums.csv")
    with training(postgres_server, folder, trainer_scripts_enabled=True) as place:
        place.client.datasets.upload("sums", folder / "sums.csv")
        run = place.train("sums", recipe="sklearn", parameters=NETWORK, data_source="sums", version="network")
        assert run.state == pb.TRAINING_RUN_STATE_COMPLETED, run.message
        yield place


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ("onnx-optimize", {}),
        ("onnx-quantize", {"method": "static", "min_agreement": 0.8, "max_score_drop": 0.2}),
    ],
)
def test_a_version_made_of_its_parent_takes_what_the_parent_takes(
    place: TrainingPlace, recipe: str, told: dict[str, Any]
) -> None:
    run = place.train("sums", recipe=recipe, parameters=told, data_source="sums", parent_version="network")
    assert run.state == pb.TRAINING_RUN_STATE_COMPLETED, run.message
    assert list(run.feature_columns) == ["a", "b", "c"]
    assert run.label_column == "label"
    assert run.test_metrics["agreement"] >= 0.8
    assert run.test_metrics["parent_accuracy"] > 0.8
    parent, made = (place.client.registry.get_version("sums", each) for each in ("network", run.new_version))
    assert made.signature.inputs == parent.signature.inputs
    assert [spec.name for spec in made.signature.outputs] == [spec.name for spec in parent.signature.outputs]
    assert made.metadata.task_type == parent.metadata.task_type
    assert made.validation.rows_independent


def test_each_trial_of_a_search_is_told_and_the_best_is_registered(place: TrainingPlace) -> None:
    told = {
        "recipe": "sklearn",
        "parameters": {"estimator": "DecisionTreeClassifier"},
        "space": SPACE,
        "trials": 3,
    }
    run = place.train("searched", recipe="search", parameters=told, data_source="sums")
    assert run.state == pb.TRAINING_RUN_STATE_COMPLETED, run.message
    trials = list(place.client.training.epochs(run.id))
    assert [trial.number for trial in trials] == [1, 2, 3]
    assert run.validation_metrics["accuracy"] == max(trial.metrics["accuracy"] for trial in trials)
    said = MessageToDict(place.client.registry.get_version("searched", run.new_version).metadata.fields)
    assert said["search"]["trials"] == 3


def test_a_run_may_be_given_less_time_than_all_have(place: TrainingPlace) -> None:
    code = "import time\ndef train(context): time.sleep(600)"
    run = place.train("slow", recipe="script", parameters={"code": code, "time_limit_s": 1.5})
    assert (run.state, run.reason) == (pb.TRAINING_RUN_STATE_FAILED, "TIME_LIMIT")
    assert "after 1.5 s" in run.message


@pytest.mark.parametrize(
    ("recipe", "told", "field"),
    [
        ("script", {"time_limit_s": 0}, "parameters.time_limit_s"),
        ("script", {"time_limit_s": "soon"}, "parameters.time_limit_s"),
        ("onnx-quantize", {"method": "magic"}, "parameters.method"),
        ("search", {"recipe": "sklearn", "space": {}}, "parameters.space"),
        ("search", {"recipe": "search", "space": SPACE}, "parameters.recipe"),
    ],
)
def test_what_a_recipe_cannot_be_told_is_refused_before_it_is_queued(
    place: TrainingPlace, recipe: str, told: dict[str, Any], field: str
) -> None:
    with pytest.raises(penstock.errors.InvalidArgument) as refused:
        place.client.training.create_run("sums", recipe=recipe, parameters=told, data_source="sums")
    assert refused.value.reason == "INVALID_PARAMETERS"
    assert field in str(refused.value)
