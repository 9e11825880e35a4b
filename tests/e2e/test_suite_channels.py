"""Channels and webhooks in the embedded suite: it makes a key for their secrets by itself, and keeps it."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import grpc
import pytest

import penstock
from penstock.api.monitoring.v1 import channels_pb2 as pb
from penstock.api.monitoring.v1.channels_pb2_grpc import ChannelServiceStub
from penstock.cli.embedded.detached import start_detached
from penstock.cli.embedded.folder import DataFolder
from tests.commands import PENSTOCK
from tests.embedded import DEADLINE_S
from tests.receivers import receiving
from tests.suite import FREE_PORTS

pytestmark = pytest.mark.slow
SECRET = "a-secret-that-nobody-sees"


def test_a_signed_webhook_works_at_once_and_after_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, port in {**FREE_PORTS, "PENSTOCK_NOTIFICATION_ALLOWED_HOSTS": "127.0.0.1"}.items():
        monkeypatch.setenv(name, port)
    monkeypatch.chdir(tmp_path)
    folder = DataFolder(tmp_path / "data")
    command = (*PENSTOCK, "up", "--data-dir", str(folder.path))
    with receiving() as receiver:
        for first in (True, False):
            address = start_detached(folder, command, deadline_s=DEADLINE_S).addresses["monitoring"]
            try:
                with grpc.insecure_channel(address) as channel:
                    stub = ChannelServiceStub(channel)
                    if first:
                        webhook = pb.WebhookChannel(url=receiver.url, secret=SECRET)
                        stub.SetChannel(pb.SetChannelRequest(channel=pb.Channel(name="team", webhook=webhook)))
                    stub.TestChannel(pb.TestChannelRequest(name="team"), timeout=DEADLINE_S)
            finally:
                subprocess.run([*PENSTOCK, "down", "--data-dir", folder.path], check=True, timeout=DEADLINE_S)
    assert ["X-Penstock-Signature" in post.headers for post in receiver.posts] == [True, True]
    assert stat.S_IMODE(folder.secrets_key_file.stat().st_mode) == 0o600
    assert SECRET not in "".join(log.read_text() for log in folder.logs.iterdir())


def test_a_fetch_tells_of_its_end_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = {"PENSTOCK_FETCHER_ALLOWED_HOSTS": "127.0.0.1", "PENSTOCK_FETCHER_WEBHOOK_ALLOWED_HOSTS": "127.0.0.1"}
    for name, value in {**FREE_PORTS, **allowed}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    folder = DataFolder(tmp_path / "data")
    command = (*PENSTOCK, "up", "--data-dir", str(folder.path))
    with receiving() as receiver:
        address = start_detached(folder, command, deadline_s=DEADLINE_S).addresses["fetcher"]
        try:
            with penstock.Client(fetcher=address) as client:
                client.fetcher.start(
                    "url", "http://127.0.0.1:1/a.onnx", max_attempts=1, webhook=receiver.url, webhook_secret=SECRET
                )
            receiver.wait()
        finally:
            subprocess.run([*PENSTOCK, "down", "--data-dir", folder.path], check=True, timeout=DEADLINE_S)
    (post,) = receiver.posts
    assert (post.document["error"]["reason"], "X-Penstock-Signature" in post.headers) == ("NETWORK_ERROR", True)
