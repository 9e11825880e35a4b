"""Batch predictions through kill -9, a database that goes away, limits and a drain: each row is there once."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

import penstock
from penstock.api.inference.v1 import prediction_jobs_pb2 as pb
from tests import predictions
from tests.faults.proxy import Proxy
from tests.postgres import PostgresServer
from tests.predictions import JobsProcess, Place, lines_of, write_rows
from tests.registry import wait_until

pytestmark = pytest.mark.slow
SLOW = {"job_chunk_rows": 8, "job_batch_rows": 1, "job_lease_ms": 2_000, "job_workers": 1}
PATIENT = {"job_lease_ms": 30_000, "drain_grace_ms": 20_000}
"""On a busy machine a worker that lives may lose a short lease, and an attempt counts: where leases are short, more
attempts than are meant may be counted."""
ROW_COUNT = 1_500
WAIT_S = 120.0
Start = Callable[..., JobsProcess]


@pytest.fixture
def here(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Place]:
    with predictions.place(postgres_server, tmp_path) as place:
        yield place


@pytest.fixture
def start(here: Place) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(**more: object) -> JobsProcess:
            number = len(list(here.folder.glob("jobs-cache*")))
            own = {"cache_dir": f"{here.folder}/jobs-cache-{number}", "database_url": here.database_url}
            process = JobsProcess(here, **{**SLOW, **own, **more})
            stack.callback(process.end, signal.SIGKILL)
            return process

        yield begin


def many(folder: Path) -> Path:
    return write_rows(folder / "many.jsonl", [{"X": [float(number), 0, 0, 0]} for number in range(ROW_COUNT)])


def under_way(client: penstock.Client, job: pb.PredictionJob) -> pb.PredictionJob:
    """Wait until some of it is safe, and not all."""

    def look() -> pb.PredictionJob | None:
        found = client.jobs.get(job.id)
        assert found.state in (pb.JOB_STATE_QUEUED, pb.JOB_STATE_RUNNING), found
        return found if found.progress.done_rows > 50 else None

    return wait_until(look)


def chunks_of(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM inference.prediction_chunks").fetchone()
    return int(row[0]) if row else 0


def assert_every_row_once(client: penstock.Client, job: pb.PredictionJob, folder: Path) -> None:
    assert (job.result.row_count, job.result.failed_row_count) == (ROW_COUNT, 0)
    lines = lines_of(client, job, folder)
    assert [line["row_index"] for line in lines] == list(range(ROW_COUNT))
    places = [(line["inference_id"], line["inference_row"]) for line in lines]
    assert len({*places}) == ROW_COUNT
    said = [json.dumps(line["outputs"]) for line in lines]
    again = client.jobs.wait(client.jobs.create("iris", rows=[{"X": [1_234.0, 0, 0, 0]}]).id, timeout_s=WAIT_S)
    assert json.dumps(lines_of(client, again, folder)[0]["outputs"]) == said[1_234], "the right row, too"


def assert_every_row_counted_once(client: penstock.Client, job_id: str) -> None:
    last = client.jobs.create("iris", rows=[{"X": [0.0, 0, 0, 0]}])  # told after all of them
    wait_until(lambda: list(client.monitoring.list_inferences(session_id=last.id)) or None)
    events = client.monitoring.list_inferences(session_id=job_id, limit=None)
    assert sum(each.event.row_count for each in events) == ROW_COUNT


def test_a_worker_killed_in_mid_job_is_taken_over_where_it_stood(here: Place, start: Start, tmp_path: Path) -> None:
    first = start()
    with predictions.connected(here, first.address()) as client:
        job = client.jobs.create("iris", file=many(tmp_path))
        seen = under_way(client, job)
        first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    safe = chunks_of(here.database_url)
    assert safe
    second = start(job_lease_ms=10_000)
    with predictions.connected(here, second.address()) as client:
        ended = client.jobs.wait(job.id, timeout_s=WAIT_S)
        assert ended.state == pb.JOB_STATE_COMPLETED, ended
        assert ended.attempt_count > seen.attempt_count
        assert ended.worker_id not in ("", seen.worker_id)
        assert_every_row_once(client, ended, tmp_path)
        # The killed one is seen to be gone.
        wait_until(lambda: sum(not worker.live for worker in client.jobs.workers()) == 1 or None)


def test_a_worker_that_is_told_to_end_hands_its_job_on_uncounted(here: Place, start: Start, tmp_path: Path) -> None:
    first = start(**PATIENT)
    with predictions.connected(here, first.address()) as client:
        job = client.jobs.create("iris", file=many(tmp_path))
        under_way(client, job)
        assert first.end() == 0
    second = start(**PATIENT)
    with predictions.connected(here, second.address()) as client:
        ended = client.jobs.wait(job.id, timeout_s=WAIT_S)
        assert (ended.state, ended.attempt_count) == (pb.JOB_STATE_COMPLETED, 1)
        assert_every_row_once(client, ended, tmp_path)


def test_a_frozen_worker_that_wakes_up_late_spoils_nothing(here: Place, start: Start, tmp_path: Path) -> None:
    first, second = start(), start(job_workers=0)
    with predictions.connected(here, second.address()) as client:
        first.address()
        job = client.jobs.create("iris", file=many(tmp_path))
        seen = under_way(client, job)
        first.process.send_signal(signal.SIGSTOP)
        third = start(**PATIENT)
        third.address()
        wait_until(lambda: client.jobs.get(job.id).attempt_count > seen.attempt_count or None)
        first.process.send_signal(signal.SIGCONT)
        ended = client.jobs.wait(job.id, timeout_s=WAIT_S)
        assert ended.state == pb.JOB_STATE_COMPLETED, ended
        assert_every_row_once(client, ended, tmp_path)


def test_a_database_that_is_cut_off_for_longer_than_a_lease_costs_an_attempt_and_no_row(
    here: Place, start: Start, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    with Proxy(postgres_server.port) as proxy:
        url = here.database_url.replace(f":{postgres_server.port}", f":{proxy.port}")
        assert url != here.database_url
        process = start(database_url=url, job_lease_ms=5_000)
        with predictions.connected(here, process.address()) as client:
            job = client.jobs.create("iris", file=many(tmp_path))
            seen = under_way(client, job)
            proxy.cut()
            late = "SELECT 1 FROM inference.prediction_jobs WHERE lease_expire_time < clock_timestamp()"
            with psycopg.connect(here.database_url, autocommit=True) as eyes:
                wait_until(lambda: eyes.execute(late).fetchone())
            proxy.heal()
            ended = wait_until(lambda: found(client, job.id))
            assert ended.state == pb.JOB_STATE_COMPLETED, ended
            assert ended.attempt_count > seen.attempt_count
            assert_every_row_once(client, ended, tmp_path)


def found(client: penstock.Client, job_id: str) -> pb.PredictionJob | None:
    try:
        job = client.jobs.wait(job_id, timeout_s=1)
    except penstock.Unavailable:
        return None
    return job if job.state in (pb.JOB_STATE_COMPLETED, pb.JOB_STATE_FAILED) else None


def test_what_a_soft_limit_or_a_cancellation_leaves_is_gone_on_with_at_the_next_try(
    here: Place, start: Start, tmp_path: Path
) -> None:
    process = start(**PATIENT, job_chunk_rows=64)  # so that an end leaves rows that are predicted and not safe
    with predictions.connected(here, process.address()) as client:
        job = client.jobs.create("iris", file=many(tmp_path), soft_limit_s=0.5)
        ended = client.jobs.wait(job.id, timeout_s=WAIT_S)
        kept = [chunks_of(here.database_url)]
        for _ in range(200):
            if ended.state == pb.JOB_STATE_COMPLETED:
                break
            assert (ended.state, ended.error.reason) == (pb.JOB_STATE_FAILED, "SOFT_LIMIT"), ended.error
            client.jobs.retry(job.id)
            ended = client.jobs.wait(job.id, timeout_s=WAIT_S)
            kept.append(chunks_of(here.database_url))
        assert ended.state == pb.JOB_STATE_COMPLETED
        assert kept[:-1] == sorted(kept[:-1]), "nothing that was safe is lost"
        assert_every_row_once(client, ended, tmp_path)
        assert_every_row_counted_once(client, job.id)
        other = client.jobs.create("iris", file=many(tmp_path))
        under_way(client, other)
        client.jobs.cancel(other.id)
        assert client.jobs.wait(other.id, timeout_s=WAIT_S).state == pb.JOB_STATE_CANCELLED
        client.jobs.retry(other.id)
        ended = client.jobs.wait(other.id, timeout_s=WAIT_S)
        assert_every_row_once(client, ended, tmp_path)


def test_a_hard_limit_ends_a_job_whatever_its_worker_does(here: Place, start: Start, tmp_path: Path) -> None:
    process = start()
    with predictions.connected(here, process.address()) as client:
        job = client.jobs.create("iris", file=many(tmp_path), hard_limit_s=0.3)
        ended = client.jobs.wait(job.id, timeout_s=WAIT_S)
        assert (ended.state, ended.error.reason) == (pb.JOB_STATE_FAILED, "HARD_LIMIT"), ended
        small = client.jobs.create("iris", rows=[{"X": [1.0, 0, 0, 0]}])
        assert client.jobs.wait(small.id, timeout_s=WAIT_S).state == pb.JOB_STATE_COMPLETED, "and the next one is done"
