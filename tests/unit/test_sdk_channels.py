"""Notification channels: their secrets go in, and tests go once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from penstock import Client, RetryPolicy
from penstock import errors as sdk
from penstock.api.monitoring.v1 import channels_pb2 as pb
from services.common import errors
from tests.sdk import ScriptedServer, answer, client_of, fail, scripted_server

QUICK = RetryPolicy(attempts=3, base_delay_s=0.001, max_delay_s=0.002)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    with client_of(server, retry=QUICK) as client:
        yield client


def test_a_channel_is_a_webhook_or_apprise(server: ScriptedServer, client: Client) -> None:
    server.on("SetChannel", lambda request, context: pb.SetChannelResponse(channel=request.channel))
    made = client.monitoring.channels.set_webhook("ops", "https://example.org/hook", secret="s" * 16)
    assert (made.webhook.url, made.webhook.secret) == ("https://example.org/hook", "s" * 16)
    assert client.monitoring.channels.set_apprise("mail", "mailto://a:b@c").apprise.url == "mailto://a:b@c"
    client.monitoring.channels.set_webhook("ops", "https://example.org/hook", clear_secret=True)
    assert [request.clear_secret for request in server.calls["SetChannel"]] == [False, False, True]
    changes = [pb.ChannelChange(name="ops", after=made)]
    server.on("ListChannelChanges", answer(pb.ListChannelChangesResponse(changes=changes)))
    assert list(client.monitoring.channels.changes("ops")) == changes
    server.on("ListChannels", answer(pb.ListChannelsResponse(channels=[made])))
    assert client.monitoring.channels.list() == [made]
    server.on("DeleteChannel", answer(pb.DeleteChannelResponse()))
    client.monitoring.channels.delete("ops")
    assert [request.name for request in server.calls["DeleteChannel"]] == ["ops"]


def test_a_channel_is_tried_once_and_says_how_long_it_took(server: ScriptedServer, client: Client) -> None:
    server.on("TestChannel", answer(pb.TestChannelResponse(duration_ms=120)))
    assert client.monitoring.channels.test("ops") == timedelta(milliseconds=120)
    server.on("TestChannel", fail(errors.Unavailable("the database is gone")))
    with pytest.raises(sdk.Unavailable):
        client.monitoring.channels.test("ops")
    assert len(server.calls["TestChannel"]) == 2


def test_channels_are_compared_by_the_service_and_nothing_is_set(server: ScriptedServer, client: Client) -> None:
    changed = [True, False]
    server.on("SetChannel", lambda request, context: pb.SetChannelResponse(changed=changed.pop(0)))
    channels = client.monitoring.channels
    assert channels.differs_from_webhook("ops", "https://example.org/hook", secret="s" * 16, clear_secret=False)
    assert not channels.differs_from_apprise("mail", "mailtos://a:b@c")
    hook, mail = server.calls["SetChannel"]
    assert (hook.validate_only, mail.validate_only) == (True, True)
    assert (hook.channel.webhook.url, hook.channel.webhook.secret) == ("https://example.org/hook", "s" * 16)
    assert (mail.channel.name, mail.channel.apprise.url) == ("mail", "mailtos://a:b@c")
