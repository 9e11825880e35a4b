"""Channels on the wire; requests are checked here."""

from __future__ import annotations

import re
from collections.abc import Sequence

from penstock.api.monitoring.v1 import channels_pb2 as pb
from services.common.errors import InvalidArgument
from services.common.outbox.webhooks import secret_problem
from services.monitoring.notifications.channels import WEBHOOK, ChannelDraft
from services.monitoring.notifications.models import AppriseTarget, Change, Channel, Said, WebhookTarget

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")


def channel_name(name: str, field: str) -> str:
    """Check a channel's name.

    Raises:
        InvalidArgument: INVALID_CHANNEL.
    """
    if not _NAME.fullmatch(name):
        sentence = f"got {name[:100]!r}; 1 to 100 letters and digits are allowed, with . _ - between them"
        raise InvalidArgument.field(field, sentence, reason="INVALID_CHANNEL")
    return name


def draft(request: pb.SetChannelRequest) -> ChannelDraft:
    """Read a channel that is to be made or replaced.

    Raises:
        InvalidArgument: INVALID_CHANNEL. What came as a secret or a URL is not repeated.
    """
    channel = request.channel
    name = channel_name(channel.name, "channel.name")
    match channel.WhichOneof("kind"):
        case "webhook":
            secret = channel.webhook.secret
            if secret and (sentence := secret_problem(secret)):
                raise InvalidArgument.field("channel.webhook.secret", sentence, reason="INVALID_CHANNEL")
            if secret and request.clear_secret:
                sentence = "there is a secret to sign with, too: give one or clear it"
                raise InvalidArgument.field("clear_secret", sentence, reason="INVALID_CHANNEL")
            return ChannelDraft(name, WebhookTarget(channel.webhook.url, secret), request.clear_secret)
        case "apprise":
            return ChannelDraft(name, AppriseTarget(channel.apprise.url))
        case _:
            sentence = "it is missing: set webhook, or apprise for e-mail, Slack and the rest"
            raise InvalidArgument.field("channel.kind", sentence, reason="INVALID_CHANNEL")


def channel_proto(channel: Channel) -> pb.Channel:
    """Write a channel, without its secrets."""
    message = pb.Channel(
        name=channel.name,
        updated_by=channel.updated_by,
        waiting_count=channel.waiting_count,
        failed_count=channel.failed_count,
        last_error=channel.last_error,
    )
    _show(message, channel)
    if channel.update_time is not None:
        message.update_time.FromDatetime(channel.update_time)
    if channel.last_delivery_time is not None:
        message.last_delivery_time.FromDatetime(channel.last_delivery_time)
    return message


def changes_response(changes: Sequence[Change], next_page_token: str) -> pb.ListChannelChangesResponse:
    """Write a page of changes."""
    return pb.ListChannelChangesResponse(changes=map(_change_proto, changes), next_page_token=next_page_token)


def _change_proto(change: Change) -> pb.ChannelChange:
    message = pb.ChannelChange(name=change.name, changed_by=change.changed_by)
    message.time.FromDatetime(change.time)
    if change.before is not None:
        message.before.name = change.name
        _show(message.before, change.before)
    if change.after is not None:
        message.after.name = change.name
        _show(message.after, change.after)
    return message


def _show(message: pb.Channel, channel: Channel | Said) -> None:
    if channel.kind == WEBHOOK:
        message.webhook.url, message.webhook.signed = channel.shown_url, channel.signed
    else:
        message.apprise.url = channel.shown_url
