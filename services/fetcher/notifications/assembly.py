"""Putting webhooks together: the outbox, and the workers that send what is in it."""

from __future__ import annotations

from contextlib import ExitStack

from prometheus_client import CollectorRegistry

from services.common.addresses import AddressRules, AllowedHosts, OnlyHosts
from services.common.outbox import Outbox, OutboxCollector, OutboxLimits, OutboxWorkers
from services.common.outbox.webhooks import Webhooks
from services.common.postgres import Database
from services.common.sealing import Seal
from services.fetcher.notifications.webhooks import FetchWebhooks
from services.fetcher.settings import FetcherSettings
from services.fetcher.store.fetches import FetchStore


def open_webhooks(
    settings: FetcherSettings, database: Database, fetches: FetchStore, registry: CollectorRegistry, stack: ExitStack
) -> FetchWebhooks:
    """Build them, and start sending where this process fetches; what is opened, the stack closes."""
    seal = Seal(settings.secrets_key_file)
    seal.check()
    setting = "PENSTOCK_FETCHER_WEBHOOK_ALLOWED_HOSTS where the fetcher runs"
    rules = AddressRules(
        AllowedHosts.parse(settings.fetcher_webhook_allowed_hosts),
        only=OnlyHosts.parse(settings.fetcher_webhook_only_hosts),
        setting=setting,
    )
    outbox = Outbox(database, "fetcher")
    webhooks = FetchWebhooks(outbox, fetches, seal, Webhooks(rules, ca_file=settings.fetcher_webhook_ca_file))
    if settings.fetcher_worker_enabled:
        limits = OutboxLimits(
            slots=settings.fetcher_webhook_senders, poll_interval_s=settings.fetcher_webhook_interval_ms / 1000
        )
        workers = OutboxWorkers(outbox, webhooks.deliver, limits)
        workers.open()
        stack.callback(workers.close)
        registry.register(OutboxCollector(outbox, workers))
    return webhooks
