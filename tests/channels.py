"""A monitoring service whose channels a test sets, tries and tells."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import SecretStr

from penstock.api.monitoring.v1 import channels_pb2 as pb
from penstock.api.monitoring.v1.channels_pb2_grpc import ChannelServiceStub
from services.monitoring.__main__ import build
from services.monitoring.notifications.models import AlertNews, Notification
from services.monitoring.parts import Parts
from services.monitoring.settings import MonitoringSettings
from tests.receivers import Receiver, receiving

TIMEOUT_S = 60
SECRET = "a-secret-that-nobody-sees"
NEWS = Notification(
    [
        AlertNews(
            alert_id="a1", rule_id="r1", rule_name="errors", type="ERROR_RATE", severity="CRITICAL", state="FIRING",
            model="iris", version="1.0.0", condition="error_rate > 0.1", message="error_rate is 0.4, > 0.1", value=0.4,
            threshold=0.1, begin_time=datetime.now(UTC),
        )
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Running:
    """A monitoring service, its channels, and what it is made of."""

    stub: ChannelServiceStub
    parts: Parts
    url: str

    def set(self, name: str, **kind: Any) -> pb.Channel:
        return self.stub.SetChannel(
            pb.SetChannelRequest(channel=pb.Channel(name=name, **kind)), timeout=TIMEOUT_S
        ).channel

    def webhook(self, name: str, url: str, secret: str = "", *, clear_secret: bool = False) -> pb.Channel:
        channel = pb.Channel(name=name, webhook=pb.WebhookChannel(url=url, secret=secret))
        request = pb.SetChannelRequest(channel=channel, clear_secret=clear_secret)
        return self.stub.SetChannel(request, timeout=TIMEOUT_S).channel

    def apprise(self, name: str, url: str) -> pb.Channel:
        return self.set(name, apprise=pb.AppriseChannel(url=url))

    def test(self, name: str) -> int:
        return self.stub.TestChannel(pb.TestChannelRequest(name=name), timeout=TIMEOUT_S).duration_ms

    def delete(self, name: str) -> None:
        self.stub.DeleteChannel(pb.DeleteChannelRequest(name=name), timeout=TIMEOUT_S)

    def listed(self) -> list[pb.Channel]:
        return list(self.stub.ListChannels(pb.ListChannelsRequest(), timeout=TIMEOUT_S).channels)

    def changes(self, name: str = "", **more: Any) -> pb.ListChannelChangesResponse:
        return self.stub.ListChannelChanges(pb.ListChannelChangesRequest(name=name, **more), timeout=TIMEOUT_S)

    def notify(self, *names: str) -> list[str]:
        with self.parts.database.transaction() as connection:
            return [str(each) for each in self.parts.channels.notify(connection, names, NEWS)]


@contextmanager
def serving(url: str, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[Running]:
    """Serve, and keep hold of the parts."""
    kept: list[Parts] = []
    made = Parts.__init__

    def keep(self: Parts, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options)
        kept.append(self)

    monkeypatch.setattr(Parts, "__init__", keep)
    given = {
        "_env_file": None, "port": 0, "metrics_port": 0, "notification_allowed_hosts": "127.0.0.1,localhost",
        "notification_interval_ms": 20, "registry_address": "127.0.0.1:1", **settings,
    }  # fmt: skip
    with ExitStack() as stack:
        server = build(MonitoringSettings(database_url=SecretStr(url), **given), stack)
        port = server.open()
        stack.callback(server.close)
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}"))
        yield Running(ChannelServiceStub(channel), kept[-1], url)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "secrets.key"
    path.write_bytes(base64.b64encode(os.urandom(32)))
    return path


@pytest.fixture
def running(clone_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, key_file: Path) -> Iterator[Running]:
    with serving(clone_database("monitoring"), monkeypatch, secrets_key_file=key_file) as served:
        yield served


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as listening:
        yield listening
