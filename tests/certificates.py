"""Certificates for the tests, made on the spot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

PrivateKey = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    cert_file: Path
    key_file: Path

    def become(self, other: Pair) -> None:
        """Take the place of another pair, each file in one piece, the certificate first: as rotation does."""
        for mine, theirs in ((self.cert_file, other.cert_file), (self.key_file, other.key_file)):
            replace(mine, theirs.read_bytes())


@dataclass(frozen=True)
class Authority:
    """Who vouches for certificates: a root of the test's own."""

    name: x509.Name
    key: PrivateKey
    ca_file: Path

    @classmethod
    def make(cls, folder: Path, name: str) -> Self:
        """Make a root; its certificate is at `ca_file`."""
        subject, key = _name(name), ec.generate_private_key(ec.SECP256R1())
        made = _builder(subject, subject, key, valid=True).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        (folder / f"{name}.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
        return cls(subject, key, folder / f"{name}.pem")

    def issue(self, name: str, *, host: str = "localhost", valid: bool = True) -> Pair:
        """Sign a certificate for a host, beside the root's; one that is not `valid` has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _builder(_name(name), self.name, key, valid=valid).add_extension(
            x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False
        )
        return _write(self.ca_file.parent, name, made.sign(self.key, hashes.SHA256()), key)


def certificate(folder: Path, name: str = "cert") -> tuple[Path, Path]:
    """Make a certificate for localhost that vouches for itself, and its key, as PEM files."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), _name("localhost")
    made = (
        _builder(subject, subject, key, valid=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pair = _write(folder, name, made, key)
    return pair.cert_file, pair.key_file


def replace(path: Path, content: bytes) -> None:
    """Replace a file in one piece."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(path)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: PrivateKey, *, valid: bool) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=2))
        .not_valid_after(now + timedelta(hours=1 if valid else -1))
    )


def _write(folder: Path, name: str, made: x509.Certificate, key: PrivateKey) -> Pair:
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    pair.cert_file.write_bytes(made.public_bytes(Encoding.PEM))
    pair.key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return pair
