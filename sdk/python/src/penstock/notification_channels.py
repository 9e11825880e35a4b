"""Whom alerts tell: webhooks, and e-mail, Slack and the rest by apprise."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from penstock.api.monitoring.v1 import channels_pb2 as pb
from penstock.monitoring_connection import MonitoringConnected

TEST_TIMEOUT_S = 60.0


class NotificationChannelsClient(MonitoringConnected):
    """Channels, by name. Their secrets go in, and never come out."""

    def set_webhook(self, name: str, url: str, *, secret: str = "") -> pb.Channel:
        """Make or replace a channel that posts JSON.

        Args:
            name: 1 to 100 characters.
            url: https, or http where the service allows it; private addresses only where it allows them by name.
            secret: signs what is posted: 16 to 256 characters. Empty: that of the channel that is replaced stays.

        Raises:
            InvalidArgument: the URL leads where it may not (URL_NOT_ALLOWED), or is none (INVALID_CHANNEL).
        """
        return self._set(pb.Channel(name=name, webhook=pb.WebhookChannel(url=url, secret=secret)))

    def set_apprise(self, name: str, url: str) -> pb.Channel:
        """Make or replace a channel as apprise writes it, such as `mailto://…` or `slack://…`; raises likewise."""
        return self._set(pb.Channel(name=name, apprise=pb.AppriseChannel(url=url)))

    def delete(self, name: str) -> None:
        """Delete a channel; raises NotFound, and FailedPrecondition where rules name it (CHANNEL_IN_USE)."""
        self._connection.unary(self._connection.stub.DeleteChannel, pb.DeleteChannelRequest(name=name))

    def list(self) -> Sequence[pb.Channel]:
        """List the channels by name, without their secrets."""
        return list(self._connection.unary(self._connection.stub.ListChannels, pb.ListChannelsRequest()).channels)

    def test(self, name: str) -> timedelta:
        """Send a message that says it is a test, wait for what comes of it, and say how long that took.

        Raises:
            FailedPrecondition: it did not arrive, and why (NOT_DELIVERED).
        """
        request = pb.TestChannelRequest(name=name)
        answer = self._connection.unary(self._connection.stub.TestChannel, request, timeout_s=TEST_TIMEOUT_S)
        return timedelta(milliseconds=answer.duration_ms)

    def _set(self, channel: pb.Channel) -> pb.Channel:
        request = pb.SetChannelRequest(channel=channel)
        return self._connection.unary(self._connection.stub.SetChannel, request).channel
