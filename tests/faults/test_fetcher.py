"""Fetchers that die, freeze, or lose their database: real processes, a real PostgreSQL."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import penstock
from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from tests import origins
from tests.faults.proxy import Proxy
from tests.held_fetches import PART, HeldFetch, ended, held_fetch, noted_parts, rows
from tests.postgres import PostgresServer
from tests.registry import wait_until
from tests.services import running_registry

pytestmark = pytest.mark.slow
CloneDatabase = Callable[[str], str]
COMPLETED = pb.FETCH_JOB_STATE_COMPLETED


@pytest.fixture
def fetch(clone_database: CloneDatabase, tmp_path: Path) -> Iterator[HeldFetch]:
    with (
        origins.serving() as origin,
        running_registry(clone_database("registry"), tmp_path) as registry,
        held_fetch(origin, tmp_path, clone_database, registry.address) as held,
    ):
        yield held


def versions(fetch: HeldFetch) -> list[str]:
    with penstock.Client(registry=fetch.registry) as client:
        return [version.version for version in client.registry.list_versions("model")]


def test_a_killed_fetcher_goes_on_where_it_was_and_asks_for_nothing_again_that_was_safe(fetch: HeldFetch) -> None:
    with fetch.process() as (first, client):
        job = fetch.start(client)
        first.end(signal.SIGKILL)
    sent, asked = fetch.origin.sent_bytes, len(fetch.origin.asked)
    fetch.go_on.set()
    with fetch.process() as (_, client):
        done = ended(client, job)
    assert (done.state, done.attempt_count, versions(fetch)) == (COMPLETED, 2, ["v1"]), done.error
    assert fetch.whole()
    assert fetch.asked_again(asked) == [], "all parts that had come were kept"
    assert fetch.origin.sent_bytes - sent <= 4 * PART, "what was left, and what the dead one had been sent"


def test_a_fetcher_that_slept_over_its_lease_can_neither_finish_nor_spoil_what_another_did(fetch: HeldFetch) -> None:
    with fetch.process() as (late, client):
        job = fetch.start(client)
        late.process.send_signal(signal.SIGSTOP)
        fetch.go_on.set()
        with fetch.process() as (_, other):
            done = ended(other, job)
            assert (done.state, done.attempt_count, done.result.version) == (COMPLETED, 2, "v1"), done.error
        late.process.send_signal(signal.SIGCONT)
        wait_until(lambda: "lease lost" in late.log.read_text() or None)
        assert client.fetcher.get(job.id) == done
        assert (noted_parts(fetch.database), versions(fetch), fetch.whole()) == ([0, 1, 2, 3, 4], ["v1"], True)
        again = ended(client, client.fetcher.start("url", fetch.url, framework="onnx"))
        assert (again.state, again.result.existed, again.result.downloaded_bytes) == (COMPLETED, True, 0), again.error


def test_a_database_that_is_cut_until_the_lease_is_over_costs_an_attempt_and_no_part(
    fetch: HeldFetch, postgres_server: PostgresServer
) -> None:
    with Proxy(postgres_server.port) as proxy:
        through = fetch.database.replace(f":{postgres_server.port}", f":{proxy.port}")
        assert through != fetch.database
        with fetch.process(database=through) as (_, client):
            job = fetch.start(client)
            asked = len(fetch.origin.asked)
            proxy.cut()
            fetch.go_on.set()
            late = "SELECT 1 FROM fetcher.fetch_jobs WHERE lease_expire_time < clock_timestamp()"
            wait_until(lambda: rows(fetch.database, late) or None)
            proxy.heal()
            wait_until(lambda: fetch.whole() or None)
            done = ended(client, job)
    assert (done.state, done.attempt_count >= 2, versions(fetch)) == (COMPLETED, True, ["v1"]), done.error
    assert fetch.asked_again(asked) == [], "what was noted was kept"
