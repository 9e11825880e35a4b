"""Whom a fetch's end is told to: real receivers, a real PostgreSQL, whatever way a job ends."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.errors import FailedPrecondition, InvalidArgument
from services.common.outbox.webhooks import signature
from tests.fetching import Place, fetching
from tests.postgres import PostgresServer
from tests.receivers import Post, Receiver, answers, receiving
from tests.registry import wait_until
from tests.testdata import models

SECRET = "a-secret-that-nobody-sees"
PATH = "path-that-nobody-sees"
COMPLETED, FAILED = pb.FETCH_JOB_STATE_COMPLETED, pb.FETCH_JOB_STATE_FAILED


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as listening:
        yield listening


@pytest.fixture
def place(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Place]:
    with telling(postgres_server, tmp_path) as place:
        yield place


@contextmanager
def telling(postgres_server: PostgresServer, folder: Path, **more: Any) -> Iterator[Place]:
    """Run a fetcher that may tell receivers on loopback, with a key."""
    key = folder / "secrets.key"
    key.write_bytes(base64.b64encode(os.urandom(32)))
    given = {
        "secrets_key_file": key,
        "fetcher_webhook_allowed_hosts": "127.0.0.1",
        "fetcher_webhook_interval_ms": 20,
        **more,
    }
    with fetching(postgres_server, folder, **given) as place:
        yield place


def only(receiver: Receiver) -> Post:
    """Wait for the one message that came."""
    receiver.wait()
    (post,) = receiver.posts
    return post


def test_completion_is_told_signed_and_under_the_messages_id(place: Place, receiver: Receiver) -> None:
    url = place.origin.serve("/iris.onnx", models.classifier())
    job = place.fetch("url", url, webhook=f"{receiver.url}/{PATH}?token=x", webhook_secret=SECRET)
    assert job.state == COMPLETED
    assert (job.webhook.url, job.webhook.signed, job.webhook.secret) == (
        f"http://127.0.0.1:{receiver.port}/***", True, "",
    )  # fmt: skip
    post = only(receiver)
    assert post.path == f"/hook/{PATH}?token=x"
    stamp = int(post.headers["X-Penstock-Signature"].split(",")[0].removeprefix("t="))
    assert post.headers["X-Penstock-Signature"] == signature(SECRET, post.body, stamp)
    told = post.document
    assert (told["type"], told["version"], told["state"], told["error"]) == ("fetch", 1, "COMPLETED", None)
    assert told["id"] == post.message_id
    assert (told["result"]["model"], told["result"]["version"], told["result"]["existed"]) == ("iris", "v1", False)
    assert (told["job"]["id"], told["job"]["source"], told["job"]["reference"]) == (job.id, "url", url)


def test_failure_is_told_with_its_reason(place: Place, receiver: Receiver) -> None:
    job = place.fetch("url", place.origin.url + "/nothing.onnx", webhook=receiver.url, webhook_secret=SECRET)
    told = only(receiver).document
    assert (job.state, told["state"], told["result"]) == (FAILED, "FAILED", None)
    assert told["error"] == {"reason": "MODEL_NOT_FOUND", "message": job.error.message, "retryable": False}


def test_cancelling_is_told_also_of_a_job_that_nobody_began(place: Place, receiver: Receiver) -> None:
    def ended(told: dict[str, Any]) -> tuple[str, Any]:
        return told["state"], told["job"]["start_time"]

    url = place.origin.serve("/iris.onnx", models.classifier())
    job = place.client.fetcher.start("url", url, webhook=receiver.url, due_time=far_away())
    place.client.fetcher.cancel(job.id)
    assert ended(only(receiver).document) == ("CANCELLED", None)


def far_away() -> Any:
    from datetime import UTC, datetime, timedelta

    return datetime.now(UTC) + timedelta(days=1)


def test_nobody_is_told_where_nobody_asked(place: Place, receiver: Receiver) -> None:
    job = place.fetch("url", place.origin.url + "/nothing.onnx")
    assert not job.HasField("webhook")
    assert place.rows("SELECT count(*) FROM fetcher.outbox") == [(0,)]
