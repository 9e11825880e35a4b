"""Encrypting what the database must not know: Fernet (AES-128-CBC with HMAC-SHA256), by keys in a file.

The file has a key a line, each 32 random bytes in base64: the first encrypts, all of them decrypt, so that a new key is
put on top and the old one goes once every channel was set again.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.errors import FailedPrecondition

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

MAX_FILE_BYTES = 64 * 1024
KEY_BYTES = 32
ADVICE = "make one with `openssl rand -base64 32 > FILE` and name the file in PENSTOCK_SECRETS_KEY_FILE"


class Seal:
    """Encrypts and decrypts; the file is read each time, so that a new key needs no restart."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def check(self) -> None:
        """Read the file, where there is one; raises FailedPrecondition where it holds no keys (SECRETS_KEY_INVALID)."""
        if self._path is not None:
            self._fernet()

    @property
    def ready(self) -> bool:
        """Whether there is a file of keys."""
        return self._path is not None

    def seal(self, text: bytes) -> bytes:
        """Encrypt.

        Raises:
            FailedPrecondition: there is no key (SECRETS_KEY_MISSING), or its file holds none (SECRETS_KEY_INVALID).
        """
        return self._fernet().encrypt(text)

    def open(self, sealed: bytes) -> bytes:
        """Decrypt.

        Raises:
            FailedPrecondition: as `seal`, or no key here opens it (SECRETS_KEY_CHANGED).
        """
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet().decrypt(sealed)
        except InvalidToken as error:
            sentence = "it was encrypted with a key that is not in PENSTOCK_SECRETS_KEY_FILE any more: set it again"
            raise FailedPrecondition(sentence, reason="SECRETS_KEY_CHANGED") from error

    def _fernet(self) -> MultiFernet:
        from cryptography.fernet import Fernet, MultiFernet

        if self._path is None:
            sentence = f"this server has no key to encrypt secrets with, and a path of a URL may be one: {ADVICE}"
            raise FailedPrecondition(sentence, reason="SECRETS_KEY_MISSING")
        try:
            with self._path.open("rb") as file:
                lines = [line.strip() for line in file.read(MAX_FILE_BYTES).splitlines()]
            keys = [_key(line) for line in lines if line]
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "each line must be 32 bytes in base64"
            sentence = f"the file of PENSTOCK_SECRETS_KEY_FILE cannot be used ({why}): {ADVICE}"
            raise FailedPrecondition(sentence, reason="SECRETS_KEY_INVALID") from error
        if not keys:
            sentence = f"the file of PENSTOCK_SECRETS_KEY_FILE is empty: {ADVICE}"
            raise FailedPrecondition(sentence, reason="SECRETS_KEY_INVALID")
        return MultiFernet([Fernet(key) for key in keys])


def _key(line: bytes) -> bytes:
    """Read a key in either alphabet of base64, with its padding or without; gives it as Fernet takes it."""
    padded = line.rstrip(b"=").translate(bytes.maketrans(b"+/", b"-_"))
    padded += b"=" * (-len(padded) % 4)
    try:
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error
    if len(raw) != KEY_BYTES:
        raise ValueError("no 32 bytes")
    return base64.urlsafe_b64encode(raw)
