"""Channels in the embedded suite: it makes a key for their secrets by itself, and keeps it."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import grpc
import pytest

from penstock.api.monitoring.v1 import channels_pb2 as pb
from penstock.api.monitoring.v1.channels_pb2_grpc import ChannelServiceStub
from penstock.cli.embedded.detached import start_detached
from penstock.cli.embedded.folder import DataFolder
from tests.commands import PENSTOCK
from tests.embedded import DEADLINE_S
from tests.receivers import receiving
from tests.suite import FREE_PORTS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
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
