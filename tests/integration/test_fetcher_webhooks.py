"""Whom a fetch's end is told to: real receivers, a real PostgreSQL, whatever way a job ends."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

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
    job = place.client.fetcher.start("url", url, webhook=receiver.url, due_time=datetime.now(UTC) + timedelta(days=1))
    place.client.fetcher.cancel(job.id)
    assert ended(only(receiver).document) == ("CANCELLED", None)


def test_nobody_is_told_where_nobody_asked(place: Place, receiver: Receiver) -> None:
    job = place.fetch("url", place.origin.url + "/nothing.onnx")
    assert not job.HasField("webhook")
    assert place.rows("SELECT count(*) FROM fetcher.outbox") == [(0,)]


def test_a_job_says_what_became_of_its_message(place: Place, receiver: Receiver) -> None:
    def webhook_of(job: pb.FetchJob) -> pb.FetchWebhook:
        return place.client.fetcher.get(job.id).webhook

    missing = place.origin.url + "/nothing.onnx"
    receiver.script = [answers(503, Retry_After="600"), answers(410)]
    waits = place.fetch("url", missing, webhook=receiver.url)
    wait_until(lambda: "answered 503" in webhook_of(waits).last_error or None)
    assert (webhook_of(waits).given_up, webhook_of(waits).HasField("delivery_time")) == (False, False)
    with receiving() as other:
        other.script = [answers(410)]
        refused = place.fetch("url", missing, webhook=other.url)
        wait_until(lambda: webhook_of(refused).given_up or None)
        assert "410 Gone" in webhook_of(refused).last_error
        arrives = place.fetch("url", missing, webhook=other.url)
        wait_until(lambda: webhook_of(arrives).HasField("delivery_time") or None)
        assert (webhook_of(arrives).given_up, webhook_of(arrives).last_error) == (False, "")
        listed = {job.id: job.webhook for job in place.client.fetcher.list()}
        assert (listed[refused.id].given_up, listed[arrives.id]) == (True, webhook_of(arrives))


def test_a_message_arrives_although_its_job_is_deleted(place: Place, receiver: Receiver) -> None:
    receiver.script = [answers(503)]
    job = place.fetch("url", place.origin.url + "/nothing.onnx", webhook=receiver.url, webhook_secret=SECRET)
    receiver.wait()
    place.client.fetcher.delete(job.id)
    place.rows("UPDATE fetcher.outbox SET due_time = clock_timestamp() RETURNING 1")
    receiver.wait()
    first, second = receiver.posts
    assert (second.message_id, second.body) == (first.message_id, first.body)


def test_a_retried_job_tells_of_its_next_end_by_another_message(place: Place, receiver: Receiver) -> None:
    missing = place.origin.url + "/late.onnx"
    job = place.fetch("url", missing, webhook=receiver.url)
    place.origin.serve("/late.onnx", models.classifier())
    place.end(place.client.fetcher.retry(job.id))
    receiver.wait(2)
    assert [post.document["state"] for post in receiver.posts] == ["FAILED", "COMPLETED"]
    assert len(set(receiver.ids)) == 2


def test_what_is_secret_is_in_no_table_no_answer_and_no_log(
    place: Place, receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    receiver.otherwise = answers(401)
    url = f"{receiver.url}/{PATH}"
    job = place.fetch("url", place.origin.url + "/nothing.onnx", webhook=url, webhook_secret=SECRET)
    receiver.wait()
    wait_until(lambda: "401" in place.client.fetcher.get(job.id).webhook.last_error or None)
    for table in ("fetch_jobs", "outbox"):
        rows = place.rows(f"SELECT t::text, convert_from(body, 'utf8') FROM fetcher.{table} t" if table == "outbox"
                          else f"SELECT t::text FROM fetcher.{table} t")  # fmt: skip
        assert rows
        assert not any(secret in repr(rows) for secret in (SECRET, PATH))
    said = repr(place.client.fetcher.get(job.id)) + "".join(capfd.readouterr())
    assert not any(secret in said for secret in (SECRET, PATH))


@pytest.mark.parametrize(
    ("url", "secret", "reason"),
    [
        ("http://10.0.0.1/hook", "", "URL_NOT_ALLOWED"),
        ("https://10.0.0.1/hook", "", "URL_NOT_ALLOWED"),
        ("https://169.254.169.254/hook", "", "URL_NOT_ALLOWED"),
        ("https://2130706433/hook", "", "URL_NOT_ALLOWED"),
        ("https://user:pass@example.com/hook", "", "URL_NOT_ALLOWED"),
        ("ftp://127.0.0.1/hook", "", "URL_NOT_ALLOWED"),
        ("", SECRET, "INVALID_WEBHOOK"),
        ("http://127.0.0.1/hook", "too-short", "INVALID_WEBHOOK"),
        ("http://127.0.0.1/hook", "with a space in it", "INVALID_WEBHOOK"),
    ],
)
def test_where_nothing_may_be_posted_nothing_is_fetched(place: Place, url: str, secret: str, reason: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        place.client.fetcher.start("url", place.origin.url + "/x.onnx", webhook=url, webhook_secret=secret)
    assert refused.value.reason == reason
    assert not any(said and said in str(refused.value) for said in (secret, "user:pass"))
    assert list(place.client.fetcher.list()) == []


def test_only_the_receivers_that_are_named_are_told(
    postgres_server: PostgresServer, tmp_path: Path, receiver: Receiver
) -> None:
    more = {"fetcher_webhook_only_hosts": "hooks.example.org", "fetcher_allowed_ports": frozenset({443, 9443})}
    with telling(postgres_server, tmp_path, **more) as place:
        missing = place.origin.url + "/nothing.onnx"
        for url, why in (
            ("https://1.1.1.1/hook", "none of the hosts"),
            ("https://hooks.example.org:9443/", "port 9443"),
        ):
            with pytest.raises(InvalidArgument, match=why) as refused:
                place.client.fetcher.start("url", missing, webhook=url)
            assert refused.value.reason == "URL_NOT_ALLOWED"
        place.fetch("url", missing, webhook=receiver.url)
        only(receiver)


def test_without_a_key_only_a_webhook_that_is_not_secret_is_kept(
    postgres_server: PostgresServer, tmp_path: Path, receiver: Receiver
) -> None:
    with telling(postgres_server, tmp_path, secrets_key_file=None) as place:
        missing = place.origin.url + "/nothing.onnx"
        for url, secret in ((receiver.url, ""), (f"http://127.0.0.1:{receiver.port}/", SECRET)):
            with pytest.raises(FailedPrecondition) as refused:
                place.client.fetcher.start("url", missing, webhook=url, webhook_secret=secret)
            assert refused.value.reason == "SECRETS_KEY_MISSING"
        place.fetch("url", missing, webhook=f"http://127.0.0.1:{receiver.port}/")
        assert "X-Penstock-Signature" not in only(receiver).headers


def test_the_same_request_again_is_the_same_job_and_another_receiver_is_another_request(
    place: Place, receiver: Receiver
) -> None:
    def start(path: str, secret: str = SECRET) -> str:
        said: dict[str, Any] = {"webhook": receiver.url + path, "webhook_secret": secret}
        return place.client.fetcher.start("url", place.origin.url + "/x.onnx", request_id="r", **said).id

    assert start("/a") == start("/a")
    with pytest.raises(FailedPrecondition) as refused:
        start("/b")
    assert refused.value.reason == "REQUEST_ID_REUSED"
