"""Training runs over the socket: the real services, recipes in processes of their own, scripts where a test steers."""

from __future__ import annotations

import importlib.metadata
import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from sklearn.datasets import load_wine

import penstock
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.api.trainer.v1 import training_pb2 as pb
from penstock.values import to_struct
from tests.holding import held, saying
from tests.postgres import PostgresServer
from tests.serving import wait_until
from tests.training import QUICK, TrainingPlace, training

pytestmark = pytest.mark.slow
COLUMNS = ("alcohol", "malic_acid", "colour")
WINES = {"model": "new", "recipe": "sklearn", "data_source": "wines"}
TELLS = """
def train(context):
    print("hello from the script")
    for epoch in range(1, 4):
        context.report(epoch, {"loss": 1.0 / epoch}, total=3)
    raise ValueError("that is all")
"""
WAITS = """
import time
def train(context):
    context.report(1, {"loss": 1.0})
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingPlace]:
    """All services, a dataset of wines, and scripts allowed."""
    folder = tmp_path_factory.mktemp("trainer")
    with training(postgres_server, folder, trainer_scripts_enabled=True) as place:
        place.client.datasets.upload("wines", wines(folder))
        yield place


def hangs_together(place: TrainingPlace, model: str, version: str) -> set[tuple[str, str, str]]:
    """What monitoring says of a version: cause, relation, effect."""
    graph = place.client.monitoring.lineage.of_version(model, version)
    ids = [node.id for node in graph.nodes]
    return {(ids[edge.from_node], edge.relation, ids[edge.to_node]) for edge in graph.edges}


def wines(folder: Path) -> Path:
    """Real rows: three columns of the wines that scikit-learn brings, and of which grower each is."""
    data = load_wine()
    path = folder / "wines.json"
    with path.open("w") as file:
        for row, label in zip(data.data, data.target, strict=True):
            values = dict(zip(COLUMNS, (float(row[0]), float(row[1]), float(row[9])), strict=True))
            file.write(json.dumps({**values, "label": int(label)}) + "\n")
    return path


def test_rows_become_a_validated_candidate_that_serves_and_says_where_it_came_from(place: TrainingPlace) -> None:
    begin = time.monotonic()
    run = place.train(
        "wines", recipe="sklearn", parameters={"estimator": "LogisticRegression"}, data_source="wines", note="a first"
    )
    assert 0 < run.duration_ms <= 1_000 * (time.monotonic() - begin), "no longer than it was waited for"
    ends = run.end_time.ToNanoseconds() - run.start_time.ToNanoseconds()
    assert run.duration_ms == pytest.approx(ends / 1e6, abs=1)
    assert run.state == pb.TRAINING_RUN_STATE_COMPLETED, run.message
    assert (run.type, run.dataset, run.new_version) == (pb.TRAINING_TYPE_INITIAL, "wines/1", "1.0.0")
    assert run.validation_passed
    assert (run.train_count, run.validation_count, run.test_count) == (125, 26, 27), "of 178"
    assert run.test_metrics["accuracy"] > 0.7
    assert 0.7 < run.train_metrics["accuracy"] <= 1
    assert run.train_metrics.keys() == run.validation_metrics.keys() == run.test_metrics.keys()
    assert run.environment["scikit-learn"] == importlib.metadata.version("scikit-learn")
    assert re.fullmatch("[0-9a-f]{64}", run.code_sha256)
    assert list(run.feature_columns) == list(COLUMNS)
    version = place.client.registry.get_version("wines", "1.0.0")
    assert version.stage == registry.STAGE_CANDIDATE
    assert version.training_run_id == run.id
    answer = place.client.inference.predict(
        "wines", {"alcohol": 14.2, "malic_acid": 1.7, "colour": 5.6}, version="1.0.0"
    )
    assert str(answer.outputs["label"][0]) == "0"
    unknown = [
        place.client.inference.predict(
            "wines", {"alcohol": 14.2, "malic_acid": missing, "colour": 5.6}, version="1.0.0"
        )
        for missing in (None, float("nan"))
    ]
    assert unknown[0].outputs["probabilities"].tolist() == unknown[1].outputs["probabilities"].tolist(), "the median's"
    with pytest.raises(penstock.AlreadyExists, match=r"has a version 1\.0\.0 already") as taken:
        place.client.training.create_run("wines", recipe="sklearn", data_source="wines", version="1.0.0")
    assert taken.value.reason == "VERSION_EXISTS"
    (evaluation,) = place.client.registry.evaluations("wines", "1.0.0")
    assert (evaluation.id, evaluation.passed) == (run.evaluation_id, True)
    assert evaluation.metrics["accuracy"] == pytest.approx(run.test_metrics["accuracy"])
    assert place.client.monitoring.profiles.get(run.profile_id).model == "wines"
    assert {
        ("wines/1", "fed", run.id),
        (run.id, "trained", "wines/1.0.0"),
        ("wines/1.0.0", "was evaluated", str(run.evaluation_id)),
        ("wines/1.0.0", "is compared with", run.profile_id),
    } <= hangs_together(place, "wines", "1.0.0")


def test_a_models_training_config_trains_and_judges_the_next_version(place: TrainingPlace) -> None:
    client = place.client
    client.registry.create_model("cellar")
    criterion = registry.SuccessCriterion(metric="accuracy", comparison=registry.COMPARISON_AT_LEAST, threshold=0.999)
    config = registry.TrainingConfig(
        recipe="sklearn",
        parameters=to_struct({"estimator": "DecisionTreeClassifier", "estimator_parameters": {"max_depth": 1}}),
        data_source="wines",
        success_criteria=[criterion],
    )
    client.registry.update_model("cellar", training_config=config)
    run = place.train("cellar")
    assert run.state == pb.TRAINING_RUN_STATE_COMPLETED, "a failed validation is no failed run"
    assert (run.config_version, run.validation_passed, run.type) == (1, False, pb.TRAINING_TYPE_INITIAL)
    assert "accuracy" in run.shortfalls[0]
    with pytest.raises(penstock.FailedPrecondition) as refused:
        client.registry.promote("cellar", run.new_version, "STAGING")
    assert refused.value.reason == "CRITERIA_NOT_MET" or "evaluation" in refused.value.message
    criterion.threshold = 0.3
    config.success_criteria[0].CopyFrom(criterion)
    client.registry.update_model("cellar", training_config=config)
    better = place.train("cellar", parameters={"estimator_parameters": {"max_depth": 4}})
    assert (better.config_version, better.validation_passed) == (2, True), better.shortfalls
    assert (better.type, better.parent_version) == (pb.TRAINING_TYPE_RETRAIN, run.new_version)
    assert better.code_sha256 != run.code_sha256, "what it was told is digested, too"
    client.registry.promote("cellar", better.new_version, "STAGING")
    (move,) = [each for each in client.registry.transitions("cellar", better.new_version) if each.from_stage]
    moved = (f"cellar/{better.new_version}", "moved", str(move.id))
    assert moved in hangs_together(place, "cellar", better.new_version)
    client.registry.promote("cellar", better.new_version, "PRODUCTION", approved_by="ada", note="it was tried")
    late = place.train("cellar", parent_version=run.new_version)
    (tried,) = client.validations.list(model="cellar", version=late.new_version)
    assert (late.parent_version, tried.live_version) == (run.new_version, better.new_version), "judged by what is live"


def test_epochs_and_what_is_printed_are_told_as_they_come_and_kept(place: TrainingPlace) -> None:
    client = place.client.training
    run = client.create_run("told", recipe="script", parameters={"code": TELLS})
    with closing(client.watch_run(run.id)) as answers:
        seen = list(answers)
    ended = seen[-1].run
    assert (ended.state, ended.reason) == (pb.TRAINING_RUN_STATE_FAILED, "TRAINING_FAILED")
    assert "that is all" in ended.message
    told = [epoch for answer in seen for epoch in answer.epochs]
    assert [(epoch.number, epoch.metrics["loss"]) for epoch in told] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert [epoch.number for epoch in client.epochs(run.id)] == [1, 2, 3]
    assert (ended.done_epochs, ended.total_epochs) == (3, 3)
    log = b"".join(piece.chunk for piece in client.log(run.id)).decode()
    assert "hello from the script" in log
    assert "ValueError: that is all" in log
    (rest,) = client.log(run.id, offset=len(log) - 5)
    assert rest.chunk.decode() == log[-5:]


def test_a_run_that_goes_on_is_ended_within_seconds_and_leaves_nothing(place: TrainingPlace) -> None:
    client = place.client.training
    run = client.create_run("ended", recipe="script", parameters={"code": WAITS})
    with closing(client.watch_run(run.id)) as answers:
        for answer in answers:
            if answer.run.done_epochs:
                client.cancel_run(run.id)
            last = answer.run
    assert last.state == pb.TRAINING_RUN_STATE_CANCELLED
    assert client.cancel_run(run.id).state == pb.TRAINING_RUN_STATE_CANCELLED, "asking twice is asking once"
    assert not list(place.client.registry.list_versions("ended"))


def test_who_called_is_told_whoever_is_said_to_have_asked(place: TrainingPlace) -> None:
    client = place.client.training
    told: dict[str, Any] = {"requested_by": "the-ceo", "retraining_request_id": "request-7", "note": "at once"}
    run = client.create_run("named", recipe="script", parameters={"code": TELLS}, **told)
    ended = client.wait_run(run.id)
    (listed,) = client.list_runs(model="named")
    for read in (run, ended, client.get_run(run.id), listed):
        assert (read.trigger, read.created_by) == (pb.TrainingTrigger(**told), "anonymous")


def test_a_run_that_waits_for_a_place_is_ended_at_once(place: TrainingPlace) -> None:
    client = place.client.training
    first = client.create_run("busy", recipe="script", parameters={"code": WAITS})
    wait_until(lambda: client.get_run(first.id).state == pb.TRAINING_RUN_STATE_RUNNING)
    second = client.create_run("busy", recipe="script", parameters={"code": TELLS})
    for state, run in (("queued", second), ("running", first)):
        assert [each.id for each in client.list_runs(model="busy", states=[state])] == [run.id]
    assert not list(client.list_runs(model="busy", states=["validating"]))
    ended = client.cancel_run(second.id)
    assert (ended.state, ended.attempt) == (pb.TRAINING_RUN_STATE_CANCELLED, 0)
    client.cancel_run(first.id)
    assert client.wait_run(first.id).state == pb.TRAINING_RUN_STATE_CANCELLED


def test_a_dataset_that_is_deleted_while_a_run_reads_it_is_there_to_its_end(
    place: TrainingPlace, tmp_path: Path
) -> None:
    place.upload_flowers(tmp_path)
    client, datasets = place.client.training, place.client.datasets
    with held(place.database_url, *saying("gathering rows")) as until_held:
        run = client.create_run("bereft", **QUICK)
        until_held()
        with pytest.raises(penstock.FailedPrecondition) as refused:
            datasets.delete("flowers", 1)
        assert refused.value.reason == "DATASET_IN_USE"
        assert datasets.get("flowers").version == 1
        datasets.delete("flowers", 1, force=True)
        with pytest.raises(penstock.NotFound) as gone:
            datasets.get("flowers")
        assert gone.value.reason == "DATASET_NOT_FOUND"
    ended = client.wait_run(run.id)
    assert (ended.state, ended.dataset) == (pb.TRAINING_RUN_STATE_COMPLETED, "flowers/1"), ended.message
    assert ended.train_count + ended.validation_count + ended.test_count == 200, "all of its rows"
    assert place.rows("SELECT count(*) FROM trainer.dataset_versions WHERE name = 'flowers'") == [(0,)], "it goes then"


def test_the_same_request_again_is_the_same_run_and_another_body_is_refused(place: TrainingPlace) -> None:
    client = place.client.training
    told: dict[str, Any] = {"recipe": "script", "parameters": {"code": TELLS}, "request_id": "once"}
    first = client.create_run("again", **told)
    assert client.create_run("again", **told).id == first.id
    with pytest.raises(penstock.FailedPrecondition) as refused:
        client.create_run("again", **{**told, "parameters": {"code": WAITS}})
    assert refused.value.reason == "REQUEST_ID_REUSED"
    client.wait_run(first.id)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"model": ""}, "MODEL_REQUIRED"),
        ({"model": "a/b"}, "INVALID_NAME"),
        ({"model": "nobody"}, "MODEL_NOT_FOUND"),
        ({"model": "new", "recipe": "magic"}, "UNKNOWN_RECIPE"),
        ({"model": "new", "recipe": "sklearn", "parameters": {"estimater": "x"}}, "INVALID_PARAMETERS"),
        ({"model": "new", "recipe": "sklearn"}, "INVALID_DATA_SOURCE"),
        ({"model": "new", "recipe": "sklearn", "data_source": "a b"}, "INVALID_DATA_SOURCE"),
        ({**WINES, "parameters": {"label_column": "grower"}}, "UNKNOWN_COLUMN"),
        ({**WINES, "parameters": {"feature_columns": ["alcohol", "age"]}}, "UNKNOWN_COLUMN"),
        ({**WINES, "parameters": {"slices": ["region"]}}, "UNKNOWN_COLUMN"),
        ({**WINES, "parameters": {"split": {"by": "time", "column": "at"}}}, "UNKNOWN_COLUMN"),
        ({"model": "new", "recipe": "sklearn", "parameters": {"split": {"by": "luck"}}}, "INVALID_PARAMETERS"),
        ({"model": "new", "recipe": "sklearn", "parameters": {"split": {"train_share": 2}}}, "INVALID_PARAMETERS"),
        ({"model": "new", "recipe": "sklearn", "parameters": {"executor": "moon"}}, "INVALID_PARAMETERS"),
        ({"model": "new", "recipe": "script", "parameters": {"code": TELLS, "slices": 5}}, "INVALID_PARAMETERS"),
        ({"model": "new", "recipe": "script", "executor": "ray"}, "EXECUTOR_NOT_CONFIGURED"),
        ({"model": "new", "recipe": "script", "type": "finetune"}, "NO_PARENT"),
        ({"model": "new", "recipe": "script", "parent_version": "9.9"}, "VERSION_NOT_FOUND"),
        ({"model": "new", "recipe": "script", "version": "la test"}, "INVALID_NAME"),
        ({"model": "new", "recipe": "script", "note": "x" * 1_001}, "INVALID_TEXT"),
        ({"model": "new", "recipe": "sklearn", "data_source": "nothing"}, "DATASET_NOT_FOUND"),
        ({"model": "new", "recipe": "sklearn", "data_source": "wines/9"}, "DATASET_VERSION_NOT_FOUND"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_is_queued(
    place: TrainingPlace, asked: dict[str, Any], reason: str
) -> None:
    before = len(list(place.client.training.list_runs()))
    with pytest.raises(penstock.PenstockError) as refused:
        place.client.training.create_run(**asked)
    assert refused.value.reason == reason
    assert len(list(place.client.training.list_runs())) == before
    assert "new" not in {model.name for model in place.client.registry.list_models()}, "nothing is left behind"


def test_a_model_that_nobody_said_how_to_train_is_refused(place: TrainingPlace) -> None:
    place.client.registry.create_model("untold")
    with pytest.raises(penstock.FailedPrecondition) as refused:
        place.client.training.create_run("untold")
    assert refused.value.reason == "NO_TRAINING_CONFIG"


def test_runs_are_listed_by_model_and_state_and_what_has_ended_can_be_forgotten(place: TrainingPlace) -> None:
    client = place.client.training
    runs = [client.create_run("listed", recipe="script", parameters={"code": TELLS}) for _ in range(3)]
    for run in runs:
        client.wait_run(run.id)
    assert [run.id for run in client.list_runs(model="listed", page_size=2)] == [run.id for run in reversed(runs)]
    assert not list(client.list_runs(model="listed", states=["completed", "queued"]))
    assert len(list(client.list_runs(model="listed", states=["failed"]))) == 3
    client.delete_run(runs[0].id)
    for call in (lambda: client.get_run(runs[0].id), lambda: list(client.epochs(runs[0].id))):
        with pytest.raises(penstock.NotFound) as gone:
            call()
        assert gone.value.reason == "RUN_NOT_FOUND"


def test_every_recipe_says_what_it_takes_and_whether_it_may_be_used(place: TrainingPlace) -> None:
    recipes = {recipe.name: recipe for recipe in place.client.training.recipes()}
    assert {"sklearn", "keras-mlp", "script"} <= recipes.keys()
    assert recipes["sklearn"].allowed
    (estimator,) = [each for each in recipes["sklearn"].parameters if each.name == "estimator"]
    assert estimator.description
    assert all(each.description for recipe in recipes.values() for each in recipe.parameters)


def test_prometheus_hears_how_many_runs_there_are_how_long_they_took_and_what_they_stumbled_over(
    place: TrainingPlace,
) -> None:
    before = told_to_prometheus(place)
    assert before.keys() >= {'penstock_training_runs{state="queued"}', "penstock_training_queue_age_seconds"}
    done = place.train("counted", recipe="sklearn", data_source="wines")
    assert done.state == pb.TRAINING_RUN_STATE_COMPLETED, done.message
    place.train("counted", recipe="script", parameters={"code": TELLS})
    told = told_to_prometheus(place)
    failed = 'penstock_training_faults_total{reason="TRAINING_FAILED",retryable="false"}'
    once_more = (failed, "penstock_training_duration_seconds_count", 'penstock_training_runs{state="completed"}')
    assert {name: told[name] - before.get(name, 0) for name in once_more} == dict.fromkeys(once_more, 1)
    assert told["penstock_training_queue_age_seconds"] == 0
    wait_until(lambda: told_to_prometheus(place)["penstock_training_busy"] == 0)


def told_to_prometheus(place: TrainingPlace) -> dict[str, float]:
    """What the metrics page says of training, by its name with its labels."""
    with urlopen(f"http://127.0.0.1:{place.trainer.metrics_port}/metrics", timeout=60) as page:
        lines = [line for line in page.read().decode().splitlines() if line.startswith("penstock_training_")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
