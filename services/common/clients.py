"""The client by which one service speaks to others: with its own key, and certificates of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from penstock import Client
from penstock.retries import RetryPolicy

TIMEOUT_S = 30.0
"""Of a call with its retries, where nothing else is said."""


class ClientSettings(Protocol):
    """What a service's settings say of its calls to others."""

    service_token: SecretStr | None
    service_token_file: Path | None
    insecure_token: bool
    ca_file: Path | None
    cert_file: Path | None
    key_file: Path | None
    tls_cert_file: Path | None
    tls_key_file: Path | None


def client_of(
    settings: ClientSettings,
    *,
    registry: str | None = None,
    inference: str | None = None,
    monitoring: str | None = None,
    trainer: str | None = None,
    timeout_s: float = TIMEOUT_S,
    retry: RetryPolicy | None = None,
) -> Client:
    """Make a client of some services, by their addresses; nothing connects before its first call."""
    token = settings.service_token if settings.service_token_file is None else None
    own_pair = settings.ca_file is not None and settings.cert_file is None
    return Client(
        registry=registry,
        inference=inference,
        monitoring=monitoring,
        trainer=trainer,
        token=token.get_secret_value() if token else "",
        token_file=settings.service_token_file,
        ca_file=settings.ca_file,
        cert_file=settings.tls_cert_file if own_pair else settings.cert_file,
        key_file=settings.tls_key_file if own_pair else settings.key_file,
        insecure=settings.insecure_token,
        timeout_s=timeout_s,
        retry=retry,
    )
