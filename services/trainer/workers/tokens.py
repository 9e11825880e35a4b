"""The secrets that outside workers show: 256 random bits, of which only the SHA-256 is kept."""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256

TOKEN_CHARS = 43


def new_token() -> str:
    """Make a token."""
    return secrets.token_urlsafe(32)


def digest_of(token: str) -> str:
    """Give what is kept of a token: it has enough randomness for a fast hash to hide it."""
    return sha256(token.encode()).hexdigest()


def is_token_of(token: str, digest: str) -> bool:
    """Compare, in a time that tells nothing."""
    return hmac.compare_digest(digest_of(token), digest)
