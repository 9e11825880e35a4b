"""The client by which this service speaks to the registry and to the trainer."""

from __future__ import annotations

from penstock import Client
from penstock.retries import RetryPolicy
from services.monitoring.settings import MonitoringSettings

TIMEOUT_S = 5.0
"""Of a call with its retries: a person waits for a lineage, and what is not answered in time is said to be missing."""


def client_of(settings: MonitoringSettings) -> Client:
    """Make a client with this service's own key and certificates; nothing connects before its first call."""
    token = settings.service_token if settings.service_token_file is None else None
    own_pair = settings.ca_file is not None and settings.cert_file is None
    return Client(
        registry=settings.registry_address,
        trainer=settings.trainer_address,
        token=token.get_secret_value() if token else "",
        token_file=settings.service_token_file,
        ca_file=settings.ca_file,
        cert_file=settings.tls_cert_file if own_pair else settings.cert_file,
        key_file=settings.tls_key_file if own_pair else settings.key_file,
        insecure=settings.insecure_token,
        timeout_s=TIMEOUT_S,
        retry=RetryPolicy(attempts=2),
    )
