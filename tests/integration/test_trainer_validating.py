"""A version tried as it is served: what is measured, what passes, and that monitoring counts none of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import penstock
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.ids import uuid7
from services.common.jobs import Stopped, StopReason
from services.trainer.faults import InferenceUnavailable
from services.trainer.registering.registering import Registering
from services.trainer.validating.models import Trial, Validation
from services.trainer.validating.validating import Validating
from tests import inference
from tests.inference import Suite
from tests.postgres import PostgresServer
from tests.services import running_inference
from tests.testdata import models
from tests.validating import GoesOn, flowers, kept, registration

pytestmark = pytest.mark.slow
AT_LEAST, AT_MOST = pb.COMPARISON_AT_LEAST, pb.COMPARISON_AT_MOST
APPROVED = {"approved_by": "ada", "note": "it was tried"}


@pytest.fixture(scope="module")
def suite(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """One suite for all: each test has a model of its own."""
    with inference.running_suite(postgres_server, tmp_path_factory.mktemp("suite")) as suite:
        yield suite


def opener(suite: Suite) -> partial[penstock.Client]:
    return partial(penstock.Client, registry=suite.registry.address, inference=suite.inference.address)


def made(suite: Suite, folder: Path, model: str, seed: int) -> str:
    given = registration(folder, model, seed=seed)
    return Registering(opener(suite)).register(GoesOn(), given, lambda _name: None).version


def expect(suite: Suite, model: str, **bounds: tuple[pb.Comparison.ValueType, float]) -> None:
    """Set a model's success criteria; `__` in a name stands for what Python's names cannot have."""
    criteria = [
        pb.SuccessCriterion(metric=name, comparison=comparison, threshold=threshold)
        for name, (comparison, threshold) in bounds.items()
    ]
    suite.client.registry.update_model(model, training_config=pb.TrainingConfig(success_criteria=criteria))


def tried(suite: Suite, model: str, version: str, rows: pa.Table | None, **more: Any) -> Validation:
    given: dict[str, Any] = {"trial_id": uuid7(), "label": "species", "dataset": "flowers/1", **more}
    with TemporaryDirectory() as folder:
        trial = Trial(model=model, version=version, files=kept(rows, Path(folder)), **given)
        return Validating(opener(suite)).validate(GoesOn(), trial)


def test_a_good_version_passes_and_only_then_goes_on(suite: Suite, tmp_path: Path) -> None:
    version = made(suite, tmp_path, "good", seed=0)
    expect(suite, "good", accuracy=(AT_LEAST, 0.9), latency_p95_ms=(AT_MOST, 60_000), size_bytes=(AT_MOST, 10**6))
    with pytest.raises(penstock.FailedPrecondition) as untried:
        suite.client.registry.promote("good", version, "staging", **APPROVED)
    assert untried.value.reason == "EVALUATION_REQUIRED"
    validation = tried(suite, "good", version, flowers(400, wrong=0.05), slices=("age",))
    assert validation.passed
    assert validation.shortfalls == ()
    assert validation.metrics["accuracy"] == pytest.approx(0.95)
    assert {"f1", "log_loss", "latency_p50_ms", "latency_p99_ms", "size_bytes"} <= set(validation.metrics)
    (evaluation,) = suite.client.registry.evaluations("good", version)
    assert (evaluation.id, evaluation.passed, evaluation.dataset) == (validation.evaluation_id, True, "flowers/1")
    assert suite.client.registry.promote("good", version, "staging", **APPROVED).version.stage == pb.STAGE_STAGING
    with pytest.raises(penstock.InvalidArgument) as unapproved:
        suite.client.registry.promote("good", version, "production")
    assert unapproved.value.reason == "APPROVAL_REQUIRED"
    suite.client.registry.promote("good", version, "production", **APPROVED)


def test_a_version_that_falls_short_stays_a_candidate(suite: Suite, tmp_path: Path) -> None:
    version = made(suite, tmp_path, "short", seed=1)
    expect(suite, "short", accuracy=(AT_LEAST, 0.9), rmse=(AT_MOST, 1))
    validation = tried(suite, "short", version, flowers(200, seed=0))
    assert not validation.passed
    accuracy, rmse = sorted(validation.shortfalls)
    assert accuracy.startswith("accuracy is 0.")
    assert rmse == "rmse was not measured; it must be at most 1.0"
    with pytest.raises(penstock.FailedPrecondition) as refused:
        suite.client.registry.promote("short", version, "staging", **APPROVED)
    assert refused.value.reason == "CRITERIA_NOT_MET"


def test_it_is_compared_with_the_live_version_and_rolled_back(suite: Suite, tmp_path: Path) -> None:
    live = made(suite, tmp_path, "pair", seed=1)
    for stage in ("staging", "production"):
        suite.client.registry.promote("pair", live, stage, **APPROVED)
    expect(suite, "pair", accuracy_vs_live_low=(AT_LEAST, 0.0))
    better = made(suite, tmp_path, "pair", seed=0)
    rows = flowers(300, wrong=0.1)
    validation = tried(suite, "pair", better, rows, against=live)
    metrics = validation.metrics
    assert validation.passed
    assert validation.live_version == live
    assert 0 < metrics["accuracy_vs_live_low"] < metrics["accuracy_vs_live"] < metrics["accuracy_vs_live_high"]
    assert metrics["log_loss_vs_live_high"] < 0
    few = tried(suite, "pair", better, rows, against=live, groups=kept(pa.table({"key": ["a", "b"] * 150}), tmp_path))
    assert not few.passed, "of two users nobody can tell"
    assert any(note.startswith("there are no intervals: the held-out rows have 2 keys") for note in few.notes)
    together = kept(pa.table({"key": [f"user-{row // 10}" for row in range(300)]}), tmp_path)
    weighed = tried(suite, "pair", better, rows, against=live, groups=together)
    assert "intervals allow for rows of one key belonging together: there are 30 keys" in weighed.notes
    assert weighed.metrics["accuracy_vs_live"] == metrics["accuracy_vs_live"]
    assert weighed.metrics["accuracy_vs_live_low"] < metrics["accuracy_vs_live_low"]
    assert weighed.passed
    for stage in ("staging", "production"):
        suite.client.registry.promote("pair", better, stage, **APPROVED)
    worse = made(suite, tmp_path, "pair", seed=2)
    behind = tried(suite, "pair", worse, rows, against=live, against_production=True)
    assert (behind.passed, behind.live_version) == (False, better), "what its weights came from is live no more"
    assert suite.client.registry.rollback("pair", **APPROVED).version.version == live
    assert suite.client.inference.predict("pair", np.zeros((1, 4), np.float32)).version in (live, better)


def test_what_nothing_in_production_stands_before_is_compared_with_what_it_came_from(
    suite: Suite, tmp_path: Path
) -> None:
    parent, child = (made(suite, tmp_path, "line", seed=seed) for seed in (0, 1))
    first = tried(suite, "line", child, flowers(60), against=parent, against_production=True)
    assert first.live_version == parent
    assert first.notes == ()
    expect(suite, "line", size_bytes=(AT_MOST, 10**9))
    changed = tried(suite, "line", child, flowers(60), config_version=7)
    assert changed.notes == ("it was trained by config 7, and is judged by the criteria of config 1, which stand now",)


def test_monitoring_hears_of_none_of_it(suite: Suite, tmp_path: Path) -> None:
    version = made(suite, tmp_path, "quiet", seed=0)
    assert tried(suite, "quiet", version, flowers(60)).passed
    # The spool keeps its order: once this event is there, one that was left before it would be, too.
    answer = suite.client.inference.predict("quiet", np.ones((2, 4), np.float32))
    inference.event_of(suite.client, answer.inference_id)
    events = list(suite.client.monitoring.list_inferences(model="quiet"))
    assert [each.event.inference_id for each in events] == [answer.inference_id]


def test_slices_are_judged_where_they_have_rows_enough(suite: Suite, tmp_path: Path) -> None:
    version = made(suite, tmp_path, "sliced", seed=0)
    region = ["north"] * 60 + ["south"] * 60 + ["east"] * 5
    expect(suite, "sliced", **{"worst_slice_accuracy[region]": (AT_LEAST, 0.9), "accuracy[region=east]": (AT_LEAST, 0)})
    validation = tried(suite, "sliced", version, flowers(125, wrong=0.2, region=region), slices=("region", "planet"))
    metrics = validation.metrics
    assert metrics["accuracy[region=south]"] == 1
    assert metrics["worst_slice_accuracy[region]"] == metrics["accuracy[region=north]"] == pytest.approx(35 / 60)
    assert "accuracy[region=east]" not in metrics
    assert any("INSUFFICIENT" in note and "region=east (5)" in note for note in validation.notes)
    assert any("no such column" in note for note in validation.notes)
    assert len(validation.shortfalls) == 2


def test_what_cannot_be_tried_has_not_passed(suite: Suite, tmp_path: Path) -> None:
    version = made(suite, tmp_path, "mute", seed=0)
    expect(suite, "mute", accuracy=(AT_LEAST, 0.5), size_bytes=(AT_MOST, 10**9))
    rows = flowers(50)
    for given, said in (
        (None, "no held-out rows"),
        (rows.drop_columns(["age"]), "takes a column 'age'"),
        (rows.drop_columns(["species"]), "no column 'species'"),
        (rows.set_column(4, "species", pa.nulls(50, pa.int64())), "has a label"),
        (rows.set_column(0, "width", pa.array(["wide"] * 50)), "takes 'width'"),
        (rows.set_column(0, "width", pa.array([None, *[0.5] * 49], pa.float64())), "1 of 50 rows"),
    ):
        validation = tried(suite, "mute", version, given)
        assert (validation.passed, validation.evaluation_id) == (False, 0)
        assert said in validation.shortfalls[0]
    with pytest.raises(penstock.FailedPrecondition) as refused:
        suite.client.registry.promote("mute", version, "staging", **APPROVED)
    assert refused.value.reason == "EVALUATION_REQUIRED", "what the rows are not says nothing of the version"


def test_a_version_that_fails_when_it_is_served_is_let_through_no_more(suite: Suite) -> None:
    inference.register(suite.client, "failing", models.unrunnable(rank="M"), columns={"x": list("abcdefg")})
    expect(suite, "failing", size_bytes=(AT_MOST, 10**9))
    suite.client.registry.record_evaluation("failing", "1.0.0", {"size_bytes": 1})
    trial_id, rows = (
        uuid7(),
        pa.table({**{name: [0.5] * 10 for name in "abcdefg"}, "shape": [3] * 10, "species": [0] * 10}),
    )
    validation = tried(suite, "failing", "1.0.0", rows, trial_id=trial_id)
    assert not validation.passed
    assert "MODEL_FAILED" in validation.shortfalls[0]
    failed, before = suite.client.registry.evaluations("failing", "1.0.0")
    assert (before.passed, failed.passed, failed.id) == (True, False, validation.evaluation_id)
    assert (failed.failure, failed.dataset, dict(failed.metrics)) == (validation.shortfalls[0], "flowers/1", {})
    assert tried(suite, "failing", "1.0.0", rows, trial_id=trial_id).shortfalls == validation.shortfalls
    suite.client.registry.promote("failing", "1.0.0", "candidate")
    with pytest.raises(penstock.FailedPrecondition, match="MODEL_FAILED") as refused:
        suite.client.registry.promote("failing", "1.0.0", "staging", **APPROVED)
    assert refused.value.reason == "CRITERIA_NOT_MET"


def test_rows_that_a_version_refuses_take_nothing_from_it(suite: Suite) -> None:
    inference.register(suite.client, "picky", models.embedding(vocabulary=5))
    expect(suite, "picky", size_bytes=(AT_MOST, 10**9))
    suite.client.registry.record_evaluation("picky", "1.0.0", {"size_bytes": 1})
    validation = tried(suite, "picky", "1.0.0", pa.table({"ids": [99] * 10, "species": [0] * 10}))
    assert (validation.passed, validation.evaluation_id) == (False, 0)
    assert "INPUT_REFUSED" in validation.shortfalls[0]
    for stage in ("candidate", "staging"):
        suite.client.registry.promote("picky", "1.0.0", stage, **APPROVED)


def test_a_version_that_does_not_load_has_not_passed(suite: Suite, tmp_path: Path) -> None:
    columns = [f"c{number}" for number in range(512)]
    inference.register(suite.client, "large", models.classifier(512, 1_024), columns=columns)
    rows = pa.table({**{name: [0.0] for name in columns}, "species": [0]})
    addresses = {"registry": suite.registry.address, "monitoring": suite.monitoring.address}
    with running_inference(tmp_path, **addresses, session_budget_bytes=2**20) as small:
        client = partial(penstock.Client, registry=suite.registry.address, inference=small.address)
        trial = Trial(uuid7(), "large", "1.0.0", kept(rows, tmp_path), label="species")
        validation = Validating(client).validate(GoesOn(), trial)
    assert not validation.passed
    assert "SESSION_BUDGET_EXCEEDED" in validation.shortfalls[0]
    (failed,) = suite.client.registry.evaluations("large", "1.0.0")
    assert (failed.id, failed.failure) == (validation.evaluation_id, validation.shortfalls[0])


def test_the_same_trial_again_is_one_evaluation(suite: Suite, tmp_path: Path) -> None:
    version, trial_id, rows = made(suite, tmp_path, "twice", seed=0), uuid7(), flowers(40)
    first = tried(suite, "twice", version, rows, trial_id=trial_id, note="by hand")
    second = tried(suite, "twice", version, rows, trial_id=trial_id)
    assert (second.evaluation_id, second.metrics) == (first.evaluation_id, first.metrics)
    assert len(list(suite.client.registry.evaluations("twice", version))) == 1


def test_an_inference_service_that_is_away_is_asked_again_later(suite: Suite, tmp_path: Path) -> None:
    version = made(suite, tmp_path, "away", seed=0)
    away = partial(penstock.Client, registry=suite.registry.address, inference="127.0.0.1:1", timeout_s=1)
    trial = Trial(uuid7(), "away", version, kept(flowers(30), tmp_path), label="species")
    with pytest.raises(InferenceUnavailable) as silent:
        Validating(away).validate(GoesOn(), trial)
    assert silent.value.retryable


def test_a_trial_that_is_to_end_ends(suite: Suite, tmp_path: Path) -> None:
    version, stopping = made(suite, tmp_path, "ended", seed=0), GoesOn()

    def told(done: int, _total: int) -> None:
        stopping.ended = Stopped(StopReason.CANCELLED)
        for callback in stopping.callbacks:
            callback()

    trial = Trial(uuid7(), "ended", version, kept(flowers(2_000), tmp_path), label="species")
    with pytest.raises(Stopped):
        Validating(opener(suite)).validate(stopping, trial, told)
    assert list(suite.client.registry.evaluations("ended", version)) == []
