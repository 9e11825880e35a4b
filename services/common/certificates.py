"""A server's TLS files, read again when they change: a new certificate serves without a restart.

A pair that is broken, or whose key is not the certificate's, never replaces one that works: whoever writes the two
files one after the other is met in between.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from services.common.errors import FailedPrecondition
from services.common.settings import ServerSettings

_log = structlog.get_logger(__name__)
MAX_FILE_BYTES = 1024 * 1024
Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a server shows, and whom it trusts. All PEM."""

    chain: bytes
    key: bytes
    client_ca: bytes | None


class CertificateFiles:
    """The files that a server's settings name. grpc asks for changes from its own threads."""

    def __init__(self, cert_file: Path, key_file: Path, client_ca_file: Path | None) -> None:
        self._named = {
            "PENSTOCK_TLS_CERT_FILE": cert_file,
            "PENSTOCK_TLS_KEY_FILE": key_file,
            **({"PENSTOCK_TLS_CLIENT_CA_FILE": client_ca_file} if client_ca_file is not None else {}),
        }
        self._lock = threading.Lock()
        self._stamp: Stamp = ()

    @classmethod
    def of(cls, settings: ServerSettings) -> CertificateFiles | None:
        """Take those that the settings name, None where they name none.

        Raises:
            FailedPrecondition: some are missing (TLS_INCOMPLETE).
        """
        cert_file, key_file = settings.tls_cert_file, settings.tls_key_file
        if cert_file is key_file is settings.tls_client_ca_file is None:
            return None
        if cert_file is None or key_file is None:
            raise FailedPrecondition(
                "TLS takes both PENSTOCK_TLS_CERT_FILE and PENSTOCK_TLS_KEY_FILE: set both, or none of its files",
                reason="TLS_INCOMPLETE",
            )
        return cls(cert_file, key_file, settings.tls_client_ca_file)

    @property
    def wants_clients(self) -> bool:
        """Whether a client without a certificate is refused."""
        return "PENSTOCK_TLS_CLIENT_CA_FILE" in self._named

    def read(self) -> Certificates:
        """Read them.

        Raises:
            FailedPrecondition: one cannot be read or is no PEM file (TLS_UNREADABLE), or the key is not the
                certificate's (TLS_MISMATCH).
        """
        self._stamp = self._stamps()
        content = {setting: _read_pem(setting, path) for setting, path in self._named.items()}
        found = Certificates(
            content["PENSTOCK_TLS_CERT_FILE"],
            content["PENSTOCK_TLS_KEY_FILE"],
            content.get("PENSTOCK_TLS_CLIENT_CA_FILE"),
        )
        self._check(found)
        return found

    def changed(self) -> Certificates | None:
        """Read them where they have changed since the last time; None where they have not, or are of no use."""
        with self._lock:
            if self._stamps() == self._stamp:
                return None
            try:
                found = self.read()
            except FailedPrecondition as error:
                _log.error("TLS files not taken, those in force stay", reason=error.reason, message=error.message)
                return None
        _log.info("TLS files taken", files=[str(path) for path in self._named.values()])
        return found

    def _check(self, found: Certificates) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        cert_file, key_file = self._named["PENSTOCK_TLS_CERT_FILE"], self._named["PENSTOCK_TLS_KEY_FILE"]
        try:
            with _held(found.key + b"\n" + found.chain) as pair:
                # Without a password of ours OpenSSL would ask for that of an encrypted key at the terminal.
                context.load_cert_chain(pair, password="")
        except (ssl.SSLError, OSError) as error:
            raise FailedPrecondition(
                f"the certificate {cert_file} and the key {key_file} do not go together or are broken: {error}",
                reason="TLS_MISMATCH",
            ) from error
        if found.client_ca is None:
            return
        try:
            context.load_verify_locations(cadata=found.client_ca.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise FailedPrecondition(
                f"PENSTOCK_TLS_CLIENT_CA_FILE holds no certificate that can be read: {error}", reason="TLS_UNREADABLE"
            ) from error

    def _stamps(self) -> Stamp:
        return tuple(_stamp(path) for path in self._named.values())


@contextmanager
def _held(content: bytes) -> Iterator[str]:
    """Give bytes the name of a file, which OpenSSL wants, in memory: those on the disk may be others by now."""
    descriptor = os.memfd_create("penstock-tls")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{descriptor}"


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read_pem(setting: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise FailedPrecondition(
            f"{setting} names {path}, which cannot be read: {error.strerror}", reason="TLS_UNREADABLE"
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise FailedPrecondition(
            f"{setting} names {path}, which is over {MAX_FILE_BYTES} bytes: too large for certificates",
            reason="TLS_UNREADABLE",
        )
    if b"-----BEGIN " not in content:
        raise FailedPrecondition(f"{setting} names {path}, which is no PEM file", reason="TLS_UNREADABLE")
    return content
