"""Where a shared response cache is."""

from __future__ import annotations

from pydantic import SecretStr

SCHEMES = ("redis://", "rediss://", "unix://")


def check_url(url: SecretStr) -> SecretStr:
    """Let the address of a Redis or Valkey pass, or none; raises ValueError, which does not repeat its password."""
    text = url.get_secret_value()
    if text and not text.startswith(SCHEMES):
        raise ValueError("write redis://HOST:PORT/0, rediss:// for TLS, or unix:///PATH?db=0; empty: in memory")
    return url
