"""Datasets by name: prediction jobs and reference profiles read them from the trainer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import penstock
from penstock.api.inference.v1 import prediction_jobs_pb2 as jobs_pb
from penstock.profiles import Columns
from tests import predictions
from tests.datasets import Shelf, shelf
from tests.postgres import PostgresServer
from tests.predictions import Place, done, lines_of
from tests.services import running_monitoring
from tests.testdata import models

NAMES = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
ROWS = [
    {**{name: float(number + place) for place, name in enumerate(NAMES)}, "label": number % 3, "at": "2026-01-31"}
    for number in range(60)
]


@pytest.fixture(scope="module")
def trainer(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    with shelf(postgres_server.clone("trainer"), tmp_path_factory.mktemp("datasets")) as here:
        types = dict.fromkeys(NAMES, "FLOAT64")
        here.client.datasets.upload("flowers", [ROWS[0]], column_types=types)
        here.client.datasets.upload("flowers", ROWS, column_types=types)
        yield here


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with predictions.place(postgres_server, tmp_path_factory.mktemp("jobs")) as here:
        with penstock.Client(registry=here.registry.address) as client:
            client.registry.register_version(
                "flowers", "1", models.classifier(), framework="onnx", columns=NAMES, wait=True
            )
        yield here


def test_a_job_reads_a_dataset_by_name(place: Place, trainer: Shelf, tmp_path: Path) -> None:
    with (
        predictions.serving(place, trainer_address=trainer.address) as service,
        predictions.connected(place, service.address) as client,
    ):
        job = done(client, client.jobs.create("flowers", file=jobs_pb.FileInput(uri="dataset:flowers")))
        assert (job.state, job.progress.total_rows) == (jobs_pb.JOB_STATE_COMPLETED, 60), job.error
        kept = trainer.client.datasets.get("flowers", 2)
        assert (job.input.uri, job.input.sha256) == ("dataset:flowers/2", kept.digest)
        lines = lines_of(client, job, tmp_path)
        assert len(lines) == 60
        assert not any(line.get("error") for line in lines), "the label and the time are not the model's"
        rows = [{name: row[name] for name in NAMES} for row in ROWS]
        asked = lines_of(client, done(client, client.jobs.create("flowers", rows=rows)), tmp_path)
        np.testing.assert_allclose(
            [line["outputs"]["probabilities"] for line in lines],
            [line["outputs"]["probabilities"] for line in asked],
        )
        one = done(client, client.jobs.create("flowers", file=jobs_pb.FileInput(uri="dataset:flowers/1")))
        assert one.progress.total_rows == 1
        for uri, kind, reason in (
            ("dataset:nowhere", penstock.NotFound, "DATASET_NOT_FOUND"),
            ("dataset:flowers/9", penstock.NotFound, "DATASET_VERSION_NOT_FOUND"),
            ("dataset:../x", penstock.InvalidArgument, "INVALID_NAME"),
        ):
            with pytest.raises(kind) as caught:
                client.jobs.create("flowers", file=jobs_pb.FileInput(uri=uri))
            assert caught.value.reason == reason


def test_without_a_trainer_a_dataset_is_refused_with_what_to_set(place: Place) -> None:
    with (
        predictions.serving(place) as service,
        predictions.connected(place, service.address) as client,
        pytest.raises(penstock.FailedPrecondition, match="PENSTOCK_TRAINER_ADDRESS") as caught,
    ):
        client.jobs.create("flowers", file=jobs_pb.FileInput(uri="dataset:flowers"))
    assert caught.value.reason == "TRAINER_NOT_CONFIGURED"


def test_a_reference_profile_is_made_of_a_dataset_by_name(
    postgres_server: PostgresServer, place: Place, trainer: Shelf
) -> None:
    others = {"registry_address": place.registry.address, "trainer_address": trainer.address}
    with (
        running_monitoring(postgres_server.clone("monitoring"), **others) as service,
        penstock.Client(monitoring=service.address) as client,
    ):
        profiles = client.monitoring.profiles
        made = profiles.create_from_uri("flowers", "1", "dataset:flowers", columns=Columns(label="label"))
        assert made.row_count == 60
        assert sorted(feature.name for feature in made.features) == sorted(NAMES), "no feature is a time"
        assert made.source.file.uri == "dataset:flowers/2"
        assert made.source.file.sha256 == trainer.client.datasets.get("flowers", 2).digest
        ignored = profiles.create_from_uri(
            "flowers", "1", "dataset:flowers/2", columns=Columns(ignored=["at", "label"])
        )
        assert len(ignored.features) == 4
        with pytest.raises(penstock.NotFound) as caught:
            profiles.create_from_uri("flowers", "1", "dataset:nowhere")
        assert caught.value.reason == "DATASET_NOT_FOUND"
