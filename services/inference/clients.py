"""The client by which this service speaks to the registry and to monitoring."""

from __future__ import annotations

from penstock import Client
from penstock.retries import RetryPolicy
from services.common import clients
from services.inference.settings import InferenceSettings


def client_of(
    settings: InferenceSettings, *, timeout_s: float = clients.TIMEOUT_S, retry: RetryPolicy | None = None
) -> Client:
    """Make a client with this service's own key and certificates; nothing connects before its first call."""
    return clients.client_of(
        settings,
        registry=settings.registry_address,
        monitoring=settings.monitoring_address,
        timeout_s=timeout_s,
        retry=retry,
    )
