"""Where a service is, and how to reach it: addresses, TLS by file paths, and the token that must not leak."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import grpc

from penstock.errors import InvalidArgument

MAX_TOKEN_BYTES = 4_096
Stamp = tuple[tuple[int, int, int] | None, ...]
_TLS_OF_SCHEME = {"grpc": False, "http": False, "grpcs": True, "https": True}
ChannelOptions = list[tuple[str, int | str]]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a service listens.

    Attributes:
        target: as grpc reads it: host:port, [::1]:port, unix:/path, dns:///name:port.
        tls: what the scheme says; None where there was none.
    """

    target: str
    tls: bool | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address: a grpc target, or one after grpc://, http:// (plain) or grpcs://, https:// (TLS).

        Raises:
            InvalidArgument: it is empty or has a path (INVALID_ADDRESS).
        """
        scheme, separator, rest = text.strip().partition("://")
        if not separator or scheme not in _TLS_OF_SCHEME:
            target, tls = text.strip(), None
        else:
            target, tls = rest.rstrip("/"), _TLS_OF_SCHEME[scheme]
        if not target or (tls is not None and "/" in target):
            raise InvalidArgument(
                f"{text!r} is no address: write host:port, with grpcs:// before it for TLS", reason="INVALID_ADDRESS"
            )
        return cls(target, tls)

    @property
    def loopback(self) -> bool:
        """Whether what is sent there stays on this machine."""
        if self.target.startswith(("unix:", "unix-abstract:")):
            return True
        host = self.target.rpartition("/")[2].rpartition(":")[0].strip("[]").removeprefix("ipv4:")
        if host in ("localhost", "ip6-localhost"):
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Credentials:
    """How this side shows who it is, and checks who the other is.

    Attributes:
        token: the API key, sent as `authorization: Bearer …` with each call; empty: none.
        token_file: a file that holds the API key, in its place, and is read again when it changes.
        ca_file: PEM certificates to trust; with TLS and without it: those of the system.
        cert_file: this side's certificate chain, PEM, for mutual TLS; goes with `key_file`.
        key_file: this side's private key, PEM.
        insecure: send the token in plain text also to another machine.
    """

    token: str = field(default="", repr=False)
    token_file: str | PathLike[str] | None = None
    ca_file: str | PathLike[str] | None = None
    cert_file: str | PathLike[str] | None = None
    key_file: str | PathLike[str] | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise InvalidArgument("cert_file and key_file go together: give both or none", reason="INCOMPLETE_TLS")
        if self.token and self.token_file is not None:
            raise InvalidArgument("token and token_file are both given; give one of them", reason="TWO_TOKENS")

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes along with each call; the token file is read here.

        Raises:
            InvalidArgument: it is no file of a token (BROKEN_TOKEN_FILE).
            OSError: it can't be read.
        """
        token = self.token if self.token_file is None else _token(Path(self.token_file))
        return (("authorization", f"Bearer {token}"),) if token else ()

    def secures(self, address: Address) -> bool:
        """Whether a channel to the address uses TLS: by its scheme, or because TLS files are given."""
        return (self.ca_file or self.cert_file) is not None if address.tls is None else address.tls

    def check(self, address: Address) -> None:
        """Refuse to send a token to another machine in plain text.

        Raises:
            InvalidArgument: that would happen (TOKEN_OVER_INSECURE_CHANNEL).
        """
        if (self.token or self.token_file is not None) and not (
            self.secures(address) or address.loopback or self.insecure
        ):
            raise InvalidArgument(
                f"the token would go to {address.target} in plain text: give ca_file= or a grpcs:// address, "
                "or insecure=True where the network itself is trusted",
                reason="TOKEN_OVER_INSECURE_CHANNEL",
            )

    def open(self, address: Address, options: ChannelOptions) -> grpc.Channel:
        """Open a channel. It connects at the first call; the TLS files are read here.

        Raises:
            InvalidArgument: see `check`; or the TLS files are of no use, or no pair (BROKEN_TLS_FILES).
            OSError: a TLS file can't be read.
        """
        self.check(address)
        if not self.secures(address):
            return grpc.insecure_channel(address.target, options)
        self._check_files()
        return grpc.secure_channel(
            address.target,
            grpc.ssl_channel_credentials(
                root_certificates=_read(self.ca_file),
                private_key=_read(self.key_file),
                certificate_chain=_read(self.cert_file),
            ),
            options,
        )

    def stamp(self) -> Stamp:
        """Tell the files as they are now from what they will be once they have changed; () without any."""
        files = (self.token_file, self.ca_file, self.cert_file, self.key_file)
        return tuple(_stamp(file) for file in files if file is not None)

    def _check_files(self) -> None:
        """Find a file that is half written, or a key that is not the certificate's: gRPC would only fail to connect."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.ca_file is not None:
                context.load_verify_locations(self.ca_file)
            if self.cert_file is not None:
                # Without a password of ours OpenSSL would ask for that of an encrypted key at the terminal.
                context.load_cert_chain(self.cert_file, self.key_file, password="")
        except ssl.SSLError as error:
            named = ", ".join(str(file) for file in (self.ca_file, self.cert_file, self.key_file) if file is not None)
            raise InvalidArgument(
                f"the TLS files {named} are broken, or the key is not the certificate's: {error}",
                reason="BROKEN_TLS_FILES",
            ) from error


def _read(path: str | PathLike[str] | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


def _token(path: Path) -> str:
    content = path.read_bytes()[:MAX_TOKEN_BYTES].decode(errors="replace").strip()
    if not content or not content.isascii() or not content.isprintable():
        raise InvalidArgument(f"{path} holds no API key: one line of plain text", reason="BROKEN_TOKEN_FILE")
    return content


def _stamp(path: str | PathLike[str]) -> tuple[int, int, int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
