"""Evaluations, and what they decide: nothing reaches STAGING that falls short of its model's criteria."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.api.registry.v1 import registry_pb2 as pb
from services.registry.training import Comparison, SuccessCriterion, TrainingConfig
from tests import catalogue, registry
from tests.catalogue import DEADLINE_S, INVALID, NOT_FOUND, PRECONDITION, Catalogue, refused
from tests.testdata import models

ACCURATE = pb.SuccessCriterion(metric="accuracy", comparison=pb.COMPARISON_AT_LEAST, threshold=0.9)
QUICK = pb.SuccessCriterion(metric="latency_ms", comparison=pb.COMPARISON_AT_MOST, threshold=20)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture
def running(clone_database: Callable[[str], str], tmp_path: Path) -> Iterator[Catalogue]:
    with catalogue.served(clone_database("registry"), tmp_path) as opened:
        catalogue.register(opened.stub, "1")
        yield opened


def require(running: Catalogue, *criteria: pb.SuccessCriterion) -> None:
    config = pb.TrainingConfig(success_criteria=criteria)
    catalogue.update_model(running.stub, ["training_config"], training_config=config)


def record(running: Catalogue, version: str = "1", request_id: str = "", **metrics: float) -> pb.Evaluation:
    request = pb.RecordEvaluationRequest(
        model="iris", version=version, metrics=metrics, dataset="iris@sha256:12", note="held out", request_id=request_id
    )
    return running.stub.RecordEvaluation(request, timeout=DEADLINE_S).evaluation


def listed(running: Catalogue, **wanted: Any) -> list[pb.Evaluation]:
    request = pb.ListEvaluationsRequest(model="iris", **wanted)
    return list(running.stub.ListEvaluations(request, timeout=DEADLINE_S).evaluations)


def test_an_evaluation_is_judged_by_the_criteria_that_stand(running: Catalogue) -> None:
    free = record(running, accuracy=0.1)
    assert (free.passed, list(free.shortfalls), free.evaluated_by) == (True, [], "anonymous")
    require(running, ACCURATE, QUICK)
    short = record(running, accuracy=0.8999)
    assert not short.passed
    assert list(short.shortfalls) == [
        "accuracy is 0.8999; it must be at least 0.9",
        "latency_ms was not measured; it must be at most 20.0",
    ]
    met = record(running, accuracy=0.9, latency_ms=20, other=-1e300)
    assert (met.passed, met.metrics["other"], met.dataset, met.note) == (True, -1e300, "iris@sha256:12", "held out")
    assert listed(running) == [met, short, free]


@given(st.dictionaries(st.sampled_from("abc"), FINITE), st.sampled_from("abc"), st.sampled_from(Comparison), FINITE)
def test_a_criterion_is_met_on_its_side_of_the_threshold(
    metrics: dict[str, float], metric: str, comparison: Comparison, threshold: float
) -> None:
    config = TrainingConfig(success_criteria=(SuccessCriterion(metric, comparison, threshold),))
    value = metrics.get(metric)
    met = value is not None and (value >= threshold if comparison is Comparison.AT_LEAST else value <= threshold)
    shortfalls = config.shortfalls(metrics)
    assert (shortfalls == ()) == met
    assert met or shortfalls[0].startswith(f"{metric} ")


def test_staging_needs_an_evaluation_that_meets_the_criteria_of_now(running: Catalogue) -> None:
    require(running, ACCURATE, QUICK)
    registry.promote(running.stub, "1")
    to_staging = partial(registry.promote, running.stub, "1", pb.STAGE_STAGING)
    assert refused(to_staging)[:2] == (PRECONDITION, "EVALUATION_REQUIRED")
    record(running, accuracy=0.5, latency_ms=99)
    with pytest.raises(grpc.RpcError, match=r"accuracy is 0\.5; .*; latency_ms is 99\.0; it must be at most 20"):
        to_staging()
    assert refused(to_staging)[:2] == (PRECONDITION, "CRITERIA_NOT_MET")
    record(running, accuracy=0.95, latency_ms=9)
    record(running, accuracy=0.5, latency_ms=9)
    assert refused(to_staging)[1] == "CRITERIA_NOT_MET"  # the latest counts, not the best
    require(running, QUICK)
    assert to_staging().stage == pb.STAGE_STAGING

    registry.promote(running.stub, "1", pb.STAGE_ARCHIVED)
    require(running, ACCURATE)
    assert refused(to_staging)[1] == "CRITERIA_NOT_MET"  # from ARCHIVED as well
    require(running)
    assert to_staging().stage == pb.STAGE_STAGING


def test_a_version_that_could_not_be_tried_is_not_let_through_for_an_older_evaluation(running: Catalogue) -> None:
    require(running, ACCURATE)
    registry.promote(running.stub, "1")
    to_staging = partial(registry.promote, running.stub, "1", pb.STAGE_STAGING)
    assert record(running, accuracy=0.95).passed
    failure = "version 1 does not load (MODEL_BROKEN)"
    tried = pb.RecordEvaluationRequest(model="iris", version="1", failure=failure, metrics={"accuracy": 1})
    failed = running.stub.RecordEvaluation(tried, timeout=DEADLINE_S).evaluation
    assert (failed.passed, failed.failure, list(failed.shortfalls)) == (False, failure, [failure])
    bare = pb.RecordEvaluationRequest(model="iris", version="1", failure=failure)
    without = running.stub.RecordEvaluation(bare, timeout=DEADLINE_S).evaluation
    assert list(without.shortfalls) == [failure, "accuracy was not measured; it must be at least 0.9"]
    assert listed(running)[:2] == [without, failed]
    with pytest.raises(grpc.RpcError, match="does not load") as refusal:
        to_staging()
    assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    record(running, accuracy=0.95)
    assert to_staging().stage == pb.STAGE_STAGING


def test_what_is_in_staging_goes_on_and_a_rollback_asks_no_criteria(running: Catalogue) -> None:
    catalogue.register(running.stub, "2")
    registry.go_live(running.stub, "1")
    for stage in (pb.STAGE_CANDIDATE, pb.STAGE_STAGING):
        registry.promote(running.stub, "2", stage)
    require(running, ACCURATE)
    registry.promote(running.stub, "2", pb.STAGE_PRODUCTION)
    rolled_back = running.stub.RollbackModel(pb.RollbackModelRequest(model="iris", **registry.APPROVED))
    assert (rolled_back.version.version, rolled_back.version.stage) == ("1", pb.STAGE_PRODUCTION)


@pytest.mark.slow
def test_a_registration_that_asks_for_more_stays_below_staging_until_the_criteria_are_met(running: Catalogue) -> None:
    require(running, ACCURATE)
    asked = {"stage": pb.STAGE_PRODUCTION, **registry.APPROVED}
    assert catalogue.register(running.stub, "2", **asked).stage == pb.STAGE_CANDIDATE
    validated = registry.register(running.stub, models.linear(), version="3", **asked)
    assert (validated.state, validated.stage) == (pb.VERSION_STATE_READY, pb.STAGE_CANDIDATE)
    require(running)
    assert catalogue.register(running.stub, "4", **asked).stage == pb.STAGE_PRODUCTION


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"metrics": {}}, "INVALID_METRIC", "metrics"),
        ({"metrics": {"a": float("nan")}}, "INVALID_METRIC", "metrics[a]"),
        ({"metrics": {"a": float("-inf")}}, "INVALID_METRIC", "metrics[a]"),
        ({"metrics": {" ": 1}}, "INVALID_METRIC", "metrics"),
        ({"metrics": {"a" * 129: 1}}, "INVALID_TEXT", "metrics"),
        ({"metrics": {f"m{n}": 1 for n in range(257)}}, "TOO_MANY", "metrics"),
        ({"dataset": "x" * 257}, "INVALID_TEXT", "dataset"),
        ({"note": "x" * 4_097}, "INVALID_TEXT", "note"),
        ({"failure": "x" * 4_097}, "INVALID_TEXT", "failure"),
        ({"metrics": {}, "failure": " "}, "INVALID_METRIC", "metrics"),
        ({"request_id": "x" * 129}, "INVALID_TEXT", "request_id"),
        ({"version": "a/b"}, "INVALID_NAME", "version"),
    ],
)
def test_a_bad_evaluation_names_its_field(running: Catalogue, fields: dict[str, Any], reason: str, field: str) -> None:
    request = pb.RecordEvaluationRequest(**{"model": "iris", "version": "1", "metrics": {"a": 1}, **fields})
    assert refused(partial(running.stub.RecordEvaluation, request)) == (INVALID, reason, [field])
    assert listed(running) == []


def test_the_same_request_makes_one_evaluation(running: Catalogue) -> None:
    first = record(running, request_id="a", accuracy=1, latency_ms=2)
    require(running, QUICK)
    assert record(running, request_id="a", latency_ms=2, accuracy=1) == first
    assert refused(partial(record, running, request_id="a", accuracy=2))[:2] == (PRECONDITION, "REQUEST_ID_REUSED")
    assert record(running, request_id="b", accuracy=1, latency_ms=2).id > first.id
    assert len(listed(running)) == 2


def test_evaluations_come_in_pages_of_a_model_or_of_a_version(running: Catalogue) -> None:
    catalogue.register(running.stub, "2")
    made = [record(running, version, accuracy=number).id for number, version in enumerate("121212")]
    assert [found.id for found in listed(running)] == made[::-1]
    first = running.stub.ListEvaluations(pb.ListEvaluationsRequest(model="iris", version="2", page_size=2))
    assert [found.id for found in first.evaluations] == [made[5], made[3]]
    rest = listed(running, version="2", page_size=2, page_token=first.next_page_token)
    assert [found.id for found in rest] == [made[1]]
    misled = partial(listed, running, version="1", page_token=first.next_page_token)
    assert refused(misled) == (INVALID, "INVALID_PAGE_TOKEN", ["page_token"])


def test_what_is_not_there_is_not_evaluated(running: Catalogue) -> None:
    assert refused(partial(record, running, "9", accuracy=1))[:2] == (NOT_FOUND, "VERSION_NOT_FOUND")
    missing = pb.RecordEvaluationRequest(model="nosuch", version="1", metrics={"a": 1})
    assert refused(partial(running.stub.RecordEvaluation, missing))[:2] == (NOT_FOUND, "MODEL_NOT_FOUND")
    assert refused(partial(listed, running, version="9"))[:2] == (NOT_FOUND, "VERSION_NOT_FOUND")
    nowhere = pb.ListEvaluationsRequest(model="nosuch")
    assert refused(partial(running.stub.ListEvaluations, nowhere))[:2] == (NOT_FOUND, "MODEL_NOT_FOUND")


@pytest.mark.parametrize(
    "change", ["UPDATE registry.evaluations SET passed = true", "DELETE FROM registry.evaluations"]
)
def test_an_evaluation_never_changes(running: Catalogue, change: str) -> None:
    record(running, accuracy=1)
    with psycopg.connect(running.database_url) as database, pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.execute(change)
