"""A search tries what it was told to, keeps the best, and goes on where it was interrupted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import Field, ValidationError

from services.common.errors import DomainError, FailedPrecondition, InvalidArgument
from services.trainer.faults import TrainingFailed
from services.trainer.recipes import catalogue
from services.trainer.recipes.catalogue import Catalogue
from services.trainer.recipes.context import Context
from services.trainer.recipes.recipe import Parameters
from services.trainer.recipes.search import Search
from services.trainer.recipes.search_parameters import SearchParameters, direction_of
from services.trainer.task import CheckpointWritten, Epoch, Event, Outcome, Part, RunFolder, Task

SPACE: dict[str, Any] = {
    "depth": {"type": "int", "low": 1, "high": 9},
    "rate": {"type": "float", "low": 0.001, "high": 1.0, "log": True},
    "kind": {"type": "categorical", "choices": [[8, 4], [16]]},
}


@pytest.fixture(autouse=True)
def _no_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know nothing of the Keras that other files' tests left in this process: a trial in it would wait for its rubbish
    to be collected, half a second with all that is imported by then.
    """
    monkeypatch.delitem(sys.modules, "keras", raising=False)


class HillParameters(Parameters):
    depth: Annotated[int, Field(ge=1, le=9)] = 5
    """A number."""
    rate: float = 0.1
    """Another."""
    kind: tuple[int, ...] = ()
    """Something."""
    inner: Annotated[dict[str, int], Field(default_factory=dict)]
    """More."""
    epochs: int = 0
    """How often it tells."""
    fails: str = ""
    """How it fails."""


class Hill:
    """A recipe whose accuracy is best at depth 7: what a network would be, without one."""

    name: ClassVar[str] = "hill"
    description: ClassVar[str] = "A hill."
    parameters: ClassVar[type[Parameters]] = HillParameters
    needs: ClassVar[tuple[str, ...]] = ()
    reads_rows: ClassVar[bool] = True
    reads_parent: ClassVar[bool] = False
    told: ClassVar[list[dict[str, Any]]] = []

    def train(self, context: Context) -> Outcome:
        said = HillParameters.told(context.parameters)
        self.told.append(dict(context.parameters))
        assert context.rows("train").num_rows == 2
        if said.fails == "odd" and said.depth % 2:
            raise ValueError("an odd depth")
        if said.fails and said.fails != "odd":
            raise TrainingFailed("it was told to", reason=said.fails)
        accuracy = 1 - abs(said.depth - 7) / 10
        for epoch in range(1, said.epochs + 1):
            context.report(epoch, {"validation_loss": 1 - accuracy}, total=said.epochs)
            context.save_checkpoint(epoch)
        (context.artifact / "model.onnx").write_text(str(said.depth))
        measured = {Part.VALIDATION: {"accuracy": accuracy, "rmse": 1 - accuracy}}
        return Outcome("ONNX", label="label", metrics=measured, metadata={"depth": said.depth})


class Searched:
    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        self.folder.make()
        (path / "tmp").mkdir()
        for part in Part:
            pq.write_table(pa.table({"label": [0, 1]}), self.folder.rows(part))
        self.events: list[Event] = []
        self.on_event: Callable[[Event], None] = lambda event: None

    def run(self, **parameters: Any) -> Outcome:
        told = {"recipe": "hill", "space": SPACE, "trials": 12} | parameters
        return Search().train(Context(Task("a-run", "animals", "search", told), self.folder, self._tell))

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        self.on_event(event)

    @property
    def epochs(self) -> list[Epoch]:
        return [event for event in self.events if isinstance(event, Epoch)]


@pytest.fixture(autouse=True)
def hill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "RECIPES", {**catalogue.RECIPES, "hill": Hill()})
    Hill.told.clear()


@pytest.fixture
def searched(tmp_path: Path) -> Searched:
    return Searched(tmp_path / "run")


def test_the_best_version_is_kept_and_each_trial_is_told(searched: Searched) -> None:
    outcome = searched.run()
    values = [epoch.metrics["accuracy"] for epoch in searched.epochs]
    best = max(values)
    assert [epoch.number for epoch in searched.epochs] == list(range(1, 13))
    assert {epoch.total for epoch in searched.epochs} == {12}
    assert [epoch.metrics["best_accuracy"] for epoch in searched.epochs] == [
        max(values[: place + 1]) for place in range(12)
    ]
    assert outcome.metrics[Part.VALIDATION]["accuracy"] == best
    said = outcome.metadata["search"]
    assert said["trial"] == values.index(best) + 1
    assert (said["metric"], said["value"], said["trials"], said["failed"]) == ("accuracy", best, 12, 0)
    assert outcome.metadata["depth"] == said["parameters"]["depth"]
    assert (searched.folder.artifact / "model.onnx").read_text() == str(said["parameters"]["depth"])
    assert said["parameters"]["kind"] in ([8, 4], [16])
    assert "optuna" in outcome.environment
    assert list((searched.folder.path / "tmp").iterdir()) == []


def test_trials_stay_in_their_space(searched: Searched) -> None:
    searched.run(
        parameters={"inner": {"a": 1}}, space=SPACE | {"inner.b": {"type": "int", "low": 2, "high": 4, "step": 2}}
    )
    for told in Hill.told:
        assert 1 <= told["depth"] <= 9
        assert 0.001 <= told["rate"] <= 1
        assert told["kind"] in ([8, 4], [16])
        assert told["inner"]["a"] == 1
        assert told["inner"]["b"] in (2, 4)


def test_what_is_to_be_small_is_made_small(searched: Searched) -> None:
    outcome = searched.run(metric="rmse")
    assert outcome.metadata["search"]["value"] == min(epoch.metrics["rmse"] for epoch in searched.epochs)


def test_the_worst_is_kept_where_that_is_wished(searched: Searched) -> None:
    outcome = searched.run(metric="accuracy", direction="minimize")
    assert outcome.metadata["search"]["value"] == min(epoch.metrics["accuracy"] for epoch in searched.epochs)


def test_a_search_that_was_interrupted_ends_as_one_that_was_not(searched: Searched, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(event: Event) -> None:
        if event == CheckpointWritten(5):
            raise Killed

    expected = Searched(tmp_path / "other").run(seed=3)
    trials = [dict(told) for told in Hill.told]
    Hill.told.clear()
    searched.on_event = kill
    with pytest.raises(Killed):
        searched.run(seed=3)
    searched.on_event = lambda event: None
    assert searched.run(seed=3).metadata == expected.metadata
    assert Hill.told == trials
    assert not any(path.is_symlink() for path in searched.folder.checkpoint.rglob("*"))


def test_a_search_whose_trials_were_all_kept_has_nothing_left_to_try(searched: Searched) -> None:
    first = searched.run()
    Hill.told.clear()
    assert searched.run().metadata == first.metadata
    assert Hill.told == []


def test_trials_that_are_worse_from_the_start_are_given_up(searched: Searched) -> None:
    outcome = searched.run(parameters={"epochs": 3}, pruning="median", pruning_epochs=0, trials=30)
    said = outcome.metadata["search"]
    assert 0 < said["pruned"] < 30
    assert outcome.metrics[Part.VALIDATION]["accuracy"] == said["value"]
    assert len(searched.epochs) == 30


def test_a_trial_that_fails_costs_no_more_than_itself(searched: Searched, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = searched.run(parameters={"fails": "odd"}, trials=20)
    assert outcome.metadata["search"]["failed"] > 0
    assert outcome.metadata["depth"] % 2 == 0
    assert "failed: the recipe raised ValueError: an odd depth" in capsys.readouterr().out


def test_a_search_of_which_every_trial_fails_ends_early_and_says_why(searched: Searched) -> None:
    with pytest.raises(TrainingFailed, match="none of 10 trials came to an end; the last: it was told to") as failed:
        searched.run(parameters={"fails": "LOSS_NOT_FINITE"}, trials=1_000)
    assert failed.value.reason == "LOSS_NOT_FINITE"


def test_rows_that_no_trial_can_learn_from_end_a_search_at_once(searched: Searched) -> None:
    with pytest.raises(TrainingFailed) as failed:
        searched.run(parameters={"fails": "INVALID_DATA"})
    assert failed.value.reason == "INVALID_DATA"
    assert len(Hill.told) == 1


def test_a_metric_that_nobody_measures_is_named_with_those_there_are(searched: Searched) -> None:
    with pytest.raises(TrainingFailed, match="accuracy, rmse"):
        searched.run(metric="f1")


def test_no_trial_begins_after_the_time_that_was_given(searched: Searched) -> None:
    assert searched.run(time_budget_s=1e-9).metadata["search"]["trials"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"space": {}},
        {"space": {"depth": {"type": "int", "low": 3, "high": 1}}},
        {"space": {"depth": {"type": "int", "low": 1.5, "high": 3}}},
        {"space": {"depth": {"type": "int", "low": 1}}},
        {"space": {"rate": {"type": "float", "low": 0, "high": 1, "log": True}}},
        {"space": {"rate": {"type": "float", "low": 0, "high": float("inf")}}},
        {"space": {"kind": {"type": "categorical"}}},
        {"space": {"kind": {"type": "categorical", "choices": [1], "low": 1}}},
        {"space": {"kind": {"type": "int", "low": 1, "high": 2, "choices": [1]}}},
        {"space": {"kind": {"type": "tensor"}}},
        {"parameters": {"depth": 3}},
        {"parameters": {"inner": 3}, "space": {"inner.b": {"type": "int", "low": 1, "high": 2}}},
        {"metric": "happiness"},
        {"trials": 0},
        {"trials": 10_001},
    ],
    ids=repr,
)
def test_a_space_that_cannot_be_tried_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SearchParameters.model_validate({"recipe": "hill", "space": SPACE} | wrong)


def test_a_search_is_checked_with_what_it_is_over() -> None:
    offered = Catalogue(scripts_enabled=False)

    def refused(**said: Any) -> DomainError:
        with pytest.raises((InvalidArgument, FailedPrecondition)) as caught:
            offered.checked("search", {"recipe": "hill", "space": SPACE} | said)
        return caught.value

    assert offered.checked("search", {"recipe": "hill", "space": SPACE}).name == "search"
    assert refused(recipe="sorcery").reason == "UNKNOWN_RECIPE"
    assert refused(recipe="script").reason == "RECIPE_NOT_ALLOWED"
    assert refused(recipe="search").reason == "INVALID_PARAMETERS"
    assert refused(recipe="onnx-quantize").reason == "INVALID_PARAMETERS"
    too_deep = refused(space={"depth": {"type": "int", "low": 1, "high": 10}})
    assert isinstance(too_deep, InvalidArgument)
    assert too_deep.violations[0].field == "parameters.depth"
    among = refused(space={"depth": {"type": "categorical", "choices": [1, 99, 2]}})
    assert isinstance(among, InvalidArgument)
    assert among.violations[0].field == "parameters.depth", "a choice between the first and the last"
    assert "height" in refused(space={"height": {"type": "int", "low": 1, "high": 10}}).message


def test_which_is_better_is_read_off_a_metrics_name() -> None:
    assert {direction_of(each) for each in ("accuracy", "f1_macro", "recall[cat]", "validation_accuracy")} == {
        "maximize"
    }
    assert {direction_of(each) for each in ("rmse", "log_loss", "validation_loss")} == {"minimize"}
    assert direction_of("happiness") == ""
