"""What notifications say, to programs and to people; what apprise may be asked; and keys for secrets."""

from __future__ import annotations

import base64
import json
import math
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr, ValidationError

from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.outbox import MAX_BODY_BYTES
from services.common.outbox.webhooks import signature
from services.common.sealing import Seal
from services.monitoring.notifications.apprise_urls import DEFAULT_SCHEMES, NEVER, read_schemes, scheme_of
from services.monitoring.notifications.models import (
    AlertNews,
    AppriseTarget,
    Notification,
    StoredChannel,
    WebhookTarget,
)
from services.monitoring.notifications.rendering import alerts_document, text_of, title_of, trial_document
from services.monitoring.settings import MonitoringSettings
from tests.webhook_page import section, told_types, types_of

NOW = datetime(2026, 11, 21, 19, 0, 0, 123_456, tzinfo=UTC)
MESSAGE_ID = UUID("019a3f5e-7c00-7abc-8def-0123456789ab")
FIRING = AlertNews(
    alert_id="a1",
    rule_id="r1",
    rule_name="errors",
    type="ERROR_RATE",
    severity="CRITICAL",
    state="FIRING",
    model="iris",
    version="1.0.0",
    condition="error_rate over 5m > 0.1",
    message="iris 1.0.0: error_rate over 5m is 0.4, > 0.1",
    value=0.4,
    threshold=0.1,
    begin_time=NOW - timedelta(minutes=5),
    fire_time=NOW,
)
RESOLVED = replace(FIRING, state="RESOLVED", resolve_time=NOW + timedelta(minutes=1), value=0.0)
SCHEMES = read_schemes(DEFAULT_SCHEMES)


def test_the_document_is_what_receivers_were_told() -> None:
    document = json.loads(alerts_document(Notification([FIRING]), MESSAGE_ID, "team", NOW))
    assert document == {
        "type": "alerts",
        "version": 1,
        "id": "019a3f5e-7c00-7abc-8def-0123456789ab",
        "time": "2026-11-21T19:00:00.123Z",
        "channel": "team",
        "title": "CRITICAL: errors, iris 1.0.0",
        "text": text_of([FIRING]),
        "severity": "CRITICAL",
        "state": "FIRING",
        "left_out_count": 0,
        "alerts": [
            {
                "id": "a1",
                "rule_id": "r1",
                "rule_name": "errors",
                "type": "ERROR_RATE",
                "severity": "CRITICAL",
                "state": "FIRING",
                "model": "iris",
                "version": "1.0.0",
                "condition": "error_rate over 5m > 0.1",
                "message": "iris 1.0.0: error_rate over 5m is 0.4, > 0.1",
                "value": 0.4,
                "threshold": 0.1,
                "begin_time": "2026-11-21T18:55:00.123Z",
                "fire_time": "2026-11-21T19:00:00.123Z",
                "resolve_time": None,
                "repeated": False,
                "flapping": False,
                "check_id": None,
            }
        ],
    }


def test_the_page_for_receivers_says_of_each_field_the_type_that_is_sent() -> None:
    bare = replace(FIRING, value=None, threshold=math.nan, fire_time=None)
    full = replace(RESOLVED, check_id="c1")
    notifications = [Notification([each]) for each in (bare, full)]
    sent = [json.loads(alerts_document(each, MESSAGE_ID, "team", NOW)) for each in notifications]
    trial = json.loads(trial_document(MESSAGE_ID, "team", "ann", NOW))
    example = json.loads(section("## An example").partition("```json\n")[2].partition("```")[0])
    message, alert = told_types(section("## The message"))
    assert types_of([*sent, trial]) == message
    assert types_of([alert for each in sent for alert in each["alerts"]]) == alert
    assert list(example) == list(sent[0]) == list(trial), "the example is whole, and in order"
    assert list(example["alerts"][0]) == list(sent[0]["alerts"][0])
    for name, types in [*types_of([example]).items(), *types_of(example["alerts"]).items()]:
        assert types <= (message.get(name, set()) | alert.get(name, set()))
    assert example["version"] == sent[0]["version"] == 1


def test_the_page_for_receivers_checks_signatures_as_they_are_made() -> None:
    names: dict[str, Any] = {}
    exec(section("## What a receiver does").partition("```python\n")[2].partition("```")[0], names)
    is_ours, secret, body = names["is_ours"], "a-secret-of-the-team", b'{"a":1}'
    header = signature(secret, body, 1_790_000_000)
    assert is_ours(header, body, f"{secret}\n", 1_790_000_060.5)
    assert not is_ours(header, body + b" ", secret, 1_790_000_060.5)
    assert not is_ours(header, body, "another-secret-of-theirs", 1_790_000_060.5)
    assert not is_ours(header, body, secret, 1_790_000_400.0)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_value_that_is_none_is_null(value: float | None) -> None:
    document = json.loads(alerts_document(Notification([replace(FIRING, value=value)]), MESSAGE_ID, "team", NOW))
    assert document["alerts"][0]["value"] is None


def test_a_message_tells_of_so_many_alerts_and_counts_the_others() -> None:
    alerts = [replace(FIRING, alert_id=str(number), message="m" * 5_000) for number in range(60)]
    body = alerts_document(Notification(alerts), MESSAGE_ID, "team", NOW)
    document = json.loads(body)
    assert (len(document["alerts"]), document["left_out_count"]) == (50, 10)
    assert document["title"] == "CRITICAL: errors, 60 model versions"
    assert "and 50 more" in document["text"]
    assert len(body) < 256 * 1024


def test_a_message_that_would_be_too_large_tells_of_fewer() -> None:
    alerts = [replace(FIRING, message="\U0001f642" * 1_000, condition="\U0001f642" * 1_000) for _ in range(60)]
    body = alerts_document(Notification(alerts), MESSAGE_ID, "team", NOW)
    document = json.loads(body)
    assert len(body) <= MAX_BODY_BYTES
    assert (len(document["alerts"]), document["left_out_count"]) == (12, 48)


def test_a_title_is_one_line() -> None:
    """Else a rule's name would write the headers of a mail."""
    assert title_of([replace(FIRING, rule_name="a\r\nBcc: b")]) == "CRITICAL: a Bcc: b, iris 1.0.0"


@pytest.mark.parametrize(
    ("alerts", "title"),
    [
        ([FIRING], "CRITICAL: errors, iris 1.0.0"),
        ([replace(FIRING, repeated=True)], "CRITICAL again: errors, iris 1.0.0"),
        ([RESOLVED], "Resolved: errors, iris 1.0.0"),
        ([replace(FIRING, severity="INFO"), replace(FIRING, severity="WARNING")], "WARNING: errors, 2 model versions"),
        ([RESOLVED, FIRING], "CRITICAL: errors, iris 1.0.0"),
        ([RESOLVED, RESOLVED], "Resolved: errors, 2 model versions"),
        ([FIRING, replace(FIRING, rule_name="slow")], "CRITICAL: errors and 1 more rule, iris 1.0.0"),
        ([], "Penstock: no alerts"),
    ],
)
def test_the_title_says_the_worst_first(alerts: list[AlertNews], title: str) -> None:
    assert title_of(alerts) == title


def test_people_read_what_happened_since_when_and_what_to_do() -> None:
    assert text_of([FIRING]).splitlines() == [
        "iris 1.0.0: error_rate over 5m is 0.4, > 0.1",
        "Rule: errors (error_rate over 5m > 0.1)",
        "CRITICAL since 2026-11-21 19:00:00 UTC",
        "Alert: penstock alert show a1",
    ]
    resolved = text_of([replace(RESOLVED, flapping=True)])
    assert "Resolved: 2026-11-21 19:01:00 UTC, after it began 2026-11-21 19:00:00 UTC" in resolved
    assert "It comes and goes" in resolved


def test_a_test_says_that_it_is_one_and_who_asked() -> None:
    document = json.loads(trial_document(MESSAGE_ID, "team", "ann", NOW))
    assert (document["type"], document["alerts"]) == ("test", [])
    assert document["text"].startswith("ann asked for this test of the channel team")


@pytest.mark.parametrize("scheme", sorted(NEVER))
def test_what_tells_the_servers_own_machine_or_posts_anywhere_is_allowed_nowhere(scheme: str) -> None:
    with pytest.raises(ValueError, match=f"{scheme} is allowed nowhere"):
        read_schemes(f"slack,{scheme}")
    with pytest.raises(InvalidArgument) as caught:
        scheme_of(f"{scheme}://host/secret", SCHEMES, "url")
    assert caught.value.reason == "URL_NOT_ALLOWED"
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "INVALID_CHANNEL"),
        ("slack", "INVALID_CHANNEL"),
        ("slack://", "INVALID_CHANNEL"),
        ("://secret", "INVALID_CHANNEL"),
        ("slack://a\nb", "INVALID_CHANNEL"),
        ("slack://" + "a" * 2_048, "INVALID_CHANNEL"),
        ("https://hooks.slack.com/services/secret", "URL_NOT_ALLOWED"),
        ("file:///etc/passwd", "URL_NOT_ALLOWED"),
        ("mqtt://secret@host/topic", "URL_NOT_ALLOWED"),
        ("mailtos://u:secret@example.com?verify=no", "URL_NOT_ALLOWED"),
        ("mailtos://u:secret@example.com?to=a&VERIFY=no", "URL_NOT_ALLOWED"),
        ("mailtos://u:secret@example.com?to=a%26verify%3Dno", "URL_NOT_ALLOWED"),
        ("mailtos://u:secret@example.com?verify+=no", "URL_NOT_ALLOWED"),
        ("mailtos://u:secret@example.com?to=a&+verify=no", "URL_NOT_ALLOWED"),
        ("slack://secret/?redirect=yes", "URL_NOT_ALLOWED"),
        ("slack://secret/?optional=yes", "URL_NOT_ALLOWED"),
        ("workflows://secret/?template=/etc/passwd", "URL_NOT_ALLOWED"),
        ("mailto://u:secret@example.com?pgppub=/etc/passwd", "URL_NOT_ALLOWED"),
    ],
)
def test_an_apprise_url_that_may_not_be_is_refused_and_not_repeated(url: str, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        scheme_of(url, SCHEMES, "channel.apprise.url")
    assert caught.value.reason == reason
    assert "secret" not in caught.value.message
    assert caught.value.violations[0].field == "channel.apprise.url"


def test_a_scheme_is_read_whatever_its_case() -> None:
    assert scheme_of("Slack://token/#channel", SCHEMES, "url") == "slack"


def test_settings_that_make_no_sense_are_refused_at_the_start() -> None:
    url = SecretStr("postgresql://localhost/x")
    one_sender: dict[str, Any] = {"notification_senders": 1}  # there is no second half of it for those that are well
    for wrong in (one_sender, {"apprise_schemes": "slack,syslog"}, {"notification_allowed_hosts": "http://x"}):
        with pytest.raises(ValidationError):
            MonitoringSettings(database_url=url, **wrong)


def key_file(folder: Path, *keys: bytes) -> Path:
    path = folder / "secrets.key"
    path.write_bytes(b"\n".join(keys) + b"\n")
    return path


def test_what_was_sealed_opens_with_its_key_and_no_other(tmp_path: Path) -> None:
    old, new = (base64.b64encode(os.urandom(32)) for _ in range(2))
    seal = Seal(key_file(tmp_path, old))
    sealed = seal.seal(b"secret")
    assert b"secret" not in sealed
    assert seal.open(sealed) == b"secret"
    key_file(tmp_path, new, old)  # without a restart
    assert seal.open(sealed) == b"secret"
    fresh = seal.seal(b"another")
    key_file(tmp_path, new)
    assert seal.open(fresh) == b"another"
    with pytest.raises(FailedPrecondition) as caught:
        seal.open(sealed)
    assert caught.value.reason == "SECRETS_KEY_CHANGED"


def test_a_key_is_read_as_openssl_and_as_python_write_it(tmp_path: Path) -> None:
    raw = b"\xfb\xff" * 16
    written = (base64.b64encode(raw), base64.urlsafe_b64encode(raw), base64.b64encode(raw).rstrip(b"="))
    sealed = Seal(key_file(tmp_path, written[0])).seal(b"x")
    for key in written:
        assert Seal(key_file(tmp_path, b"", key, b"")).open(sealed) == b"x"


@pytest.mark.parametrize("content", [b"", b"\n\n", b"short", b"!" * 44, base64.b64encode(b"x" * 31)])
def test_a_file_that_holds_no_key_is_refused_with_what_to_do_and_not_shown(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(FailedPrecondition, match="openssl rand -base64 32") as caught:
        Seal(key_file(tmp_path, content)).check()
    assert caught.value.reason == "SECRETS_KEY_INVALID"
    assert "short" not in caught.value.message


def test_no_key_and_no_file_are_told_apart(tmp_path: Path) -> None:
    Seal(None).check()
    with pytest.raises(FailedPrecondition) as missing:
        Seal(None).seal(b"x")
    assert missing.value.reason == "SECRETS_KEY_MISSING"
    with pytest.raises(FailedPrecondition, match="No such file"):
        Seal(tmp_path / "none").check()


def test_nothing_secret_is_shown_where_a_target_is() -> None:
    stored = StoredChannel("team", "webhook", "https://example.com/***", False, b"sealed-secret", b"plain-secret")
    for shown in (WebhookTarget("https://x/secret", "secret"), AppriseTarget("slack://secret"), stored):
        assert "secret" not in repr(shown)
