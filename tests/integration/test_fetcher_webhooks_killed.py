"""Fetchers that die around a job's end: it is told, and under one id. Real processes, killed."""

from __future__ import annotations

import base64
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

import penstock
from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from tests import origins
from tests.receivers import Receiver, hangs, receiving
from tests.registry import RegistryProcess, wait_until

pytestmark = pytest.mark.slow


@dataclass
class Fetchers:
    """Fetchers on one database, one after another; `origin` and `receiver` are whom they speak to."""

    folder: Path
    database: str
    origin: origins.Origin
    receiver: Receiver

    @contextmanager
    def running(self, **more: Any) -> Iterator[tuple[RegistryProcess, penstock.Client]]:
        """Run one; it is killed where it still lives."""
        key = self.folder / "secrets.key"
        if not key.exists():
            key.write_bytes(base64.b64encode(os.urandom(32)))
        process = RegistryProcess(
            self.database, self.folder, module="services.fetcher", registry_address="127.0.0.1:1",
            fetcher_allowed_hosts="127.0.0.1", fetcher_webhook_allowed_hosts="127.0.0.1", fetcher_lease_ms=1_000,
            secrets_key_file=key, **more,
        )  # fmt: skip
        try:
            with penstock.Client(fetcher=process.address()) as client:
                yield process, client
        finally:
            process.end(signal.SIGKILL)

    def let_time_pass(self) -> None:
        """Have the lease of whoever was sending be over."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute("UPDATE fetcher.outbox SET due_time = clock_timestamp(), hold_time = NULL")

    def states(self) -> list[str]:
        with psycopg.connect(self.database) as connection:
            return [row[0] for row in connection.execute("SELECT state FROM fetcher.outbox").fetchall()]


@pytest.fixture
def fetchers(clone_database: Callable[[str], str], tmp_path: Path) -> Iterator[Fetchers]:
    with origins.serving() as origin, receiving() as receiver:
        yield Fetchers(tmp_path, clone_database("fetcher"), origin, receiver)


def ended(client: penstock.Client, job: pb.FetchJob) -> pb.FetchJob:
    with closing(client.fetcher.watch(job.id)) as watched:
        *_, last = watched
    return last


def test_a_kill_between_the_end_and_its_telling_loses_no_message_and_makes_no_second(fetchers: Fetchers) -> None:
    receiver = fetchers.receiver
    receiver.script = [hangs]
    with fetchers.running() as (process, client):
        missing = f"{fetchers.origin.url}/nothing.onnx"
        job = client.fetcher.start("url", missing, webhook=receiver.url, webhook_secret="s" * 16)
        receiver.wait()
        process.end(signal.SIGKILL)
    assert fetchers.states() == ["WAITING"], "nobody answered"
    fetchers.let_time_pass()
    with fetchers.running() as (_, client):
        receiver.wait()
        wait_until(lambda: fetchers.states() == ["DELIVERED"] or None)
        assert client.fetcher.get(job.id).webhook.HasField("delivery_time")
    first, second = receiver.posts
    assert (first.message_id, first.body) == (second.message_id, second.body)
    assert second.document["error"]["reason"] == "MODEL_NOT_FOUND"


def test_an_end_that_its_own_worker_did_not_live_to_see_is_told_by_another(fetchers: Fetchers) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        begun.set()
        go_on.wait(60)

    url = fetchers.origin.serve("/model.onnx", b"x" * 1024, hold=hold)
    with fetchers.running() as (process, client):
        job = client.fetcher.start("url", url, model="m", max_attempts=1, webhook=fetchers.receiver.url)
        assert begun.wait(60)
        process.end(signal.SIGKILL)
    go_on.set()
    with fetchers.running() as (_, client):
        last = ended(client, job)
        fetchers.receiver.wait()
    (post,) = fetchers.receiver.posts
    assert (last.error.reason, post.document["error"]["reason"]) == ("WORKER_LOST", "WORKER_LOST")
    assert post.document["job"]["attempt_count"] == 1


def test_a_job_past_its_hard_limit_is_told(fetchers: Fetchers) -> None:
    go_on = threading.Event()
    url = fetchers.origin.serve("/model.onnx", b"x" * 1024, hold=lambda _: go_on.wait(60))
    with fetchers.running(fetcher_hard_limit_ms=1_000) as (_, client):
        job = client.fetcher.start("url", url, model="m", webhook=fetchers.receiver.url)
        last = ended(client, job)
        fetchers.receiver.wait()
    go_on.set()
    (post,) = fetchers.receiver.posts
    assert (last.error.reason, post.document["error"]["reason"]) == ("HARD_LIMIT", "HARD_LIMIT")
