"""Whose jobs are whose, and what is forgotten: with keys, a clock that is moved, and blobs that nothing names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import psycopg
import pytest
from pydantic import SecretStr

import penstock
from penstock.api.inference.v1 import prediction_jobs_pb2 as pb
from penstock.cli.keys_file import KeysFile, Role
from services.common.blobs import BlobStore
from services.common.errors import FailedPrecondition, Unavailable
from services.common.jobs import JobFilters, JobStore
from services.common.jobs.housekeeping import DAY_S, Housekeeping, Kept
from services.common.postgres import Database
from services.inference.jobs.settings import JobsSettings
from services.inference.jobs.storage import SCHEMA, TABLE, open_inference_blobs
from services.inference.jobs.store.files import FileStore
from tests import predictions
from tests.inference import metrics_page
from tests.postgres import PostgresServer
from tests.predictions import ROWS, Place, done, write_rows

pytestmark = pytest.mark.slow
KEPT = Kept(jobs_s=30 * DAY_S, files_s=7 * DAY_S, blob_grace_s=DAY_S)


@pytest.fixture(scope="module")
def here(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with predictions.place(postgres_server, tmp_path_factory.mktemp("jobs")) as place:
        yield place


def test_a_viewer_sees_its_own_jobs_and_an_operator_all_with_tracebacks(here: Place, tmp_path: Path) -> None:
    keys = KeysFile(tmp_path / "keys.json")
    tokens = {name: keys.create(name, role)[1] for name, role in
              (("ada", Role.VIEWER), ("bob", Role.VIEWER), ("eve", Role.OPERATOR))}  # fmt: skip
    with predictions.serving(here, keys_file=tmp_path / "keys.json") as jobs:

        def client(name: str) -> penstock.Client:
            return penstock.Client(jobs=jobs.address, token=tokens[name])

        with client("ada") as ada, client("bob") as bob, client("eve") as eve:
            job = ada.jobs.create("nobody", rows=ROWS)
            uploaded = ada.jobs.upload(write_rows(tmp_path / "rows.jsonl", ROWS))
            mine = done(ada, job)
            assert (mine.error.reason, mine.error.traceback) == ("MODEL_NOT_FOUND", "")
            assert "MODEL_NOT_FOUND" in str(eve.jobs.get(job.id).error)
            assert "Traceback" in eve.jobs.get(job.id).error.traceback
            for call in (bob.jobs.get, bob.jobs.cancel, bob.jobs.retry, bob.jobs.delete):
                with pytest.raises(penstock.NotFound):
                    call(job.id)
            with pytest.raises(penstock.NotFound):
                bob.jobs.create("iris", file=uploaded)
            assert (list(bob.jobs.list()), [each.id for each in eve.jobs.list()]) == ([], [job.id])
            eve.jobs.delete(job.id)


def test_a_key_has_so_many_jobs_that_have_not_ended(here: Place) -> None:
    with (
        predictions.serving(here, job_max_unended=2, job_workers=0) as jobs,
        predictions.connected(here, jobs.address, retry=penstock.NO_RETRIES) as client,
    ):
        made = [client.jobs.create("iris", rows=ROWS) for _ in range(2)]
        with pytest.raises(penstock.ResourceExhausted) as refused:
            client.jobs.create("iris", rows=ROWS)
        assert refused.value.reason == "TOO_MANY_JOBS"
        client.jobs.cancel(made[0].id)
        client.jobs.create("iris", rows=ROWS)
        for job in client.jobs.list(states=["queued"]):
            client.jobs.cancel(job.id)


def test_a_key_uploads_no_more_without_a_job_of_it_than_it_may(here: Place, tmp_path: Path) -> None:
    first, second = (write_rows(tmp_path / f"{number}.jsonl", ROWS[number : number + 3]) for number in (6, 7))
    limit = first.stat().st_size + second.stat().st_size - 1
    with (
        predictions.serving(here, job_max_unused_input_bytes=limit, keys_file=tmp_path / "keys.json") as jobs,
        penstock.Client(
            jobs=jobs.address,
            token=KeysFile(tmp_path / "keys.json").create("zoe", Role.VIEWER)[1],
            retry=penstock.NO_RETRIES,
        ) as client,
    ):
        uploaded = client.jobs.upload(first)
        with pytest.raises(penstock.ResourceExhausted) as refused:
            client.jobs.upload(second)
        assert refused.value.reason == "TOO_MANY_INPUT_BYTES"
        client.jobs.create("iris", file=uploaded)
        client.jobs.upload(second)


def test_a_jobs_process_tells_of_its_engine_and_its_spool(here: Place) -> None:
    with predictions.serving(here) as jobs, predictions.connected(here, jobs.address) as client:
        assert done(client, client.jobs.create("iris", rows=ROWS)).state == pb.JOB_STATE_COMPLETED
        page = metrics_page(jobs)
    for name in ("penstock_spool_bytes", "penstock_spool_queued_events", "nv_inference_request_success"):
        assert any(sample.partition("{")[0] == name for sample in page), name


def test_a_jobs_process_sends_its_traces_where_it_is_told(here: Place) -> None:
    with pytest.raises(FailedPrecondition) as refused, predictions.serving(here, otlp_endpoint="nowhere"):
        pytest.fail("the end point was not looked at")
    assert refused.value.reason == "INVALID_OTLP_ENDPOINT"


def test_old_jobs_and_inputs_go_and_then_the_blobs_that_only_they_named(here: Place, tmp_path: Path) -> None:
    settings = JobsSettings.model_validate({**here.settings(), "database_url": SecretStr(here.database_url)})
    with predictions.serving(here) as jobs, predictions.connected(here, jobs.address) as client:
        kept = done(client, client.jobs.create("iris", file=write_rows(tmp_path / "kept.jsonl", ROWS[:3])))
        old = done(client, client.jobs.create("iris", file=write_rows(tmp_path / "old.jsonl", ROWS[3:])))
        unused = client.jobs.upload(write_rows(tmp_path / "unused.jsonl", ROWS[5:]))
        blobs = open_inference_blobs(settings)
        with Database(here.database_url) as database, psycopg.connect(here.database_url, autocommit=True) as hands:
            keeper = Housekeeping(
                JobStore(database, SCHEMA, TABLE),
                FileStore(database),
                blobs,
                KEPT,
                interval_s=60.0,
            )
            assert keeper.tidy() == 0
            hands.execute(
                "UPDATE inference.prediction_jobs SET end_time = end_time - interval '31 days' WHERE job_id = %s",
                [old.id],
            )
            hands.execute("UPDATE inference.prediction_inputs SET create_time = create_time - interval '8 days'")
            deleted = 0
            for _ in range(3):
                let_a_day_pass(hands)
                deleted += keeper.tidy()
        with pytest.raises(penstock.NotFound):
            client.jobs.get(old.id)
        assert deleted >= 3
        for gone in (old.result.sha256, old.input.sha256, unused.sha256):
            assert not blobs.exists(gone)
        assert_kept(client, blobs, kept, tmp_path)


def test_housekeeping_goes_on_past_a_blob_that_cannot_be_deleted_and_until_nothing_is_left(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.common.jobs.housekeeping.PAGE", 2)
    monkeypatch.setattr("services.common.blobs.store.PAGE", 2)
    tried: list[str] = []

    class Blobs:
        def delete(self, sha256: str) -> None:
            tried.append(sha256)
            if sha256.startswith("0"):
                raise Unavailable("its disk is away", reason="DOWN")

    with Database(here.database_url) as database, psycopg.connect(here.database_url, autocommit=True) as hands:
        hands.execute("DELETE FROM inference.blobs")
        hands.execute(
            "INSERT INTO inference.blobs (sha256, condemn_time, delete_time) "
            "SELECT to_char(n, '00') || n, clock_timestamp(), clock_timestamp() FROM generate_series(7, 12) n"
        )
        hands.execute("UPDATE inference.blobs SET sha256 = trim(sha256)")
        jobs = JobStore(database, SCHEMA, TABLE)
        hands.execute(
            "INSERT INTO inference.prediction_jobs (job_id, created_by, state, end_time, model, version, input_kind, "
            "output_format, record_events) SELECT gen_random_uuid(), 'old', 'FAILED', '2020-01-01', 'm', '', 'ROWS', "
            "'JSONL', false FROM generate_series(1, 5)"
        )
        keeper = Housekeeping(jobs, FileStore(database), cast(BlobStore, Blobs()), KEPT, interval_s=60.0)
        assert keeper.tidy() == 3
        assert jobs.page(JobFilters(created_by="old"), before=None, limit=10) == []
        assert len(tried) == 6
        monkeypatch.undo()
        assert len(FileStore(database).ledger.deleting()) == 3, "what failed is tried the next time"


def let_a_day_pass(hands: psycopg.Connection[tuple[object, ...]]) -> None:
    for column in ("touch_time", "condemn_time"):
        hands.execute(f"UPDATE inference.blobs SET {column} = {column} - interval '25 hours'".encode())


def assert_kept(client: penstock.Client, blobs: BlobStore, kept: pb.PredictionJob, folder: Path) -> None:
    assert blobs.exists(kept.input.sha256)
    assert len(predictions.lines_of(client, kept, folder)) == 3
    again = client.jobs.create("iris", file=folder / "old.jsonl")
    assert done(client, again).state == pb.JOB_STATE_COMPLETED, "the same bytes, sent again, are there again"
