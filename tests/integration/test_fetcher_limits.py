"""How many fetches run at once and in which order, who runs them, what wakes them, and how long they stay."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import penstock
from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.errors import NotFound, ResourceExhausted
from services.common.jobs import Backoff, WorkerLimits
from services.fetcher import __main__ as fetcher
from services.fetcher.settings import GIBIBYTE, FetcherSettings
from tests.fetching import Place, fetching
from tests.postgres import PostgresServer
from tests.registry import wait_until
from tests.testdata import models

pytestmark = pytest.mark.slow
COMPLETED, QUEUED = pb.FETCH_JOB_STATE_COMPLETED, pb.FETCH_JOB_STATE_QUEUED


@pytest.fixture
def server(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ExitStack() as stack:
        yield Server(postgres_server, tmp_path_factory, stack)


class Server:
    """Makes places with settings of a test's own."""

    def __init__(self, postgres: PostgresServer, folders: pytest.TempPathFactory, stack: ExitStack) -> None:
        self._postgres = postgres
        self._folders = folders
        self._stack = stack

    def place(self, **more: Any) -> Place:
        return self._stack.enter_context(fetching(self._postgres, self._folders.mktemp("fetcher"), **more))

    def replica(self, place: Place, **more: Any) -> penstock.Client:
        address = self._stack.enter_context(place.replica(**more)).address
        return self._stack.enter_context(penstock.Client(fetcher=address))


def served(place: Place, name: str, **more: Any) -> str:
    """Serve a model that each job brings anew, for nothing shows that it is the same; all of them make one version."""
    return place.origin.serve(f"/{name}.onnx", models.classifier(), etag=None, **more)


def spans(place: Place, where: str = "true") -> list[tuple[datetime, datetime]]:
    """When jobs ran, in one attempt each."""
    query = f"SELECT claim_time, end_time FROM fetcher.fetch_jobs WHERE attempt = 1 AND {where}"
    return [(begin, end) for begin, end in place.rows(query)]


def most_at_once(ran: list[tuple[datetime, datetime]]) -> int:
    return max(sum(begin <= at < end for begin, end in ran) for at, _ in ran)


def test_what_is_not_said_is_three_of_each() -> None:
    defaults = {name: field.default for name, field in FetcherSettings.model_fields.items()}
    assert (defaults["fetcher_jobs"], defaults["poll_interval_ms"]) == (3, 5_000)
    assert defaults["fetcher_max_file_bytes"] == 5 * GIBIBYTE
    assert defaults["fetcher_worker_enabled"] is True
    backoff = Backoff(base_s=defaults["fetcher_backoff_ms"] / 1000)
    assert [backoff.bound_s(attempt) for attempt in (1, 2, 3)] == [5, 10, 20]


def test_limits_hold_over_two_replicas_in_all_and_for_each_host(server: Server) -> None:
    limits = {"fetcher_max_running": 2, "fetcher_max_running_per_host": 1}
    place = server.place(fetcher_allowed_hosts="127.0.0.1,localhost", **limits)
    server.replica(place)
    go_on, held = threading.Event(), list[int]()

    def hold(position: int) -> None:
        held.append(position)
        go_on.wait(60)

    here = served(place, "m", hold=hold)
    there = here.replace("127.0.0.1", "localhost")
    jobs = [place.client.fetcher.start("url", url, model=url[7]) for _ in range(4) for url in (here, there)]
    assert {job.max_attempts for job in jobs} == {3}
    wait_until(lambda: len(held) == 2 or None)  # one of each host
    states = Counter(place.client.fetcher.get(job.id).state for job in jobs)
    assert states[QUEUED] == 6
    go_on.set()
    ended = [place.end(job) for job in jobs]
    assert {(job.state, job.attempt_count) for job in ended} == {(COMPLETED, 1)}
    assert len({job.worker_id for job in ended}) <= 2
    assert most_at_once(spans(place)) == 2
    for host in ("127.0.0.1", "localhost"):
        assert most_at_once(spans(place, f"limit_key = '{host}'")) == 1


def test_the_most_urgent_begins_first_and_else_the_oldest(server: Server) -> None:
    place = server.place(fetcher_jobs=1)
    arrived, go_on = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        arrived.set()
        go_on.wait(60)

    url = served(place, "wanted", hold=hold)
    place.client.fetcher.start("url", url)
    assert arrived.wait(60)
    jobs = [place.client.fetcher.start("url", url, priority=priority) for priority in (5, 9, 1, 5, 0, 1)]
    go_on.set()
    for job in jobs:
        place.end(job)
    order = place.rows("SELECT job_id FROM fetcher.fetch_jobs ORDER BY claim_time")[1:]
    assert [str(job_id) for (job_id,) in order] == [jobs[n].id for n in (2, 5, 0, 3, 4, 1)], "0 stands for 5"


def test_a_replica_whose_worker_is_off_takes_requests_and_leaves_the_work_to_others(server: Server) -> None:
    place = server.place(fetcher_worker_enabled=False)
    job = place.client.fetcher.start("url", served(place, "left"))
    assert place.rows("SELECT FROM fetcher.fetch_jobs_workers") == []
    server.replica(place, fetcher_worker_enabled=True)
    assert place.end(job).state == COMPLETED
    assert len(place.rows("SELECT FROM fetcher.fetch_jobs_workers")) == 1


@pytest.mark.parametrize("lost", [False, True], ids=["told", "not told"])
def test_a_notification_wakes_a_worker_and_the_poll_makes_up_for_one_that_is_lost(
    server: Server, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    if not lost:  # nobody looks by itself
        monkeypatch.setattr(
            fetcher, "WorkerLimits", lambda **limits: WorkerLimits(**{**limits, "poll_s": 3_600, "lease_s": 36_000})
        )
    place = server.place()
    wait_until(lambda: place.rows("SELECT FROM fetcher.fetch_jobs_workers") or None)
    later = datetime.now(UTC) + timedelta(hours=1)
    job = place.client.fetcher.start("url", served(place, "woken"), due_time=later if lost else None)
    if lost:
        assert job.state == pb.FETCH_JOB_STATE_PENDING
        with psycopg.connect(place.database_url) as connection:
            connection.execute("UPDATE fetcher.fetch_jobs SET due_time = clock_timestamp()")
    assert place.end(job).state == COMPLETED


def test_fetches_are_listed_in_pages_and_by_what_they_are(server: Server) -> None:
    place = server.place(fetcher_worker_enabled=False)
    jobs = [place.client.fetcher.start("url", served(place, f"{n}"), model="ab"[n % 2]) for n in range(7)]
    cancelled = [place.client.fetcher.cancel(job.id).id for job in jobs[:2]]
    files = place.root / "m.onnx"
    files.write_bytes(models.classifier())
    folder = place.client.fetcher.start("filesystem", str(files))
    newest_first = [folder.id, *(job.id for job in reversed(jobs))]

    def listed(**more: Any) -> list[str]:
        return [job.id for job in place.client.fetcher.list(page_size=2, **more)]

    assert listed() == newest_first
    assert listed(model="a") == [job.id for job in reversed(jobs[::2])]
    assert listed(states=["cancelled"]) == list(reversed(cancelled))
    assert listed(states=["queued"], model="b") == [jobs[n].id for n in (5, 3)]
    assert listed(source="filesystem") == [folder.id]
    assert listed(states=["completed", "failed"]) == []


def test_a_key_may_have_so_many_fetches_that_have_not_ended(server: Server) -> None:
    place = server.place(fetcher_worker_enabled=False, fetcher_max_unended=2)
    url = served(place, "refused")
    first = place.client.fetcher.start("url", url)
    place.client.fetcher.start("url", url)
    with pytest.raises(ResourceExhausted) as refused:
        place.client.fetcher.start("url", url)
    assert refused.value.reason == "TOO_MANY_JOBS"
    place.client.fetcher.cancel(first.id)
    place.client.fetcher.start("url", url)


def test_ended_fetches_and_what_they_brought_are_forgotten_in_time(server: Server) -> None:
    place = server.place(fetcher_housekeeping_interval_ms=100)
    old, young = (place.fetch("url", served(place, name)) for name in ("old", "young"))
    with psycopg.connect(place.database_url) as connection:
        by = "end_time = end_time - interval '31 days'"
        connection.execute(f"UPDATE fetcher.fetch_jobs SET {by} WHERE job_id = %s".encode(), [old.id])
        connection.execute("UPDATE fetcher.downloads SET use_time = use_time - interval '25 hours'")
    wait_until(lambda: [job.id for job in place.client.fetcher.list()] == [young.id] or None)
    with pytest.raises(NotFound) as gone:
        place.client.fetcher.get(old.id)
    assert gone.value.reason == "JOB_NOT_FOUND"
    wait_until(lambda: not place.rows("SELECT FROM fetcher.download_parts") or None)
    kept = place.client.fetcher.get(young.id)
    assert kept.expire_time.ToDatetime() - kept.end_time.ToDatetime() == timedelta(days=30)


def test_the_last_fault_is_said_while_a_fetch_waits_and_after_it_failed(server: Server) -> None:
    place = server.place(fetcher_backoff_ms=3_600_000)
    waits = place.client.fetcher.start("url", served(place, "waits", failures=[(500, {})]))
    pending = wait_until(lambda: ((job := place.client.fetcher.get(waits.id)).error.reason and job) or None)
    assert (pending.state, pending.error.reason) == (pb.FETCH_JOB_STATE_PENDING, "NETWORK_ERROR")
    assert (pending.error.retryable, pending.attempt_count) == (True, 1)
    assert pending.error.retry_time.ToDatetime() == pending.due_time.ToDatetime()
    failed = place.fetch("url", f"{place.origin.url}/none.onnx")
    assert (failed.state, failed.error.reason) == (pb.FETCH_JOB_STATE_FAILED, "MODEL_NOT_FOUND")
    assert (failed.error.retryable, failed.attempt_count) == (False, 1)
    assert not failed.error.HasField("retry_time")


def test_no_job_of_many_runs_twice_among_four_replicas(server: Server) -> None:
    place = server.place()
    for _ in range(3):
        server.replica(place)
    held, two_work = list[int](), threading.Event()

    def hold(position: int) -> None:
        held.append(position)
        if len(held) > 3:  # as many as one process works on
            two_work.set()
        two_work.wait(60)

    url = served(place, "many", hold=hold)
    jobs = [place.client.fetcher.start("url", url) for _ in range(60)]
    ended = [place.end(job) for job in jobs]
    assert {(job.state, job.attempt_count) for job in ended} == {(COMPLETED, 1)}
    assert {(job.result.version, job.result.downloaded_bytes) for job in ended} == {("v1", len(models.classifier()))}
    assert len(place.origin.asked) == 120, "a look and a download of each"
    assert place.rows("SELECT max(token), count(DISTINCT worker_id) > 1 FROM fetcher.fetch_jobs") == [(1, True)]
