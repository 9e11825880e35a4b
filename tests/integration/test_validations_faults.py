"""Validations that are ended, put off and taken over while they run; and live versions that cannot answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pyarrow.parquet as pq
import pytest

import penstock
from penstock.api.trainer.v1 import validations_pb2 as pb
from services.trainer.registering.registering import Registering
from tests import inference
from tests.postgres import PostgresServer
from tests.testdata import models
from tests.training import TrainingPlace, training
from tests.validating import GoesOn, flowers, registration

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingPlace]:
    """A suite whose own trainer works on nothing, with a version of `iris` and a dataset `flowers`."""
    folder = tmp_path_factory.mktemp("place")
    with training(postgres_server, folder, trainer_worker_enabled=False) as place:
        registering = Registering(partial(penstock.Client, registry=place.addresses["registry"]))
        registering.register(GoesOn(), registration(folder, "iris"), lambda _name: None)
        pq.write_table(flowers(200), folder / "flowers.parquet")
        place.client.datasets.upload("flowers", folder / "flowers.parquet")
        yield place


@contextmanager
def deaf() -> Iterator[str]:
    """An address that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def until_it_predicts(client: penstock.Client, validation_id: str) -> None:
    for each in client.validations.watch(validation_id):
        if each.message.startswith("predicting"):
            return
        assert each.state in (pb.VALIDATION_STATE_QUEUED, pb.VALIDATION_STATE_RUNNING), each.message
    raise AssertionError("it ended before it predicted")


def test_one_that_runs_is_cancelled_while_it_waits_for_an_answer(place: TrainingPlace) -> None:
    with deaf() as address, place.replica(trainer_worker_enabled=True, inference_address=address):
        asked = place.client.validations.create("iris", "1.0.0", "flowers")
        until_it_predicts(place.client, asked.id)
        assert place.client.validations.cancel(asked.id).HasField("cancel_time")
        ended = place.client.validations.wait(asked.id)
    assert ended.state == pb.VALIDATION_STATE_CANCELLED
    assert list(place.client.registry.evaluations("iris")) == []


def test_what_a_replica_leaves_another_takes_up_and_records_once(place: TrainingPlace) -> None:
    asked = place.client.validations.create("iris", "1.0.0", "flowers")
    with deaf() as address, place.replica(trainer_worker_enabled=True, inference_address=address):
        until_it_predicts(place.client, asked.id)
    assert place.client.validations.get(asked.id).state == pb.VALIDATION_STATE_QUEUED
    with place.replica(trainer_worker_enabled=True):
        done = place.client.validations.wait(asked.id)
    assert (done.state, done.passed) == (pb.VALIDATION_STATE_COMPLETED, True)
    assert [each.id for each in place.client.registry.evaluations("iris", "1.0.0")] == [done.evaluation_id]


def test_an_inference_service_that_stays_away_fails_it_after_some_tries(place: TrainingPlace) -> None:
    with place.replica(trainer_worker_enabled=True, inference_address="127.0.0.1:1"):
        ended = place.client.validations.wait(place.client.validations.create("iris", "1.0.0", "flowers").id)
    assert (ended.state, ended.reason, ended.retryable) == (pb.VALIDATION_STATE_FAILED, "INFERENCE_UNAVAILABLE", True)
    assert ended.attempt == 3
    assert not ended.HasField("passed")


def test_a_live_version_that_cannot_answer_is_no_verdict_on_the_new_one(place: TrainingPlace) -> None:
    inference.register(place.client, "iris", models.linear(), version="0.1.0")
    with place.replica(trainer_worker_enabled=True):
        asked = place.client.validations.create("iris", "1.0.0", "flowers", against="0.1.0")
        done = place.client.validations.wait(asked.id)
    assert (done.passed, done.live_version) == (True, "0.1.0")
    assert any("it was not compared with 0.1.0" in note for note in done.notes)
    assert not any(metric.HasField("difference") for metric in done.metrics)
