"""Batch predictions as callers meet them: a real registry, monitoring and jobs process, through the SDK."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import penstock
from penstock.api.inference.v1 import prediction_jobs_pb2 as pb
from services.common.errors import InvalidArgument
from services.inference.features import from_features
from services.inference.jobs import batches
from tests import predictions
from tests.inference import metrics_page
from tests.postgres import PostgresServer
from tests.predictions import ROWS, Place, done, lines_of, write_rows
from tests.registry import wait_until
from tests.services import Running
from tests.testdata import models

pytestmark = pytest.mark.slow
COLUMNS = ["sepal_length", "sepal_width", "petal_length", "petal_width"]


@pytest.fixture(scope="module")
def here(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with predictions.place(postgres_server, tmp_path_factory.mktemp("jobs")) as place:
        with penstock.Client(registry=place.registry.address) as client:
            client.registry.register_version(
                "flowers", "1", models.classifier(), framework="onnx", columns=COLUMNS, wait=True
            )
        yield place


@pytest.fixture(scope="module")
def service(here: Place) -> Iterator[Running]:
    roots = f"file://{here.folder}/allowed"
    (here.folder / "allowed").mkdir()
    with predictions.serving(here, job_input_roots=roots, job_batch_rows=4, job_chunk_rows=6) as jobs:
        yield jobs


@pytest.fixture(scope="module")
def client(here: Place, service: Running) -> Iterator[penstock.Client]:
    with predictions.connected(here, service.address) as connected:
        yield connected


def expected(rows: list[list[float]]) -> Any:
    """What the model says, by numpy alone: its weights are drawn from a seed."""
    generator = np.random.default_rng(0)
    weights, bias = generator.standard_normal((4, 3)).astype(np.float32), generator.standard_normal(3)
    scores = np.asarray(rows, np.float32) @ weights + bias.astype(np.float32)
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def test_rows_in_the_call_become_a_result_with_a_row_for_each(client: penstock.Client, tmp_path: Path) -> None:
    job = done(client, client.jobs.create("iris", rows=ROWS))
    assert job.state == pb.JOB_STATE_COMPLETED, job
    assert (job.progress.done_rows, job.progress.total_rows, job.resolved_version) == (10, 10, "1.0.0")
    assert (job.attempt_count, job.result.row_count, job.result.failed_row_count) == (1, 10, 0)
    assert job.worker_id
    assert job.inference_time_ms >= 0
    lines = lines_of(client, job, tmp_path)
    assert [line["row_index"] for line in lines] == list(range(10))
    said = [line["outputs"]["probabilities"] for line in lines]
    np.testing.assert_allclose(said, expected([row["X"] for row in ROWS]), rtol=1e-4)
    assert [line["outputs"]["label"] for line in lines] == np.argmax(said, axis=1).tolist()


def test_one_request_gives_a_row_for_each_of_its_rows(client: penstock.Client, tmp_path: Path) -> None:
    array = np.asarray([row["X"] for row in ROWS], np.float32)
    for job in (
        client.jobs.create("iris", tensors={"X": array}, outputs=["label"]),
        client.jobs.create("iris", features={"X": array.tolist()}, outputs=["label"]),
    ):
        lines = lines_of(client, done(client, job), tmp_path)
        labels = np.argmax(expected(array.tolist()), axis=1).tolist()
        assert [line["outputs"] for line in lines] == [{"label": label} for label in labels]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_file_of_columns_is_predicted_row_by_row(client: penstock.Client, tmp_path: Path, suffix: str) -> None:
    rows = [{name: float(number + place) for place, name in enumerate(COLUMNS)} for number in range(9)]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        write_rows(path, rows)
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    job = done(client, client.jobs.create("flowers", file=path, output_format=suffix))
    assert (job.state, job.progress.total_rows) == (pb.JOB_STATE_COMPLETED, 9), job.error
    target = tmp_path / f"result.{suffix}"
    result = client.jobs.download(job.id, target)
    assert hashlib.sha256(target.read_bytes()).hexdigest() == result.sha256
    np.testing.assert_allclose(probabilities(target), expected([list(row.values()) for row in rows]), rtol=1e-4)


def probabilities(path: Path) -> list[list[float]]:
    if path.suffix == ".jsonl":
        return [json.loads(line)["outputs"]["probabilities"] for line in path.read_text().splitlines()]
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        assert table.column("row_index").to_pylist() == list(range(9))
        found: list[list[float]] = table.column("output.probabilities").to_pylist()
        return found
    with path.open(newline="") as file:
        return [json.loads(row["output.probabilities"]) for row in csv.DictReader(file)]


def test_a_bad_row_fails_by_itself_and_keeps_its_place(client: penstock.Client, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = json.dumps(ROWS[0])
    path.write_text("\n".join([good, "{no json", '{"X": "text"}', "[]", '{"Z": 1}', '{"X": [1, 2]}', "", good]) + "\n")
    job = done(client, client.jobs.create("iris", file=path))
    assert job.state == pb.JOB_STATE_COMPLETED
    assert (job.result.row_count, job.result.failed_row_count) == (7, 5)
    lines = lines_of(client, job, tmp_path)
    assert [line.get("error", {}).get("reason") for line in lines] == [
        None, "MALFORMED_ROW", "DATATYPE_MISMATCH", "MALFORMED_ROW", "MISSING_INPUT", "DIMENSION_MISMATCH", None,
    ]  # fmt: skip
    assert [line["row_index"] for line in lines] == list(range(7))


def test_more_bad_rows_than_may_be_fail_the_job(client: penstock.Client) -> None:
    rows: list[dict[str, Any]] = [*ROWS[:3], {"X": "bad"}, {"X": "bad"}]
    assert done(client, client.jobs.create("iris", rows=rows, max_failed_rows=2)).state == pb.JOB_STATE_COMPLETED
    job = done(client, client.jobs.create("iris", rows=rows, max_failed_rows=1))
    assert (job.state, job.error.reason) == (pb.JOB_STATE_FAILED, "TOO_MANY_FAILED_ROWS")
    job = done(client, client.jobs.create("iris", rows=[{"X": "bad"}]))
    assert (job.state, job.error.reason) == (pb.JOB_STATE_FAILED, "ALL_ROWS_FAILED")
    assert "DATATYPE_MISMATCH" in job.error.message


def test_predictions_leave_events_that_name_the_job_and_take_feedback(client: penstock.Client, tmp_path: Path) -> None:
    job = done(client, client.jobs.create("iris", rows=ROWS[:4], user_id="ada"))
    line = lines_of(client, job, tmp_path)[2]
    events = wait_until(lambda: list(client.monitoring.list_inferences(session_id=job.id)) or None)
    assert [(each.event.row_count, each.event.request_id, each.event.user_id) for each in events] == [
        (4, job.id, "ada")
    ]
    client.monitoring.record_feedback(line["inference_id"], row=line["inference_row"], actual_outcome=0)
    silent = done(client, client.jobs.create("iris", rows=ROWS[:4], record_events=False))
    assert "inference_id" not in lines_of(client, silent, tmp_path)[0]
    assert not list(client.monitoring.list_inferences(session_id=silent.id))


def test_a_retry_predicts_the_rows_that_failed_and_counts_no_other_twice(
    client: penstock.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of eleven rows two are refused as long as `bad` says so, in the second and in the third batch of four."""
    bad = {7, 9}

    def refusing(row: Any, signature: Any) -> Any:
        if row["X"][3] in bad:
            raise InvalidArgument("not yet", reason="NOT_YET")
        return from_features(row, signature)

    monkeypatch.setattr(batches, "from_features", refusing)
    job = done(client, client.jobs.create("iris", rows=[{"X": [1, 2, 3, n]} for n in range(11)], max_failed_rows=1))
    for failed in (2, 1):
        assert (job.error.reason, job.progress.failed_rows) == ("TOO_MANY_FAILED_ROWS", 2)
        assert job.progress.done_rows == 11, "what was done is kept"
        bad -= {7} if failed == 1 else set()
        client.jobs.retry(job.id)
        job = done(client, job)
    assert (job.state, job.result.failed_row_count) == (pb.JOB_STATE_COMPLETED, 1), job.error
    lines = lines_of(client, job, tmp_path)
    assert [line["row_index"] for line in lines if "outputs" in line] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10]
    said = [line["outputs"]["probabilities"] for line in lines if "outputs" in line]
    np.testing.assert_allclose(said, expected([[1, 2, 3, n] for n in range(11) if n != 9]), rtol=1e-4)

    last = done(client, client.jobs.create("iris", rows=ROWS[:1]))  # told after them
    wait_until(lambda: list(client.monitoring.list_inferences(session_id=last.id)) or None)
    events = list(client.monitoring.list_inferences(session_id=job.id))
    assert sum(each.event.row_count for each in events) == 10


def test_a_job_that_has_not_ended_says_so_and_can_be_cancelled_tried_again_and_deleted(
    client: penstock.Client, tmp_path: Path
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    created = client.jobs.create("iris", rows=ROWS, due_time=later)
    assert created.state == pb.JOB_STATE_PENDING
    assert client.jobs.wait(created.id, timeout_s=0.05).state == pb.JOB_STATE_PENDING
    for refused in (client.jobs.retry, client.jobs.delete, lambda job: client.jobs.download(job, tmp_path / "none")):
        with pytest.raises(penstock.FailedPrecondition) as error:
            refused(created.id)
        assert error.value.reason == "WRONG_STATE"
    assert not list(tmp_path.iterdir()), "nothing half-written is left behind"
    assert client.jobs.cancel(created.id).state == pb.JOB_STATE_CANCELLED
    assert client.jobs.cancel(created.id).state == pb.JOB_STATE_CANCELLED
    assert client.jobs.retry(created.id).state == pb.JOB_STATE_QUEUED
    assert done(client, created).state == pb.JOB_STATE_COMPLETED
    with pytest.raises(penstock.FailedPrecondition):
        client.jobs.cancel(created.id)
    client.jobs.delete(created.id)
    with pytest.raises(penstock.NotFound):
        client.jobs.get(created.id)


def test_a_watch_gives_a_job_until_it_has_ended(client: penstock.Client) -> None:
    created = client.jobs.create("iris", rows=ROWS)
    with closing(client.jobs.watch(created.id)) as seen:
        states = [job.state for job in seen]
    assert states[-1] == pb.JOB_STATE_COMPLETED
    assert states == sorted(states), "QUEUED, RUNNING, COMPLETED: never back"


def test_jobs_are_listed_by_state_and_model_page_by_page(client: penstock.Client) -> None:
    made = [done(client, client.jobs.create("flowers", rows=[dict.fromkeys(COLUMNS, 1.0)])).id for _ in range(3)]
    listed = [job.id for job in client.jobs.list(model="flowers", page_size=2)]
    assert listed[:3] == made[::-1]
    assert {job.model for job in client.jobs.list(model="flowers")} == {"flowers"}
    assert {job.state for job in client.jobs.list(states=["failed"])} <= {pb.JOB_STATE_FAILED}


def test_the_same_request_makes_one_job(client: penstock.Client) -> None:
    first = client.jobs.create("iris", rows=ROWS, request_id="once")
    assert client.jobs.create("iris", rows=ROWS, request_id="once").id == first.id
    with pytest.raises(penstock.FailedPrecondition) as refused:
        client.jobs.create("iris", rows=ROWS[:1], request_id="once")
    assert refused.value.reason == "REQUEST_ID_REUSED"


def test_a_file_is_read_where_the_setting_allows_it_and_nowhere_else(
    client: penstock.Client, here: Place, tmp_path: Path
) -> None:
    inside = write_rows(here.folder / "allowed" / "rows.jsonl", ROWS)
    outside = write_rows(tmp_path / "rows.jsonl", ROWS)
    (here.folder / "allowed" / "link.jsonl").symlink_to(outside)
    sha256 = hashlib.sha256(inside.read_bytes()).hexdigest()

    def ask(uri: str, sha256: str = sha256) -> pb.PredictionJob:
        file = pb.FileInput(uri=uri, sha256=sha256, format=pb.FILE_FORMAT_JSONL)
        return client.jobs.create("iris", file=file)

    assert done(client, ask(inside.as_uri())).state == pb.JOB_STATE_COMPLETED
    for uri in (
        outside.as_uri(),
        f"file://{here.folder}/allowed/../x",
        f"file://{here.folder}/allowed/link.jsonl",
        "file:///etc/passwd",
        "s3://bucket/key",
        "http://127.0.0.1/x",
        "penstock:",
    ):
        with pytest.raises(penstock.InvalidArgument) as refused:
            ask(uri)
        assert refused.value.reason == "URI_NOT_ALLOWED", uri
    job = done(client, ask(inside.as_uri(), "0" * 64))
    assert (job.state, job.error.reason) == (pb.JOB_STATE_FAILED, "DIGEST_MISMATCH")
    with pytest.raises(penstock.NotFound) as unknown:
        ask("penstock://inputs/00000000-0000-0000-0000-000000000000")
    assert unknown.value.reason == "INPUT_NOT_FOUND"
    uploaded = client.jobs.upload(outside)
    with pytest.raises(penstock.InvalidArgument) as other:
        ask(uploaded.uri, "0" * 64)
    assert other.value.reason == "DIGEST_MISMATCH"


Bad = Callable[[penstock.Client], Any]


@pytest.mark.parametrize(
    ("reason", "ask"),
    [
        ("INPUT_REQUIRED", lambda client: client.jobs.create("iris", rows=[])),
        ("INPUT_REQUIRED", lambda client: client.jobs.create("iris")),
        ("TOO_MANY_ROWS", lambda client: client.jobs.create("iris", rows=[{}] * 10_001)),
        ("TOO_LARGE", lambda client: client.jobs.create("iris", rows=[{"X": "x" * 1_000_000}] * 5)),
        ("OUT_OF_BOUNDS", lambda client: client.jobs.create("iris", rows=ROWS, priority=10)),
        ("OUT_OF_BOUNDS", lambda client: client.jobs.create("iris", rows=ROWS, soft_limit_s=-1)),
        ("INVALID_FIELD", lambda client: client.jobs.create("", rows=ROWS)),
        ("INVALID_PAGE_TOKEN", lambda client: list(client.jobs.list(page_size=-1))),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_reason(client: penstock.Client, reason: str, ask: Bad) -> None:
    with pytest.raises(penstock.InvalidArgument) as refused:
        ask(client)
    assert refused.value.reason in (reason, "INVALID_PAGE_SIZE")


def test_a_model_that_there_is_not_fails_the_job_with_the_reason(client: penstock.Client) -> None:
    job = done(client, client.jobs.create("nobody", rows=ROWS))
    assert (job.state, job.error.reason, job.attempt_count) == (pb.JOB_STATE_FAILED, "MODEL_NOT_FOUND", 1)


def test_a_file_that_is_none_of_its_format_fails_the_job(client: penstock.Client, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 and nothing more PAR1")
    job = done(client, client.jobs.create("iris", file=path))
    assert (job.state, job.error.reason) == (pb.JOB_STATE_FAILED, "INPUT_UNREADABLE")


def test_workers_and_counts_are_seen(client: penstock.Client, service: Running) -> None:
    done(client, client.jobs.create("iris", rows=ROWS))
    (worker,) = wait_until(client.jobs.workers)
    assert (worker.live, worker.slot_count) == (True, 2)
    page = metrics_page(service)
    assert page['penstock_jobs{state="completed"}'] >= 1
    assert page['penstock_job_rows_total{outcome="ok"}'] >= 10
    assert page['penstock_job_workers{live="true"}'] == 1
    assert page["penstock_job_queue_age_seconds"] >= 0
