"""Putting this part of monitoring together: the outbox with its workers, and the channels."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.addresses import AddressRules, AllowedHosts
from services.common.outbox import Outbox, OutboxCollector, OutboxLimits, OutboxWorkers
from services.common.outbox.webhooks import Webhooks
from services.common.server import Service
from services.monitoring.notifications import servicer
from services.monitoring.notifications.apprise_sender import AppriseSender
from services.monitoring.notifications.apprise_urls import read_schemes
from services.monitoring.notifications.channels import Channels
from services.monitoring.notifications.sealing import Seal
from services.monitoring.notifications.senders import Senders
from services.monitoring.notifications.store import ChannelStore
from services.monitoring.parts import Parts


def assemble(parts: Parts) -> Sequence[Service]:
    """Build the part on what others have built, start sending, and give what it serves."""
    settings = parts.settings
    seal = Seal(settings.secrets_key_file)
    seal.check()
    rules = AddressRules(AllowedHosts.parse(settings.notification_allowed_hosts))
    senders = Senders(
        rules,
        Webhooks(rules, ca_file=settings.notification_ca_file),
        AppriseSender(settings.notification_allowed_hosts),
        read_schemes(settings.apprise_schemes),
    )
    parts.outbox = Outbox(parts.database, "monitoring")
    parts.channels = Channels(parts.database, ChannelStore(parts.database), parts.outbox, seal, senders, parts.clock)
    limits = OutboxLimits(slots=settings.notification_senders, poll_interval_s=settings.notification_interval_ms / 1000)
    workers = OutboxWorkers(parts.outbox, parts.channels.deliver, limits)
    workers.open()
    parts.stack.callback(workers.close)
    parts.registry.register(OutboxCollector(parts.outbox, workers))
    return (servicer.service(parts.channels),)
