"""Webhooks against real servers on loopback: what arrives, and what each failure says."""

from __future__ import annotations

import hashlib
import hmac
import socket
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from services.common.addresses import AddressRules, AllowedHosts, UrlRefused
from services.common.errors import DomainError, FailedPrecondition
from services.common.outbox import Undeliverable
from services.common.outbox.webhooks import (
    NotDelivered,
    Webhook,
    WebhookLimits,
    Webhooks,
    read_retry_after,
    signature,
)
from tests.certificates import Authority
from tests.receivers import (
    Receiver,
    answers,
    drips,
    drips_its_body,
    floods,
    hangs,
    receiving,
    resets,
    talks_nonsense,
)

NOW = 1_790_000_000.0
BODY = '{"title":"größer"}'.encode()
SHORT = WebhookLimits(connect_s=0.2, total_s=0.3)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as listening:
        yield listening


def local(limits: WebhookLimits | None = None) -> Webhooks:
    return Webhooks(AddressRules(AllowedHosts.parse("127.0.0.1")), limits, clock=lambda: NOW)


def post(receiver: Receiver, limits: WebhookLimits | None = None, secret: str = "") -> UUID:
    message_id = uuid4()
    local(limits).post(Webhook(receiver.url + "?token=1", secret), message_id, BODY)
    return message_id


def failure(receiver: Receiver, limits: WebhookLimits | None = None) -> DomainError:
    with pytest.raises(DomainError) as caught:
        post(receiver, limits, secret="s" * 16)
    assert "token" not in caught.value.message
    return caught.value


def test_a_message_arrives_with_its_id_and_a_signature_that_holds(receiver: Receiver) -> None:
    message_id = post(receiver, secret="a-secret-of-some-length")
    (came,) = receiver.posts
    assert (came.path, came.body) == ("/hook?token=1", BODY)
    assert came.message_id == str(message_id)
    assert came.headers["Content-Type"] == "application/json"
    assert came.headers["Host"] == f"127.0.0.1:{receiver.port}"
    stamp, mac = (part.partition("=")[2] for part in came.headers["X-Penstock-Signature"].split(","))
    assert stamp == "1790000000"
    expected = hmac.new(b"a-secret-of-some-length", stamp.encode() + b"." + BODY, hashlib.sha256).hexdigest()
    assert mac == expected


def test_the_signature_is_that_of_the_contract() -> None:
    """By openssl: printf '1790000000.{"a":1}' | openssl dgst -sha256 -hmac sixteen-or-more."""
    told = "cd43f34a55a729276816253343ac231aec2c0acd877a95a75d1e38d9f6ed00bf"
    assert signature("sixteen-or-more", b'{"a":1}', 1_790_000_000) == f"t=1790000000,v1={told}"


def test_without_a_secret_nothing_is_signed(receiver: Receiver) -> None:
    post(receiver)
    assert "X-Penstock-Signature" not in receiver.posts[0].headers


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_an_arrival(receiver: Receiver, status: int) -> None:
    receiver.otherwise = answers(status)
    post(receiver)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "401 Unauthorized"), (403, "403 Forbidden"), (404, "404 Not Found"), (408, "408 Request Timeout"),
        (425, "425 Too Early"), (429, "429 Too Many Requests"), (500, "500 Internal"), (599, "599"),
    ],
)  # fmt: skip
def test_what_another_key_another_url_or_another_hour_may_mend_is_tried_again_and_named(
    receiver: Receiver, status: int, said: str
) -> None:
    receiver.otherwise = answers(status)
    error = failure(receiver)
    assert isinstance(error, NotDelivered)
    assert (error.reason, error.retry_after_s) == ("RECEIVER_REFUSED", None)
    assert said in error.message


def test_a_receiver_that_is_gone_ends_the_message(receiver: Receiver) -> None:
    receiver.otherwise = answers(410)
    assert isinstance(failure(receiver), Undeliverable)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_message_that_its_receiver_never_takes_holds_up_no_other_for_a_day(receiver: Receiver, status: int) -> None:
    receiver.otherwise = answers(status)
    error = failure(receiver)
    assert isinstance(error, Undeliverable)
    assert error.reason == "MESSAGE_REFUSED"


@pytest.mark.parametrize("status", [429, 503])
def test_what_a_receiver_asks_for_is_heard_in_seconds_and_as_a_date(receiver: Receiver, status: int) -> None:
    date = format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True)
    receiver.script = [answers(status, Retry_After="7"), answers(status, Retry_After=date)]
    assert failure(receiver).retry_after_s == 7
    assert failure(receiver).retry_after_s == 90


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("Mon, 21 Sep 2026 14:14:20 GMT", 60.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("9" * 400, 999_999_999.0),
        ("٣", None),
    ],
)
def test_retry_after_is_read_or_left(value: str | None, seconds: float | None) -> None:
    assert read_retry_after(value, NOW) == seconds


def test_a_redirect_is_a_failure_that_says_so_and_is_not_followed(receiver: Receiver) -> None:
    with receiving() as private:
        for status in (301, 302, 303, 307, 308):
            receiver.otherwise = answers(status, Location=private.url)
            error = failure(receiver)
            assert error.reason == "REDIRECTED"
            assert "redirects are not followed" in error.message
        assert private.posts == []


@pytest.mark.parametrize("behaviour", [hangs, drips])
def test_a_receiver_that_hangs_or_drips_is_given_up_in_time(receiver: Receiver, behaviour: object) -> None:
    receiver.otherwise = behaviour  # type: ignore[assignment] # a behaviour
    error = failure(receiver, SHORT)
    assert (error.reason, error.message) == ("RECEIVER_TIMEOUT", "127.0.0.1 did not answer in time")
    assert error.retry_after_s == pytest.approx(3 * SHORT.total_s)  # others that fail have the slots meanwhile


@pytest.mark.parametrize("behaviour", [drips_its_body, floods])
def test_an_answer_without_end_is_an_arrival_all_the_same(receiver: Receiver, behaviour: object) -> None:
    receiver.otherwise = behaviour  # type: ignore[assignment] # a behaviour
    post(receiver, WebhookLimits(total_s=2))  # by then its status has come


def test_one_that_accepts_and_never_reads_a_handshake_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(NotDelivered) as caught:
            local(SHORT).post(Webhook(url), uuid4(), BODY)
    assert caught.value.reason == "RECEIVER_TIMEOUT"


@pytest.mark.parametrize("behaviour", [resets, talks_nonsense])
def test_one_that_breaks_off_or_talks_nonsense_was_not_reached(receiver: Receiver, behaviour: object) -> None:
    receiver.otherwise = behaviour  # type: ignore[assignment] # a behaviour
    assert failure(receiver).reason == "RECEIVER_UNREACHABLE"


def test_nobody_there(receiver: Receiver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(NotDelivered, match="Connection refused") as caught:
        local().post(Webhook(f"http://127.0.0.1:{port}/"), uuid4(), BODY)
    assert caught.value.reason == "RECEIVER_UNREACHABLE"


def test_what_is_not_allowed_is_not_connected_to(receiver: Receiver) -> None:
    webhooks = Webhooks(AddressRules())
    with pytest.raises(UrlRefused):
        webhooks.post(Webhook(receiver.url), uuid4(), BODY)
    assert receiver.posts == []


def test_the_address_that_was_checked_is_the_one_connected_to(receiver: Receiver) -> None:
    """A name server that says another address at each question gains nothing: it is asked once."""
    asked: list[str] = []

    def lookup(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    webhooks = Webhooks(AddressRules(AllowedHosts.parse("hooks.test"), lookup=lookup))
    webhooks.post(Webhook(f"http://hooks.test:{receiver.port}/"), uuid4(), BODY)
    assert asked == ["hooks.test"]
    assert receiver.posts[0].headers["Host"] == f"hooks.test:{receiver.port}"


def test_the_next_address_is_tried_where_one_does_not_answer(receiver: Receiver) -> None:
    rules = AddressRules(AllowedHosts.parse("hooks.test"), lookup=lambda *_: ["::1", "127.0.0.1"])
    Webhooks(rules).post(Webhook(f"http://hooks.test:{receiver.port}/"), uuid4(), BODY)
    assert len(receiver.posts) == 1


def test_tls_is_verified_by_name_whatever_the_address(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path, "root")
    rules = AddressRules(AllowedHosts.parse("hooks.test,other.test"), lookup=lambda *_: ["127.0.0.1"])
    trusting, strange = Webhooks(rules, ca_file=authority.ca_file), Webhooks(rules)
    with receiving(authority.issue("hooks", host="hooks.test")) as receiver:
        trusting.post(Webhook(f"https://hooks.test:{receiver.port}/"), uuid4(), BODY)
        for webhooks, host in ((trusting, "other.test"), (strange, "hooks.test")):
            with pytest.raises(NotDelivered, match=f"TLS with {host} failed") as caught:
                webhooks.post(Webhook(f"https://{host}:{receiver.port}/"), uuid4(), BODY)
            assert caught.value.reason == "TLS_FAILED"
        assert len(receiver.posts) == 1
    expired = authority.issue("old", host="hooks.test", valid=False)
    with receiving(expired) as receiver, pytest.raises(NotDelivered, match="expired"):
        trusting.post(Webhook(f"https://hooks.test:{receiver.port}/"), uuid4(), BODY)


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path, receiver: Receiver) -> None:
    webhooks = Webhooks(AddressRules(AllowedHosts.parse("127.0.0.1")), ca_file=tmp_path / "none.pem")
    with pytest.raises(FailedPrecondition, match="No such file"):
        webhooks.post(Webhook(f"https://127.0.0.1:{receiver.port}/"), uuid4(), BODY)


def test_neither_url_nor_secret_is_shown() -> None:
    assert repr(Webhook("https://example.com/token", "secret")) == "Webhook()"
