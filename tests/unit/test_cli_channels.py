"""`penstock alert channel`: what is secret keeps off the command line, and what was done is shown."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from penstock.api.monitoring.v1 import channels_pb2 as pb
from tests.monitoring_answers import server, terminal
from tests.sdk import ScriptedServer, answer
from tests.unit.test_cli_alerts import refusal, said

__all__ = ["server", "terminal"]
URL = "https://hooks.example.org/services/T0/B0/secret"


def test_a_webhook_whose_path_is_secret_comes_from_a_file_or_the_environment(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.on("SetChannel", lambda request, context: pb.SetChannelResponse(channel=request.channel))
    file = tmp_path / "hook.url"
    file.write_text(f"{URL}\n")
    monkeypatch.setenv("CHAT_HOOK", URL)
    said(capsys, "channel", "set", "chat", "--webhook-file", str(file))
    said(capsys, "channel", "set", "chat", "--webhook-env", "CHAT_HOOK")
    assert [request.channel.webhook.url for request in server.calls["SetChannel"]] == [URL, URL]
    twice = ("channel", "set", "chat", "--webhook-env", "CHAT_HOOK", "--webhook", URL)
    assert "give --webhook URL, or one of" in refusal(capsys, *twice)


def test_a_webhook_can_be_told_to_sign_no_more(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.on("SetChannel", lambda request, context: pb.SetChannelResponse(channel=request.channel))
    monkeypatch.setenv("OPS_KEY", "a-secret-of-the-team")
    hook = ("channel", "set", "ops", "--webhook", "https://example.org/hook")
    said(capsys, *hook)
    said(capsys, *hook, "--no-secret")
    assert [request.clear_secret for request in server.calls["SetChannel"]] == [False, True]
    assert "give a secret, or --no-secret" in refusal(capsys, *hook, "--no-secret", "--secret-env", "OPS_KEY")


@pytest.mark.parametrize("width", [80, 140])
def test_a_history_says_who_did_what_to_which_channel(
    server: ScriptedServer, terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    terminal.setenv("COLUMNS", str(width))
    hook = pb.Channel(name="ops", webhook=pb.WebhookChannel(url="https://example.org/***", signed=True))
    mail = pb.Channel(name="ops", apprise=pb.AppriseChannel(url="mailtos://***"))
    changes = [
        pb.ChannelChange(name="ops", changed_by="eve", before=mail),
        pb.ChannelChange(name="ops", changed_by="bob", before=hook, after=mail),
        pb.ChannelChange(name="ops", changed_by="ada", after=hook),
    ]
    for each in changes:
        each.time.FromDatetime(datetime(2026, 11, 21, tzinfo=UTC))
    server.on("ListChannelChanges", answer(pb.ListChannelChangesResponse(changes=changes)))
    lines = said(capsys, "channel", "history", "ops").splitlines()
    assert server.calls["ListChannelChanges"][0].name == "ops"
    told = [line for line in lines if "ops" in line]
    for line, words in zip(told, (("eve", "deleted"), ("bob", "replaced"), ("ada", "made")), strict=True):
        assert all(word in line for word in words)
    if width == 140:
        assert "https://example.org/***, signed" in told[2]
    assert max(len(line.rstrip()) for line in lines) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_a_list_says_of_each_channel_what_waits_what_arrived_and_what_went_wrong(
    server: ScriptedServer, terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    terminal.setenv("COLUMNS", str(width))
    hook = pb.WebhookChannel(url="https://hooks.example.org/***", signed=True)
    ops = pb.Channel(name="operations-on-call", webhook=hook, waiting_count=1_204, failed_count=7)
    ops.last_error = "hooks.example.org answered 503 Service Unavailable"
    ops.last_delivery_time.FromDatetime(datetime(2026, 11, 20, 9, 30, tzinfo=UTC))
    mail = pb.Channel(name="mail", apprise=pb.AppriseChannel(url="mailtos://***"))
    server.on("ListChannels", answer(pb.ListChannelsResponse(channels=[ops, mail])))
    shown = said(capsys, "channel", "list")
    for words in ("operat", "https://hooks", "signed", "1,204", "2026-11-20", "7 given up", "answered 503", "never"):
        assert words in shown
    assert "mailtos://***" in shown
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= width
