"""The two ways to reach a channel."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from services.common.addresses import AddressRules, UrlRefused
from services.common.errors import InvalidArgument
from services.common.outbox.webhooks import Webhook, Webhooks
from services.monitoring.notifications.apprise_sender import AppriseSender
from services.monitoring.notifications.apprise_urls import scheme_of
from services.monitoring.notifications.models import Target, WebhookTarget
from services.monitoring.notifications.rendering import RESOLVED

_KINDS = {"CRITICAL": "failure", "WARNING": "warning", "INFO": "info"}


class Senders:
    """Checks targets and sends to them. What somebody waits for, and what the outbox delivers, have one each."""

    def __init__(
        self, rules: AddressRules, webhooks: Webhooks, apprise: AppriseSender, apprise_schemes: frozenset[str]
    ) -> None:
        self._rules = rules
        self._webhooks = webhooks
        self._apprise = apprise
        self._schemes = apprise_schemes

    def check(self, target: Target) -> str:
        """See that a target may be reached, and give its URL as it may be shown.

        Raises:
            InvalidArgument: INVALID_CHANNEL, URL_NOT_ALLOWED.
        """
        if isinstance(target, WebhookTarget):
            return self._check_webhook(target)
        scheme = scheme_of(target.url, self._schemes, "channel.apprise.url")
        self._apprise.check(target.url, "channel.apprise.url")
        return f"{scheme}://***"

    def has_path(self, target: WebhookTarget) -> bool:
        """Whether a webhook that was checked has a path or a query."""
        return self._rules.endpoint(target.url).target != "/"

    def send(self, target: Target, message_id: UUID, document: bytes) -> None:
        """Send a document, once; raises as `Deliver` says."""
        if isinstance(target, WebhookTarget):
            self._webhooks.post(Webhook(target.url, target.secret), message_id, document)
            return
        told: dict[str, Any] = json.loads(document)
        scheme = scheme_of(target.url, self._schemes, "url")
        kind = "success" if told["state"] == RESOLVED else _KINDS[told["severity"]]
        # Mail and chats have no header for it: by this line a person, or a filter, knows what came twice.
        self._apprise.send(target.url, scheme, told["title"], told["text"], kind, f"Message: {message_id}")

    def _check_webhook(self, target: WebhookTarget) -> str:
        try:
            return self._webhooks.shown(target.url)
        except UrlRefused as error:
            sentence = f"{error.message}; hosts of your own are named in PENSTOCK_NOTIFICATION_ALLOWED_HOSTS"
            raise InvalidArgument.field("channel.webhook.url", sentence, reason=error.reason) from error
