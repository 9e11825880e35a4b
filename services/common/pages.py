"""Opaque page tokens: a keyset position, bound to the filters that it was made for."""

from __future__ import annotations

import base64
import binascii
import json
from hashlib import sha256
from typing import Any

from services.common.errors import InvalidArgument

MAX_TOKEN_CHARS = 2_048


def page_size(requested: int, *, default: int, maximum: int = 1_000) -> int:
    """Check a requested page size; 0 means the default.

    Raises:
        InvalidArgument: negative, or over the maximum (INVALID_PAGE_SIZE).
    """
    if requested == 0:
        return default
    if not 0 < requested <= maximum:
        raise InvalidArgument.field(
            "page_size",
            f"got {requested}; 1 to {maximum} are allowed, or 0 for {default}",
            reason="INVALID_PAGE_SIZE",
        )
    return requested


def encode(position: list[Any], filters: dict[str, Any]) -> str:
    """Make the token of the page after `position`, a list of JSON values."""
    text = json.dumps([_digest(filters), *position], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(token: str, filters: dict[str, Any]) -> list[Any] | None:
    """Read the position back; None for the first page.

    Raises:
        InvalidArgument: the token is not ours, or was made for other filters (INVALID_PAGE_TOKEN).
    """
    if not token:
        return None
    try:
        if len(token) > MAX_TOKEN_CHARS:
            raise ValueError(token[:16])
        digest, *position = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, TypeError, binascii.Error, RecursionError) as error:
        raise unknown_token() from error
    if digest != _digest(filters):
        raise InvalidArgument.field(
            "page_token",
            "made for other filters; send the filters of the first page, or begin again without a token",
            reason="INVALID_PAGE_TOKEN",
        )
    return list(position)


def unknown_token() -> InvalidArgument:
    """Make the error for a token that is not ours. Tokens are not signed, so who reads a position checks it."""
    return InvalidArgument.field(
        "page_token", "not a token of this service; begin again without one", reason="INVALID_PAGE_TOKEN"
    )


def _digest(filters: dict[str, Any]) -> str:
    return sha256(json.dumps(filters, sort_keys=True, default=str).encode()).hexdigest()[:16]
