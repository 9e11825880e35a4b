"""Validations on request: queued, watched, listed, cancelled, and done by whoever holds the lease."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

import penstock
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.api.trainer.v1 import validations_pb2 as pb
from penstock.cli.__main__ import run
from penstock.ids import uuid7
from services.trainer.__main__ import build
from services.trainer.registering.registering import Registering
from services.trainer.validating.convert import plain_names
from tests.postgres import PostgresServer
from tests.services import running
from tests.training import TrainingPlace, training
from tests.validating import GoesOn, flowers, registration

pytestmark = pytest.mark.slow
APPROVED = {"approved_by": "ada", "note": "it was tried"}


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingPlace]:
    """A suite with a dataset `flowers` and two versions of `iris`, the first of which is live."""
    folder = tmp_path_factory.mktemp("place")
    with training(postgres_server, folder) as place:
        client = place.client
        rows = folder / "flowers.parquet"
        pq.write_table(flowers(600, wrong=0.05, region=["north", "south"] * 300), rows)
        client.datasets.upload("flowers", rows)
        registering = Registering(partial(penstock.Client, registry=place.addresses["registry"]))
        for seed in (1, 0):
            made = registering.register(GoesOn(), registration(folder, "iris", seed=seed), lambda _name: None)
            for stage in ("staging", "production") if seed else ():
                client.registry.promote("iris", made.version, stage, **APPROVED)
        criterion = registry.SuccessCriterion(
            metric="accuracy_vs_live_low", comparison=registry.COMPARISON_AT_LEAST, threshold=0.0
        )
        client.registry.update_model(
            "iris", training_config=registry.TrainingConfig(data_source="flowers", success_criteria=[criterion])
        )
        yield place


@pytest.fixture
def client(place: TrainingPlace) -> penstock.Client:
    return place.client


def test_a_version_is_tried_against_the_live_one_and_reaches_staging(client: penstock.Client) -> None:
    with pytest.raises(penstock.FailedPrecondition) as untried:
        client.registry.promote("iris", "1.1.0", "staging", **APPROVED)
    assert untried.value.reason == "EVALUATION_REQUIRED"
    asked = client.validations.create("iris", "1.1.0", slices=["region"], note="by hand", request_id="once")
    assert (asked.live_version, asked.label_column, asked.data_source) == ("1.0.0", "species", "flowers")
    done = client.validations.wait(asked.id)
    assert done.state == pb.VALIDATION_STATE_COMPLETED, done.message
    assert (done.passed, done.dataset, done.rows) == (True, "flowers/1", pb.VALIDATION_ROWS_TEST)
    assert 60 <= done.row_count <= 120, "the held-out part of 600 rows"
    assert done.done_rows == done.total_rows == 2 * done.row_count
    metrics = {metric.name: metric for metric in done.metrics}
    accuracy = metrics["accuracy"]
    assert accuracy.difference == pytest.approx(accuracy.value - accuracy.live_value)
    assert 0 < accuracy.difference_low < accuracy.difference < accuracy.difference_high
    assert "accuracy_vs_live" not in metrics
    assert {"accuracy[region=north]", "worst_slice_accuracy[region]", "latency_p99_ms"} <= set(metrics)
    (criterion,) = done.criteria
    assert (criterion.metric, criterion.at_least, criterion.met) == ("accuracy_vs_live_low", 0.0, True)
    assert criterion.value == accuracy.difference_low
    assert client.registry.promote("iris", "1.1.0", "staging", **APPROVED).version.stage == registry.STAGE_STAGING
    assert (
        client.validations.create("iris", "1.1.0", slices=["region"], note="by hand", request_id="once").id == done.id
    )


def test_all_rows_and_nothing_to_compare_with(client: penstock.Client) -> None:
    asked = client.validations.create("iris", "1.1.0", "flowers/1", rows="all", alone=True)
    done = client.validations.wait(asked.id)
    assert (done.row_count, done.live_version) == (600, "")
    assert not done.passed
    assert done.shortfalls == ["accuracy_vs_live_low was not measured; it must be at least 0.0"]


def test_history_is_by_model_and_version(client: penstock.Client) -> None:
    first = client.validations.create("iris", "production", "flowers", alone=True)
    second = client.validations.create("iris", "1.1.0", "flowers", against="1.0.0")
    for each in (first, second):
        client.validations.wait(each.id)
    assert first.version == "1.0.0"
    assert [each.id for each in client.validations.list(model="iris", page_size=1)][:2] == [second.id, first.id]
    assert first.id in {each.id for each in client.validations.list(model="iris", version="1.0.0")}
    assert second.id not in {each.id for each in client.validations.list(model="iris", version="1.0.0")}
    assert list(client.validations.list(model="nobody")) == []
    assert client.validations.get(first.id).version == "1.0.0"


def test_what_cannot_be_asked_for_is_refused(client: penstock.Client) -> None:
    def reason(**asked: object) -> str:
        with pytest.raises(penstock.PenstockError) as refused:
            client.validations.create(**{"model": "iris", "version": "1.1.0", **asked})  # type: ignore[arg-type]
        return refused.value.reason

    assert reason(model="") == "MODEL_REQUIRED"
    assert reason(version="") == "VERSION_REQUIRED"
    assert reason(model="nobody") == "MODEL_NOT_FOUND"
    assert reason(version="9.9.9") == "VERSION_NOT_FOUND"
    assert reason(against="9.9.9") == "VERSION_NOT_FOUND"
    assert reason(against="1.0.0", alone=True) == "INVALID_FIELD"
    assert reason(slices=list("abcdef")) == "TOO_MANY"
    client.registry.create_model("bare")
    assert reason(model="bare") == "VERSION_NOT_FOUND"
    for call in (client.validations.get, client.validations.cancel, client.validations.wait):
        with pytest.raises(penstock.NotFound) as unknown:
            call(uuid7())
        assert unknown.value.reason == "VALIDATION_NOT_FOUND"
    with pytest.raises(penstock.NotFound):
        client.validations.get("nonsense")
    with pytest.raises(penstock.InvalidArgument) as whose:
        next(client.validations.list(version="1.0.0"), None)
    assert whose.value.reason == "MODEL_REQUIRED"


def test_rows_that_are_not_there_fail_the_validation(client: penstock.Client) -> None:
    done = client.validations.wait(client.validations.create("iris", "1.1.0", "weeds").id)
    assert (done.state, done.reason) == (pb.VALIDATION_STATE_FAILED, "INVALID_DATA")
    assert "weeds" in done.message
    assert not done.HasField("passed")


def test_a_version_that_does_not_take_the_rows_has_not_passed(client: penstock.Client, tmp_path: Path) -> None:
    rows = tmp_path / "narrow.parquet"
    pq.write_table(flowers(100).drop_columns(["age"]), rows)
    client.datasets.upload("narrow", rows)
    done = client.validations.wait(client.validations.create("iris", "1.1.0", "narrow", rows="all").id)
    assert (done.state, done.passed, done.evaluation_id) == (pb.VALIDATION_STATE_COMPLETED, False, 0)
    assert "takes a column 'age'" in done.shortfalls[0]


def test_a_validation_is_cancelled_and_asking_twice_is_asking_once(
    place: TrainingPlace, postgres_server: PostgresServer
) -> None:
    url = postgres_server.clone("trainer")
    idle = place.settings.model_copy(
        update={"database_url": SecretStr(url), "trainer_worker_enabled": False, "port": 0}
    )
    with running(build, idle) as trainer, penstock.Client(trainer=trainer.address) as client:
        asked = client.validations.create("iris", "1.0.0", "flowers")
        assert asked.state == pb.VALIDATION_STATE_QUEUED
        for _ in range(2):
            assert client.validations.cancel(asked.id).state == pb.VALIDATION_STATE_CANCELLED
        assert client.validations.wait(asked.id).state == pb.VALIDATION_STATE_CANCELLED
    postgres_server.drop(url)


def test_a_difference_is_told_from_a_metric_of_that_name() -> None:
    assert plain_names(["accuracy", "accuracy_vs_live", "accuracy_vs_live_low"]) == {"accuracy"}
    assert plain_names(["won_vs_live"]) == {"won_vs_live"}, "a script's own metric"


def test_the_command_shows_a_table_and_ends_as_the_version_did(
    place: TrainingPlace, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> tuple[int, str, str]:
        code = run(["validate", "iris", *arguments, "--url", place.addresses["trainer"]])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    code, table, _ = said("1.1.0", "--dataset", "flowers", "--slice", "region", "--watch")
    assert code == 0
    assert "iris 1.1.0  passed" in table
    assert "worst_slice_accuracy[region]" in table
    (accuracy,) = (line for line in table.splitlines() if line.startswith("accuracy "))
    assert "low end ≥ 0" in accuracy
    assert accuracy.endswith("yes")
    code, table, error = said("1.1.0", "--dataset", "flowers/1", "--alone", "--all-rows", "--watch")
    assert code == 1
    assert "not measured" in table
    assert "VALIDATION_NOT_PASSED" in error
    code, listed, _ = said("1.1.0", "--history", "--json")
    newest, before, *_ = json.loads(listed)
    assert (newest["passed"], before["passed"]) == (False, True)
    code, shown, _ = said("--show", newest["id"][:13])
    assert newest["id"] in shown
    assert said("--show", newest["id"], "--history")[0] == 2
    assert said()[0] == 2
    assert said("--cancel", newest["id"])[0] == 1
    assert said("9.9.9")[0] == 3


def test_a_runs_own_validation_stands_in_the_history_and_its_rows_are_held_out_again(place: TrainingPlace) -> None:
    """Trained, tried by the run, and tried again on the same held-out rows: both say the same of the version."""
    parameters = {"estimator": "LogisticRegression", "label_column": "species", "ignore_columns": ["region"]}
    trained = place.train("grown", recipe="sklearn", parameters=parameters, data_source="flowers")
    assert trained.new_version, trained.message
    own = place.client.validations.get(trained.id)
    assert (own.training_run_id, own.version, own.label_column) == (trained.id, trained.new_version, "species")
    assert (own.passed, own.evaluation_id) == (trained.validation_passed, trained.evaluation_id)
    again = place.client.validations.wait(
        place.client.validations.create("grown", trained.new_version, trained.dataset).id
    )
    assert again.label_column == "species", "as the version's metadata say"
    assert again.row_count == own.row_count == trained.test_count
    accuracies = [next(each.value for each in found.metrics if each.name == "accuracy") for found in (own, again)]
    assert accuracies[0] == accuracies[1]
    assert [each.id for each in place.client.validations.list(model="grown")] == [again.id, own.id]
    version = place.client.registry.get_version("grown", trained.new_version)
    assert version.metadata.fields.fields["dataset_digest"].string_value == version.source.revision != ""
