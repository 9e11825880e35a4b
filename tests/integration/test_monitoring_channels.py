"""Channels over gRPC on a real PostgreSQL, with real receivers: set, shown, tested, told, deleted."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import grpc
import pytest

from penstock.api.monitoring.v1 import channels_pb2 as pb
from services.common.errors import InvalidArgument
from services.common.outbox.webhooks import signature
from services.common.postgres import Database
from services.monitoring.notifications.channels import MAX_REQUESTS
from tests.channels import NEWS, SECRET, Running, key_file, receiver, running, serving
from tests.monitoring import eventually, reason
from tests.receivers import Receiver, answers, hangs, receiving

__all__ = ["key_file", "receiver", "running"]
INVALID = grpc.StatusCode.INVALID_ARGUMENT
REFUSED = grpc.StatusCode.FAILED_PRECONDITION


def test_a_webhook_is_set_shown_without_its_secrets_tested_and_told(running: Running, receiver: Receiver) -> None:
    shown = running.webhook("team", receiver.url + "?token=" + SECRET, SECRET)
    assert shown.webhook.url == f"http://127.0.0.1:{receiver.port}/***"
    assert (shown.webhook.secret, shown.updated_by, shown.waiting_count) == ("", "anonymous", 0)
    assert running.test("team") >= 0
    (message_id,) = running.notify("team")
    receiver.wait(2)
    tested, told = receiver.posts
    assert (tested.document["type"], told.document["type"]) == ("test", "alerts")
    assert (told.message_id, told.document["id"]) == (message_id, message_id)
    assert told.document["alerts"][0]["message"] == "error_rate is 0.4, > 0.1"
    stamp = int(told.headers["X-Penstock-Signature"].split(",")[0].removeprefix("t="))
    assert told.headers["X-Penstock-Signature"] == signature(SECRET, told.body, stamp)
    eventually(lambda: running.listed()[0].HasField("last_delivery_time"))


@pytest.mark.slow  # apprise reads a URL in a process of its own
def test_no_secret_is_in_the_database(running: Running, receiver: Receiver) -> None:
    running.webhook("hook", receiver.url + "?token=" + SECRET, SECRET)
    running.apprise("mail", f"mailtos://user:{SECRET}@example.com")
    running.notify("hook")
    with Database(running.url) as database, database.transaction() as connection:
        for table in ("channels", "outbox"):
            rows = connection.execute(f"SELECT * FROM monitoring.{table}".encode()).fetchall()
            assert rows
            assert SECRET not in repr(rows)
    assert SECRET not in repr(running.listed())


def test_one_message_a_channel_in_the_callers_transaction_or_none(running: Running, receiver: Receiver) -> None:
    running.webhook("one", receiver.url)
    running.webhook("two", receiver.url)
    with suppress(ZeroDivisionError), running.parts.database.transaction() as connection:
        running.parts.channels.notify(connection, ["one", "two"], NEWS)
        raise ZeroDivisionError
    ids = running.notify("one", "two", "one")
    assert len(ids) == 2
    receiver.wait(2)
    assert sorted(receiver.ids) == sorted(ids)


def test_a_replaced_webhook_keeps_its_secret_unless_a_new_one_comes(running: Running, receiver: Receiver) -> None:
    def signed_with() -> list[str]:
        running.test("team")
        post = receiver.posts[-1]
        given = post.headers.get("X-Penstock-Signature", "")
        stamp = int(given.split(",")[0].removeprefix("t=") or 0)
        return [secret for secret in ("first" * 4, "second" * 4) if signature(secret, post.body, stamp) == given]

    running.webhook("team", receiver.url, "first" * 4)
    running.webhook("team", receiver.url + "/elsewhere")
    assert signed_with() == ["first" * 4]
    assert receiver.posts[-1].path == "/hook/elsewhere"
    assert running.webhook("team", receiver.url, "second" * 4).webhook.signed
    assert signed_with() == ["second" * 4]
    assert not running.webhook("team", receiver.url, clear_secret=True).webhook.signed
    assert signed_with() == []
    running.webhook("team", receiver.url, "first" * 4)
    running.delete("team")
    running.webhook("team", receiver.url)
    assert signed_with() == []
    assert len(running.listed()) == 1


def test_a_channel_says_what_went_wrong_and_what_waits(running: Running, receiver: Receiver) -> None:
    receiver.otherwise = answers(503, Retry_After="600")
    running.webhook("team", receiver.url)
    running.notify("team")
    eventually(lambda: running.listed()[0].last_error == "127.0.0.1 answered 503 Service Unavailable")
    assert running.listed()[0].waiting_count == 1
    with pytest.raises(grpc.RpcError, match=r"127\.0\.0\.1 answered 503 Service Unavailable"):
        running.test("team")
    assert reason(lambda: running.test("team")) == (REFUSED, "NOT_DELIVERED")


def test_a_test_that_arrived_is_an_arrival_and_one_that_did_not_is_the_last_error(
    running: Running, receiver: Receiver
) -> None:
    assert not running.webhook("team", receiver.url).HasField("last_delivery_time")
    running.test("team")
    (after,) = running.listed()
    assert (after.HasField("last_delivery_time"), after.last_error) == (True, "")
    receiver.script = [answers(404)]
    assert reason(lambda: running.test("team")) == (REFUSED, "NOT_DELIVERED")
    (failed,) = running.listed()
    assert failed.last_error == "127.0.0.1 answered 404 Not Found"
    assert failed.last_delivery_time == after.last_delivery_time, "what arrived before did"
    running.notify("team")
    eventually(lambda: running.listed()[0].last_delivery_time != after.last_delivery_time)
    assert running.listed()[0].last_error == ""
    receiver.script = [answers(503, Retry_After="600")]
    running.notify("team")
    eventually(lambda: running.listed()[0].waiting_count == 1 and "503" in running.listed()[0].last_error)
    running.test("team")
    assert (running.listed()[0].last_error, running.listed()[0].waiting_count) == ("", 1)


def test_a_channel_is_compared_with_its_secrets_and_stays_as_it_is(running: Running, receiver: Receiver) -> None:
    def differs(url: str = receiver.url, secret: str = "", **more: bool) -> bool:
        channel = pb.Channel(name="team", webhook=pb.WebhookChannel(url=url, secret=secret))
        request = pb.SetChannelRequest(channel=channel, validate_only=True, **more)
        answer = running.stub.SetChannel(request, timeout=60)
        assert SECRET not in repr(answer)
        return answer.changed

    assert differs()
    assert running.listed() == []
    running.webhook("team", receiver.url, SECRET)
    kept = running.listed()
    assert [differs(), differs(secret=SECRET)] == [False, False], "without a secret that one stays"
    assert [differs(secret="another-" * 3), differs(receiver.url + "/x"), differs(clear_secret=True)] == [True] * 3
    assert reason(partial(differs, "https://10.0.0.1/")) == (INVALID, "URL_NOT_ALLOWED")
    assert (running.listed(), len(running.changes().changes)) == (kept, 1)
    assert receiver.posts == []


def test_who_tries_out_many_channels_that_hang_is_refused_and_keeps_nobody_from_being_told(
    running: Running, receiver: Receiver
) -> None:
    running.webhook("hangs", receiver.url)
    receiver.otherwise = hangs
    with receiving() as quick, ThreadPoolExecutor(MAX_REQUESTS) as pool:
        running.webhook("quick", quick.url)
        tried = [pool.submit(reason, partial(running.test, "hangs")) for _ in range(MAX_REQUESTS)]
        receiver.wait(MAX_REQUESTS)
        busy = (grpc.StatusCode.RESOURCE_EXHAUSTED, "CHANNELS_BUSY")
        for call in (partial(running.test, "quick"), partial(running.webhook, "quick", quick.url)):
            assert reason(call) == busy
        running.notify("quick")
        quick.wait()
        receiver.ended.set()
        assert {each.result() for each in tried} == {(REFUSED, "NOT_DELIVERED")}
        running.test("quick")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.com/", "URL_NOT_ALLOWED"),
        ("https://10.0.0.1/", "URL_NOT_ALLOWED"),
        ("https://169.254.169.254/latest/meta-data", "URL_NOT_ALLOWED"),
        ("https://2130706433/", "URL_NOT_ALLOWED"),
        ("https://[::ffff:10.0.0.1]/", "URL_NOT_ALLOWED"),
        ("https://user:secret@example.com/", "URL_NOT_ALLOWED"),
        ("", "URL_NOT_ALLOWED"),
    ],
)
def test_a_url_that_leads_where_it_may_not_is_refused(running: Running, url: str, why: str) -> None:
    assert reason(lambda: running.webhook("team", url)) == (INVALID, why)
    assert running.listed() == []


@pytest.mark.parametrize("name", ["", "a" * 101, "a b", "-a", "a-", "größe", "a\0"])
def test_a_name_that_is_none_is_refused(running: Running, receiver: Receiver, name: str) -> None:
    for call in (lambda: running.webhook(name, receiver.url), lambda: running.test(name), lambda: running.delete(name)):
        assert reason(call) == (INVALID, "INVALID_CHANNEL")


def test_nonsense_is_refused(running: Running, receiver: Receiver) -> None:
    for secret in ("short", "s" * 257, "a secret with spaces in it", "größer-als-sechzehn"):
        assert reason(partial(running.webhook, "team", receiver.url, secret)) == (INVALID, "INVALID_CHANNEL")
    both = partial(running.webhook, "team", receiver.url, SECRET, clear_secret=True)
    assert reason(both) == (INVALID, "INVALID_CHANNEL")
    assert reason(lambda: running.set("team")) == (INVALID, "INVALID_CHANNEL")
    assert reason(lambda: running.apprise("team", "no-url")) == (INVALID, "INVALID_CHANNEL")
    assert reason(lambda: running.apprise("team", "syslog://")) == (INVALID, "INVALID_CHANNEL")
    assert reason(lambda: running.apprise("team", "json://127.0.0.1/")) == (INVALID, "URL_NOT_ALLOWED")
    missing = (grpc.StatusCode.NOT_FOUND, "CHANNEL_NOT_FOUND")
    assert reason(lambda: running.test("none")) == missing
    assert reason(lambda: running.delete("none")) == missing


def test_there_are_at_most_a_hundred(running: Running, receiver: Receiver) -> None:
    with running.parts.database.transaction() as connection:
        connection.execute(
            "INSERT INTO monitoring.channels (name, kind, shown_url, plain, updated_by) "
            "SELECT 'c' || n, 'webhook', '', '{}', '' FROM generate_series(1, 99) AS n"
        )
    running.webhook("last", receiver.url)
    too_many = (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CHANNELS")
    assert reason(lambda: running.webhook("one-more", receiver.url)) == too_many
    running.webhook("last", receiver.url)


def test_what_something_relies_on_stays(running: Running, receiver: Receiver) -> None:
    running.webhook("team", receiver.url)
    running.parts.channels.keep_while(lambda _, name: "the rule errors tells it" if name == "team" else "")
    assert reason(lambda: running.delete("team")) == (REFUSED, "CHANNEL_IN_USE")
    running.webhook("other", receiver.url)
    running.delete("other")
    assert [channel.name for channel in running.listed()] == ["team"]
    with running.parts.database.transaction() as connection:
        running.parts.channels.require(connection, ["team"], field="rule.channels")
        with pytest.raises(InvalidArgument) as caught:
            running.parts.channels.require(connection, ["team", "other"], field="rule.channels")
    assert caught.value.reason == "CHANNEL_NOT_FOUND"


def test_who_changed_a_channel_is_known_and_no_secret_with_it(running: Running, receiver: Receiver) -> None:
    running.webhook("team", receiver.url, SECRET)
    running.webhook("team", f"http://127.0.0.1:{receiver.port}/", clear_secret=True)
    running.webhook("other", receiver.url)
    running.delete("team")
    assert [change.name for change in running.changes().changes] == ["team", "other", "team", "team"]
    deleted, replaced, made = running.changes("team").changes
    here = f"http://127.0.0.1:{receiver.port}/"
    assert (made.HasField("before"), made.after.webhook.url, made.after.webhook.signed) == (False, here + "***", True)
    assert (replaced.before, replaced.after.webhook.url, replaced.changed_by) == (made.after, here, "anonymous")
    assert (deleted.before, deleted.HasField("after")) == (replaced.after, False)
    assert replaced.time.ToDatetime() >= made.time.ToDatetime()
    first = running.changes("team", page_size=2)
    rest = running.changes("team", page_size=2, page_token=first.next_page_token)
    assert ([*first.changes, *rest.changes], rest.next_page_token) == ([deleted, replaced, made], "")
    assert reason(lambda: running.changes(page_token=first.next_page_token)) == (INVALID, "INVALID_PAGE_TOKEN")
    assert SECRET not in repr(running.changes())


def test_what_waits_for_a_deleted_channel_is_given_up(running: Running, receiver: Receiver) -> None:
    receiver.otherwise = answers(503, Retry_After="600")
    running.webhook("team", receiver.url)
    running.notify("team")
    receiver.wait()
    eventually(lambda: running.listed()[0].last_error != "")
    running.delete("team")
    running.notify("team")  # as a rule might that has not heard of it
    failed = "SELECT count(*) AS count FROM monitoring.outbox WHERE state = 'FAILED'"

    def count() -> int:
        with running.parts.database.transaction() as connection:
            row = connection.execute(failed).fetchone()
            return int(row["count"]) if row else 0

    eventually(lambda: count() == 2)
    assert len(receiver.posts) == 1


def test_a_message_that_was_given_up_is_counted_after_others_arrived(running: Running, receiver: Receiver) -> None:
    receiver.script = [answers(400)]
    running.webhook("team", receiver.url)
    running.notify("team")
    eventually(lambda: running.listed()[0].failed_count == 1)
    assert "400 Bad Request: it does not take this message" in running.listed()[0].last_error
    running.notify("team")
    eventually(lambda: running.listed()[0].HasField("last_delivery_time"))
    assert (running.listed()[0].failed_count, running.listed()[0].last_error) == (1, "")


def test_a_service_that_ended_before_it_sent_sends_when_it_is_back(
    clone_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, receiver: Receiver, key_file: Path
) -> None:
    url = clone_database("monitoring")
    with serving(url, monkeypatch, secrets_key_file=key_file) as running:
        running.webhook("team", receiver.url)
    with Database(url) as database, database.transaction() as connection:
        (message_id,) = running.parts.channels.notify(connection, ["team"], NEWS)
    assert receiver.posts == []
    with serving(url, monkeypatch, secrets_key_file=key_file):
        receiver.wait()
    assert receiver.ids == [str(message_id)]


def test_of_two_replicas_one_sends_each_message(
    clone_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, receiver: Receiver, key_file: Path
) -> None:
    url, key = clone_database("monitoring"), {"secrets_key_file": key_file}
    with serving(url, monkeypatch, **key) as one, serving(url, monkeypatch, **key) as other:
        names = [f"team-{number}" for number in range(4)]
        for name in names:
            one.webhook(name, receiver.url)
        ids = [message_id for running in (one, other) * 3 for message_id in running.notify(*names)]
        receiver.wait(len(ids))
        eventually(lambda: not any(channel.waiting_count for channel in one.listed()))
    assert sorted(receiver.ids) == sorted(ids)


@pytest.mark.slow
def test_without_a_key_secrets_are_refused_with_what_to_do(
    clone_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    missing = (REFUSED, "SECRETS_KEY_MISSING")
    with serving(clone_database("monitoring"), monkeypatch) as running:
        assert reason(lambda: running.webhook("team", receiver.url, SECRET)) == missing
        for url in (receiver.url, receiver.url + "?token=1", f"http://127.0.0.1:{receiver.port}?token=1"):
            assert reason(partial(running.webhook, "team", url)) == missing
        with pytest.raises(grpc.RpcError, match="openssl rand -base64 32"):
            running.apprise("mail", "mailtos://user:password@example.com")
        running.webhook("team", f"http://127.0.0.1:{receiver.port}/")  # nothing of it is secret
        running.test("team")


def test_a_lost_key_is_told_and_the_channel_can_be_set_again(
    clone_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, receiver: Receiver, key_file: Path
) -> None:
    url = clone_database("monitoring")
    with serving(url, monkeypatch, secrets_key_file=key_file) as running:
        running.webhook("team", receiver.url, SECRET)
        key_file.write_bytes(base64.b64encode(os.urandom(32)))
        with pytest.raises(grpc.RpcError, match="set it again"):
            running.test("team")
        assert reason(lambda: running.webhook("team", receiver.url)) == (REFUSED, "SECRETS_KEY_CHANGED")
        channel = pb.Channel(name="team", webhook=pb.WebhookChannel(url=receiver.url, secret=SECRET))
        request = pb.SetChannelRequest(channel=channel, validate_only=True)
        assert running.stub.SetChannel(request, timeout=60).changed, "what nobody can read is to be set again"
        assert len(running.listed()) == 1
        running.webhook("team", receiver.url, SECRET)
        running.test("team")


@pytest.mark.slow
def test_apprise_reaches_no_private_address_and_no_file(
    clone_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, key_file: Path
) -> None:
    options = {"secrets_key_file": key_file, "notification_allowed_hosts": "", "apprise_schemes": "mailto,gotify,slack"}
    with serving(clone_database("monitoring"), monkeypatch, **options) as running, receiving() as receiver:
        running.apprise("gotify", f"gotify://127.0.0.1:{receiver.port}/token")
        running.apprise("name", f"gotify://localhost:{receiver.port}/token")
        for name in ("gotify", "name"):
            with pytest.raises(grpc.RpcError, match="not reached from here"):
                running.test(name)
        assert receiver.posts == []
        assert reason(lambda: running.apprise("slack", "slack://nonsense")) == (INVALID, "INVALID_CHANNEL")
