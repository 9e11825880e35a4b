"""How keras-mlp learns: rescues, early stopping, weights of classes, searches, and what a finetune goes on from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.trainer.recipes.keras_mlp import KerasMlp
from services.trainer.recipes.keras_parent import Parent
from services.trainer.recipes.search import Search
from services.trainer.task import CheckpointWritten, Event, Part, TrainingType
from tests.recipe_runs import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def make(tmp_path: Path) -> Callable[[], Run]:
    runs: list[Run] = []

    def make() -> Run:
        runs.append(Run(KerasMlp(), tmp_path / str(len(runs))))
        return runs[-1]

    return make


def rows(count: int = 80, *, seed: int = 0, share: float = 0.5, shift: float = 0.0) -> dict[str, Any]:
    """Two classes of two numbers, which overlap."""
    generator = np.random.default_rng(seed)
    label = generator.random(count) < share
    x = generator.normal(size=(count, 2)) + label[:, None] + shift
    return {"x": x[:, 0], "y": x[:, 1], "label": np.where(label, "yes", "no").tolist()}


def version(run: Run) -> bytes:
    return (run.folder.artifact / "model.onnx").read_bytes()


def killed_at(epoch: int) -> Callable[[Event], None]:
    def end(event: Event) -> None:
        if event == CheckpointWritten(epoch):
            raise Killed

    return end


def test_a_rescued_run_ends_as_if_it_had_never_been_interrupted(make: Callable[[], Run]) -> None:
    told: dict[str, Any] = {"epochs": 9, "checkpoint_every_epochs": 2, "early_stopping_patience": 4}
    whole, rescued = make(), make()
    whole.train(rows(), rows(40, seed=1), **told)
    rescued.when_told = killed_at(4)
    with pytest.raises(Killed):
        rescued.train(rows(), rows(40, seed=1), **told)
    assert [epoch.number for epoch in rescued.epochs] == [1, 2, 3, 4]
    rescued.told, rescued.when_told = [], lambda _: None
    rescued.train(rows(), rows(40, seed=1), **told)
    assert rescued.epochs == whole.epochs[4:]
    assert version(rescued) == version(whole)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", None])
def test_a_checkpoint_that_cannot_be_gone_on_from_is_left(make: Callable[[], Run], content: bytes | None) -> None:
    run = make()
    run.train(rows(), epochs=2, hidden_units=[3] if content is None else [8, 4], checkpoint_every_epochs=1)
    if content is not None:
        (run.folder.checkpoint / "checkpoint.npz").write_bytes(content)
    run.told.clear()
    run.train(rows(), epochs=2)  # of another network it would be
    assert [epoch.number for epoch in run.epochs] == [1, 2]


def test_early_stopping_keeps_the_epoch_with_the_lowest_loss(make: Callable[[], Run]) -> None:
    run = make()
    outcome = run.train(rows(30), rows(200, seed=1), epochs=200, early_stopping_patience=5, learning_rate=0.05)
    losses = [epoch.metrics["validation_loss"] for epoch in run.epochs]
    best = int(np.argmin(losses)) + 1
    assert len(losses) == best + 5 < 200
    assert outcome.notes == (f"epoch {best} of {best + 5} had the lowest loss on the validation rows, and is kept",)
    assert outcome.metrics[Part.VALIDATION]["log_loss"] == pytest.approx(losses[best - 1], rel=1e-3)
    sentence = make().refused("INVALID_DATA", rows(30), early_stopping_patience=5)
    assert "there are none: give the split a validation share" in sentence


def test_classes_can_weigh_more(make: Callable[[], Run]) -> None:
    recalls = [
        make().train(rows(300, share=0.1), test=rows(500, seed=1), epochs=10, batch_size=16, class_weights=weights)
        .metrics[Part.TEST]["recall[yes]"]
        for weights in ("none", "balanced", {"yes": 9.0})
    ]  # fmt: skip
    assert min(recalls[1:]) > recalls[0] + 0.2
    sentence = make().refused("INVALID_PARAMETERS", rows(), class_weights={"maybe": 2})
    assert sentence == "class_weights: 'maybe' is no class; there are no, yes"
    numbers = {"x": [0.5, 1.5, 2.5], "label": [0.5, 1.5, 2.5]}
    assert "a regression has no classes" in make().refused("INVALID_PARAMETERS", numbers, class_weights="balanced")


def test_a_search_tries_networks_and_keeps_the_best(tmp_path: Path) -> None:
    choices = [[3], [4, 2]]
    run = Run(Search(), tmp_path)
    outcome = run.train(
        rows(), rows(40, seed=1), rows(40, seed=2),
        recipe="keras-mlp", parameters={"epochs": 2, "batch_size": 16}, trials=2, seed=1,
        space={
            "hidden_units": {"type": "categorical", "choices": choices},
            "learning_rate": {"type": "float", "low": 0.01, "high": 0.1, "log": True},
        },
    )  # fmt: skip
    assert [(epoch.number, epoch.total) for epoch in run.epochs] == [(1, 2), (2, 2)]
    said = outcome.metadata["search"]
    assert (said["trials"], said["failed"], said["pruned"]) == (2, 0, 0)
    best = max(epoch.metrics["accuracy"] for epoch in run.epochs)
    assert outcome.metrics[Part.VALIDATION]["accuracy"] == best == said["value"]
    assert said["parameters"]["hidden_units"] in choices
    assert [units for units, _ in outcome.metadata["layers"]] == [*said["parameters"]["hidden_units"], 1]
    assert 0.01 <= said["parameters"]["learning_rate"] <= 0.1
    assert (outcome.framework, [path.name for path in run.folder.artifact.iterdir()]) == ("ONNX", ["model.onnx"])


@pytest.fixture(scope="module", params=["onnx", "savedmodel"])
def parent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(KerasMlp(), tmp_path_factory.mktemp(request.param))
    run.train(rows(200), epochs=20, format=request.param, hidden_units=[6])
    return run


def finetuned(run: Run, parent: Run, fresh: dict[str, Any], **told: Any) -> Run:
    shutil.copytree(parent.folder.artifact, run.folder.parent)
    run.train(fresh, type=TrainingType.FINETUNE, **told)
    return run


def test_a_finetune_goes_on_from_the_parents_weights_and_keeps_its_preprocessing(
    make: Callable[[], Run], parent: Run
) -> None:
    before = Parent.read(parent.folder.artifact)
    run = finetuned(make(), parent, {**rows(100, seed=3, shift=5), "more": [1.0] * 100}, epochs=1, learning_rate=1e-6)
    after = Parent.read(run.folder.artifact)
    assert after.preprocessing == before.preprocessing  # though these rows are elsewhere, and have a column more
    assert after.target == before.target
    for old, new in zip(before.network, after.network, strict=True):
        np.testing.assert_allclose(new.kernel, old.kernel, atol=1e-3)
        assert not np.array_equal(new.kernel, old.kernel)
    run = finetuned(make(), parent, rows(200, seed=3, shift=5), epochs=20)
    losses = [epoch.metrics["loss"] for epoch in run.epochs]
    assert losses[-1] < losses[0]


def test_what_does_not_go_with_the_parent_is_refused(make: Callable[[], Run], parent: Run) -> None:
    def refused(reason: str, fresh: dict[str, Any], **told: Any) -> str:
        run = make()
        shutil.copytree(parent.folder.artifact, run.folder.parent)
        return run.refused(reason, fresh, type=TrainingType.FINETUNE, **told)

    said = refused("INVALID_PARAMETERS", rows(), hidden_units=[8, 4])
    assert "hidden_units is (8, 4), and the parent's is (6,)" in said
    assert "start a RETRAIN" in said
    assert "activation is 'tanh'" in refused("INVALID_PARAMETERS", rows(), activation="tanh")
    assert "task is 'regression'" in refused("INVALID_PARAMETERS", rows(), task="regression")
    new = rows(4) | {"label": ["no", "yes", "maybe", "no"]}
    assert "knows the classes no, yes, and 'maybe' is none" in refused("INVALID_DATA", new)
    lacking = {name: values for name, values in rows().items() if name != "y"}
    assert "takes numbers in the column 'y'" in refused("INVALID_DATA", lacking)


def test_what_is_said_as_the_parent_has_it_is_no_hindrance(make: Callable[[], Run], parent: Run) -> None:
    told: dict[str, Any] = {"hidden_units": [6], "activation": "relu", "task": "auto", "feature_columns": ["x", "y"]}
    assert finetuned(make(), parent, rows(), epochs=1, **told).epochs
