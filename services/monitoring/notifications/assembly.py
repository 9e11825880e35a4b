"""Putting this part of monitoring together: the outbox with its workers, and the channels."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.addresses import AddressRules, AllowedHosts
from services.common.outbox import Outbox, OutboxCollector, OutboxLimits, OutboxWorkers
from services.common.outbox.webhooks import Webhooks
from services.common.sealing import Seal
from services.common.server import Service
from services.monitoring.notifications import servicer
from services.monitoring.notifications.apprise_sender import AppriseSender
from services.monitoring.notifications.apprise_urls import read_schemes
from services.monitoring.notifications.channels import Channels
from services.monitoring.notifications.senders import Senders
from services.monitoring.notifications.store import ChannelStore
from services.monitoring.parts import Parts

REQUEST_CHILDREN = 2
"""Processes of apprise's at once for those who set channels and test them."""


def assemble(parts: Parts) -> Sequence[Service]:
    """Build the part on what others have built, start sending, and give what it serves."""
    settings = parts.settings
    seal = Seal(settings.secrets_key_file)
    seal.check()
    rules = AddressRules(AllowedHosts.parse(settings.notification_allowed_hosts))
    webhooks, schemes = Webhooks(rules, ca_file=settings.notification_ca_file), read_schemes(settings.apprise_schemes)
    # Apart, so that whoever tries channels out keeps no place from what is to be delivered.
    requests, deliveries = (
        Senders(rules, webhooks, AppriseSender(settings.notification_allowed_hosts, children), schemes)
        for children in (REQUEST_CHILDREN, settings.notification_senders)
    )
    parts.outbox = Outbox(parts.database, "monitoring")
    store = ChannelStore(parts.database)
    parts.channels = Channels(parts.database, store, parts.outbox, seal, requests, deliveries, parts.clock)
    limits = OutboxLimits(slots=settings.notification_senders, poll_interval_s=settings.notification_interval_ms / 1000)
    workers = OutboxWorkers(parts.outbox, parts.channels.deliver, limits)
    workers.open()
    parts.stack.callback(workers.close)
    parts.registry.register(OutboxCollector(parts.outbox, workers))
    return (servicer.service(parts.channels),)
