"""Channels by apprise: a mail that arrives, and what is said of one that does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from penstock.api.monitoring.v1 import channels_pb2 as pb
from services.monitoring.notifications.assembly import REQUEST_CHILDREN
from tests.channels import SECRET, Running, key_file, receiver, running, serving
from tests.monitoring import eventually
from tests.receivers import Receiver, answers
from tests.smtp import receiving_mail

__all__ = ["key_file", "receiver", "running"]


@pytest.mark.slow  # each message loads apprise in a process of its own
def test_mail_is_sent_by_apprise_to_whom_the_operator_allows(running: Running) -> None:
    with receiving_mail() as mailbox:
        url = f"mailto://127.0.0.1:{mailbox.port}/?from=penstock@example.com&to=ann@example.com"
        shown = running.apprise("mail", url)
        assert shown.apprise.url == "mailto://***"
        same = pb.SetChannelRequest(channel=pb.Channel(name="mail", apprise=pb.AppriseChannel(url=url)))
        same.validate_only = True
        assert not running.stub.SetChannel(same, timeout=60).changed
        running.test("mail")
        for _ in range(REQUEST_CHILDREN):  # as if tests of channels were under way that hang
            assert running.parts.channels._senders._apprise._places.acquire(timeout=0)
        (message_id,) = running.notify("mail")
        eventually(lambda: len(mailbox.messages) == 2)
    tested, told = mailbox.messages
    assert "a test of mail" in tested
    assert "CRITICAL: errors, iris 1.0.0" in told
    assert "error_rate is 0.4, > 0.1" in told
    assert told.rstrip().endswith(f"Message: {message_id}")


@pytest.mark.slow
def test_a_refusal_by_apprises_receiver_says_its_status_and_no_secret(
    clone_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, receiver: Receiver, key_file: Path
) -> None:
    receiver.otherwise = answers(401)
    options = {"secrets_key_file": key_file, "apprise_schemes": "gotify"}
    with serving(clone_database("monitoring"), monkeypatch, **options) as running:
        running.apprise("gotify", f"gotify://127.0.0.1:{receiver.port}/{SECRET}")
        with pytest.raises(grpc.RpcError, match="401") as caught:
            running.test("gotify")
        assert SECRET not in str(caught.value)
