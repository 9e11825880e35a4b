"""keras-mlp among all services: what rows and a training config make is judged, served, finetuned and trained again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

import penstock
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.api.trainer.v1 import training_pb2 as pb
from penstock.values import to_struct
from tests.postgres import PostgresServer
from tests.training import TrainingPlace, training

# Each run imports TensorFlow in a process of its own, which takes long where the processors are busy.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
XOR = {(0, 0): "same", (0, 1): "other", (1, 0): "other", (1, 1): "same"}
TOLD = {
    "hidden_units": [8],
    "activation": "tanh",
    "learning_rate": 0.05,
    "batch_size": 16,
    "early_stopping_patience": 20,
}


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingPlace]:
    """All services, 120 rows of exclusive or, and a model whose config says how it is learned."""
    folder = tmp_path_factory.mktemp("trainer")
    with training(postgres_server, folder) as place:
        place.client.datasets.upload("xor", rows(folder))
        config = registry.TrainingConfig(
            recipe="keras-mlp",
            parameters=to_struct(TOLD),
            data_source="xor",
            success_criteria=[
                registry.SuccessCriterion(metric="accuracy", comparison=registry.COMPARISON_AT_LEAST, threshold=0.95)
            ],
        )
        place.client.registry.create_model("xor")
        place.client.registry.update_model("xor", training_config=config)
        yield place


@pytest.fixture(scope="module")
def first(place: TrainingPlace) -> pb.TrainingRun:
    """The run that the config makes of a model without versions."""
    return passed(place)


def rows(folder: Path) -> Path:
    table = pa.table({"x1": [pair[0] for pair in XOR] * 30, "x2": [pair[1] for pair in XOR] * 30}).append_column(
        "label", pa.array(list(XOR.values()) * 30)
    )
    pq.write_table(table, folder / "xor.parquet")
    return folder / "xor.parquet"


def passed(place: TrainingPlace, **more: Any) -> pb.TrainingRun:
    """Train a version that passes what the config asks."""
    run = place.train("xor", **more)
    assert run.state == pb.TRAINING_RUN_STATE_COMPLETED, (run.reason, run.message)
    assert run.validation_passed, run.shortfalls
    return run


def probabilities(client: penstock.Client, run: pb.TrainingRun) -> NDArray[np.float32]:
    """Ask a run's version all four questions by the columns' names, as somebody would; it knows the answers."""
    answers = []
    for (x1, x2), expected in XOR.items():
        outputs = client.inference.predict("xor", {"x1": x1, "x2": x2}, version=run.new_version).outputs
        (label,) = outputs["label"].ravel()
        assert (label.decode() if isinstance(label, bytes) else label) == expected
        answers.append(outputs["probabilities"].ravel())
    return np.stack(answers)


def test_xor_by_a_training_config_becomes_a_version_that_passed_and_answers(
    place: TrainingPlace, first: pb.TrainingRun
) -> None:
    assert (first.type, first.recipe, first.config_version) == (pb.TRAINING_TYPE_INITIAL, "keras-mlp", 1)
    assert (list(first.feature_columns), first.label_column, first.dataset) == (["x1", "x2"], "label", "xor/1")
    assert first.test_metrics["accuracy"] == 1
    epochs = list(place.client.training.epochs(first.id))
    assert [epoch.number for epoch in epochs] == list(range(1, len(epochs) + 1))
    assert {"loss", "validation_loss"} <= set(epochs[-1].metrics)
    assert epochs[-1].metrics["loss"] < epochs[0].metrics["loss"]
    version = place.client.registry.get_version("xor", first.new_version)
    assert (version.framework, version.training_run_id) == (registry.FRAMEWORK_ONNX, first.id)
    np.testing.assert_allclose(probabilities(place.client, first).sum(axis=1), 1, rtol=1e-5)


def test_a_finetune_begins_with_its_parents_weights_and_may_leave_a_saved_model(
    place: TrainingPlace, first: pb.TrainingRun
) -> None:
    told = {"format": "savedmodel", "epochs": 1, "learning_rate": 1e-7}
    tuned = passed(place, type="FINETUNE", parent_version=first.new_version, parameters=told, version="tuned")
    assert (tuned.type, tuned.parent_version, tuned.new_version) == (
        pb.TRAINING_TYPE_FINETUNE, first.new_version, "tuned"
    )  # fmt: skip
    version = place.client.registry.get_version("xor", "tuned")
    assert version.framework == registry.FRAMEWORK_TENSORFLOW
    assert any(file.path.endswith("saved_model.pb") for file in version.files)
    # One such epoch moves nothing far: only who began with the parent's weights answers as it does.
    np.testing.assert_allclose(probabilities(place.client, tuned), probabilities(place.client, first), atol=1e-3)


def test_a_retraining_by_the_config_begins_anew_and_makes_what_the_same_rows_made_before(
    place: TrainingPlace, first: pb.TrainingRun
) -> None:
    again = passed(place)
    assert (again.type, again.config_version) == (pb.TRAINING_TYPE_RETRAIN, 1)
    assert again.new_version != first.new_version
    np.testing.assert_allclose(probabilities(place.client, again), probabilities(place.client, first), atol=1e-6)
