"""Whom alerts tell: webhooks, and e-mail, Slack and the rest by apprise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import islice

from penstock.api.monitoring.v1 import channels_pb2 as pb
from penstock.monitoring_connection import MonitoringConnected, page_size_of
from penstock.paging import pages

TEST_TIMEOUT_S = 60.0


class NotificationChannelsClient(MonitoringConnected):
    """Channels, by name. Their secrets go in, and never come out."""

    def set_webhook(self, name: str, url: str, *, secret: str = "", clear_secret: bool = False) -> pb.Channel:
        """Make or replace a channel that posts JSON.

        Args:
            name: 1 to 100 characters.
            url: https, or http where the service allows it; private addresses only where it allows them by name.
            secret: signs what is posted: 16 to 256 characters. Empty: that of the channel that is replaced stays.
            clear_secret: it does not stay: what is posted is signed no more.

        Raises:
            InvalidArgument: the URL leads where it may not (URL_NOT_ALLOWED), or is none (INVALID_CHANNEL).
            FailedPrecondition: the service has no key to keep secrets with (SECRETS_KEY_MISSING).
        """
        return self._set(_webhook(name, url, secret, clear_secret=clear_secret)).channel

    def differs_from_webhook(self, name: str, url: str, *, secret: str = "", clear_secret: bool = False) -> bool:
        """Say whether `set_webhook` would make another of a channel, its secrets included; raises likewise.

        Nothing is changed, and nothing secret comes out: the service compares.
        """
        request = _webhook(name, url, secret, clear_secret=clear_secret)
        request.validate_only = True
        return self._set(request).changed

    def set_apprise(self, name: str, url: str) -> pb.Channel:
        """Make or replace a channel as apprise writes it, such as `mailtos://…` or `slack://…`; raises likewise.

        The URL names one receiver.
        """
        return self._set(_apprise(name, url)).channel

    def differs_from_apprise(self, name: str, url: str) -> bool:
        """Say whether `set_apprise` would make another of a channel; as `differs_from_webhook`."""
        request = _apprise(name, url)
        request.validate_only = True
        return self._set(request).changed

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

    def changes(self, name: str = "", *, limit: int | None = None) -> Iterator[pb.ChannelChange]:
        """List who made, replaced and deleted channels, the newest first; with a name: only that one's."""

        def fetch(token: str) -> pb.ListChannelChangesResponse:
            request = pb.ListChannelChangesRequest(name=name, page_size=page_size_of(limit), page_token=token)
            return self._connection.unary(self._connection.stub.ListChannelChanges, request)

        return islice((change for page in pages(fetch) for change in page.changes), limit)

    def _set(self, request: pb.SetChannelRequest) -> pb.SetChannelResponse:
        return self._connection.unary(self._connection.stub.SetChannel, request)


def _webhook(name: str, url: str, secret: str, *, clear_secret: bool) -> pb.SetChannelRequest:
    channel = pb.Channel(name=name, webhook=pb.WebhookChannel(url=url, secret=secret))
    return pb.SetChannelRequest(channel=channel, clear_secret=clear_secret)


def _apprise(name: str, url: str) -> pb.SetChannelRequest:
    return pb.SetChannelRequest(channel=pb.Channel(name=name, apprise=pb.AppriseChannel(url=url)))
