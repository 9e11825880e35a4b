"""Which addresses a URL that somebody else wrote may be reached at, so that it opens no door into our own network.

A URL is taken apart once, into an `Endpoint`; its host is looked up once, and the addresses that passed are the ones to
connect to: what a name means a moment later does not matter. Refused are loopback, private, link-local, carrier-grade
NAT, documentation, benchmarking, multicast and reserved addresses, IPv4 addresses of those kinds inside IPv6 ones
(mapped, NAT64), other tunnels, and where clouds answer questions about the machine. What a setting names is allowed.
"""

from __future__ import annotations

import ipaddress
import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from services.common.errors import FailedPrecondition, Unavailable

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
Lookup = Callable[[str, int], Sequence[str]]
"""Gives the addresses of a host's name as texts; raises OSError where there are none."""

MAX_URL_CHARS = 2_048
"""Of a URL that a person writes."""
MAX_SIGNED_URL_CHARS = 8_192
"""Of one that a server leads to: signatures are long."""
MAX_HOST_CHARS = 253
MAX_ADDRESSES = 16
_SLICE_S = 0.05
DEFAULT_PORTS = {"https": 443, "http": 80}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
"""Statuses of answers that lead on to another URL."""
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
ALLOWED_PORTS = frozenset({80, 443, 8080, 8443})

# IANA's registries of special-purpose addresses (RFC 6890 and what was added since), as of 2025; what they call
# globally reachable is left out, save for tunnels.
_REFUSED_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
# Of IPv6 only global unicast is let through; these lie within it: 6to4, what RFC 2928 keeps (Teredo among it), and
# documentation.
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = tuple(ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Where a cloud tells a machine its secrets (AWS and most others, ECS, pods of EKS, the same over IPv6, Google's over
# IPv6, Alibaba, Azure's own, Oracle):
# allowed only by the address itself.
METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254",
        "100.100.100.200", "168.63.129.16", "192.0.0.192",
    )
)  # fmt: skip
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
# Browsers and many libraries read 2130706433, 0x7f.1 and 0177.0.0.1 as addresses.
_NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)")
# A parameter with a value; `~` parts those that Akamai puts into one.
_PARAMETER = re.compile(r"[?&#;~]([^=?&#;~\s]{1,100})=[^&#\s]")
_WORD = re.compile(r"[A-Z]*[a-z0-9]+|[A-Z]+")
_SECRET_WORD = re.compile(
    r"(?:access|account|api|app|client|deploy|download|id|job|master|oauth|private|read|refresh|security|service|session"
    r"|shared|signing|ssh|subscription|user|auth|hmac|jwt|key|sas|secret|token)*"
    r"(?:auth|authorization|authcode|bearer|credentials?|hdnea|hdntl|hdnts|hmac|jwt|key|otp|pass|passwd|password"
    r"|passphrase|pat|pwd|sas|secret|[a-z]*sessid|[a-z]*sessionid|sig|signature|ticket|[a-z0-9]*token)[0-9]*"
)
_PLAIN = re.compile(r"[\x21-\x7e]+")


class UrlRefused(FailedPrecondition):
    """The URL may not be reached from here; the message says why, and names no more of it than the host."""

    default_reason = "URL_NOT_ALLOWED"


class UrlMalformed(UrlRefused):
    """It is no URL that anybody could reach, from anywhere."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A URL, taken apart: `target` is its path and query, `address` the host where it is an address."""

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)
    address: IPAddress | None

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """What is allowed by name: hosts as URLs write them, addresses, and networks."""

    names: frozenset[str] = frozenset()
    networks: tuple[IPNetwork, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read names, addresses and networks (10.0.0.0/8), separated by commas.

        Raises:
            ValueError: one of them is none of these; says which.
        """
        names, networks = set(), []
        for entry in filter(None, (part.strip().lower() for part in text.split(","))):
            try:
                networks.append(ipaddress.ip_network(entry))
            except ValueError:
                name = entry.rstrip(".")
                if not _NAME.fullmatch(name) or _ends_in_number(name):
                    sentence = f"{entry!r} is no host's name, no address and no network such as 10.0.0.0/8"
                    raise ValueError(sentence) from None
                names.add(name)
        return cls(frozenset(names), tuple(networks))

    def holds(self, address: IPAddress) -> bool:
        """Whether the address is in one of the networks."""
        return any(address in network for network in self.networks)

    def holds_alone(self, address: IPAddress) -> bool:
        """Whether the address itself was named, and not only a network that it is in."""
        return any(address in network and network.num_addresses == 1 for network in self.networks)


@dataclass(frozen=True, slots=True)
class OnlyHosts:
    """All that may be reached: hosts by name, all below a name, and what stands in a name's place as an address."""

    named: AllowedHosts
    domains: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read what `AllowedHosts.parse` does, and *.example.org for all hosts below example.org; None: any host.

        Raises:
            ValueError: one of them is none of these; says which.
        """
        entries = [entry for entry in (part.strip().lower() for part in text.split(",")) if entry]
        domains = {entry.removeprefix("*.").rstrip(".") for entry in entries if entry.startswith("*.")}
        if odd := domains - AllowedHosts.parse(",".join(domains)).names:
            raise ValueError(f"'*.{odd.pop()}' is no host's name after its star")
        named = AllowedHosts.parse(",".join(entry for entry in entries if not entry.startswith("*.")))
        return cls(named, frozenset(domains)) if entries else None

    def hold(self, host: str, address: IPAddress | None) -> bool:
        """Whether a host, or the address in its place, is one of them."""
        if address is not None:
            return self.named.holds(address)
        above = host.split(".")[1:]
        return host in self.named.names or any(".".join(above[n:]) in self.domains for n in range(len(above)))


def look_up(host: str, port: int) -> list[str]:
    """Ask the system for a host's addresses."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class AddressRules:
    """What may be reached. `allowed` may be on private addresses, on any port, and without TLS.

    Of all else only what is in `only`, where that is given, by `schemes` and on `ports`. Refusals say that an
    administrator may name the host in `setting`.
    """

    def __init__(
        self,
        allowed: AllowedHosts | None = None,
        *,
        only: OnlyHosts | None = None,
        schemes: frozenset[str] = frozenset({"https"}),
        ports: frozenset[int] = ALLOWED_PORTS,
        lookup: Lookup = look_up,
        setting: str = "",
    ) -> None:
        self._allowed = allowed or AllowedHosts()
        self._only = only
        self._schemes = schemes
        self._ports = ports
        self._lookup = lookup
        self._setting = setting

    def endpoint(self, url: str, *, max_chars: int = MAX_URL_CHARS) -> Endpoint:
        """Take a URL of at most so many characters apart and check all of it that needs no network.

        Raises:
            UrlRefused: its scheme, its port, its host's form, or an address in the host's place is not allowed.
        """
        parts = _split(url, max_chars)
        host, address = _host(parts)
        trusted = host in self._allowed.names or (address is not None and self._allowed.holds(address))
        if parts.scheme not in DEFAULT_PORTS or (parts.scheme not in self._schemes and not trusted):
            allowed = " or ".join(f"{scheme}://" for scheme in sorted(self._schemes, reverse=True))
            way = f"; {self._way(host)}" if self._setting and parts.scheme in DEFAULT_PORTS else ""
            raise UrlRefused(f"{parts.scheme or 'no scheme'} is not allowed here: write an {allowed} URL{way}")
        if self._only is not None and not trusted and not self._only.hold(host, address):
            raise UrlRefused(f"{host} is none of the hosts that the server's operator allows")
        try:
            port = DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
        except ValueError:
            raise UrlMalformed("the URL's port is none: 1 to 65535 are") from None
        if port not in self._ports and not trusted:
            ports = ", ".join(map(str, sorted(self._ports)))
            way = self._way(host) if self._setting else "others are where the host is allowed by name"
            raise UrlRefused(f"port {port} is not allowed here: {ports} are; {way}")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        endpoint = Endpoint(parts.scheme, host, port, target, address)
        if address is not None and not self.allows(address, host):
            raise self._refused(endpoint)
        return endpoint

    def resolve(
        self, endpoint: Endpoint, timeout_s: float, check: Callable[[], None] = lambda: None
    ) -> tuple[str, ...]:
        """Look the host up, and give those of its addresses that may be connected to: at least one.

        `check` is called now and then; what it raises ends the waiting.

        Raises:
            UrlRefused: none of them may be.
            Unavailable: the name has no address, or nobody said in time (HOST_NOT_FOUND).
        """
        if endpoint.address is not None:
            found: Sequence[str] = (str(endpoint.address),)
        else:
            found = self._looked_up(endpoint, timeout_s, check)
        passed = tuple(text for text in found if self.allows(_address(text), endpoint.host))
        if not passed:
            raise self._refused(endpoint)
        return passed[:MAX_ADDRESSES]

    def allows(self, address: IPAddress, host: str = "") -> bool:
        """Whether an address may be connected to, for a host that is written so."""
        address = _bare(address)
        if address in METADATA:
            return self._allowed.holds_alone(address)
        return host in self._allowed.names or self._allowed.holds(address) or is_public(address)

    def _refused(self, endpoint: Endpoint) -> UrlRefused:
        sentence = f"{endpoint.host} is at a private address, or another that is not reached from here"
        if endpoint.address is not None and _bare(endpoint.address) in METADATA:
            return UrlRefused(sentence)  # nobody is to be led to allowing it
        return UrlRefused(f"{sentence}; {self._way(endpoint.host)}")

    def _way(self, host: str) -> str:
        """Say who can allow a host that is not."""
        if not self._setting:
            return "the server's operator can allow it by name"
        return f"if it is to be trusted, an administrator names {host} in {self._setting}"

    def _looked_up(self, endpoint: Endpoint, timeout_s: float, check: Callable[[], None]) -> Sequence[str]:
        """Look up in a thread that can be left behind: the system's resolver heeds no deadline of ours."""
        answers: queue.SimpleQueue[Sequence[str] | OSError | UnicodeError] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self._lookup(endpoint.host, endpoint.port))
            except (OSError, UnicodeError) as error:
                answers.put(error)

        threading.Thread(target=ask, name="lookup", daemon=True).start()
        until = time.monotonic() + timeout_s
        while True:
            try:
                answer = answers.get(timeout=min(_SLICE_S, max(0.0, until - time.monotonic())))
                break
            except queue.Empty:
                check()
                if time.monotonic() >= until:
                    sentence = f"nobody could say in time where {endpoint.host} is"
                    raise Unavailable(sentence, reason="HOST_NOT_FOUND") from None
        if isinstance(answer, Exception) or not answer:
            raise Unavailable(f"{endpoint.host} is not known to the name servers", reason="HOST_NOT_FOUND")
        return answer


def bears_secret(text: str) -> bool:
    """Whether a URL in a text has a parameter that lets its reader in: such a text is kept and shown nowhere.

    It is known by its name (`token`, `X-Amz-Signature`, `accessKey`, `%74oken`); a secret in a path is not seen.
    """
    for said in {text, unquote(text)}:
        for name in _PARAMETER.findall(said):
            words = [word.lower() for word in _WORD.findall(name)]
            if words == ["code"] or any(_SECRET_WORD.fullmatch(word) for word in (*words, "".join(words))):
                return True
    return False


def is_public(address: IPAddress) -> bool:
    """Whether an address is one that anybody on the internet may be asked to reach."""
    address = _bare(address)
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _REFUSED_V4)
    return address in _GLOBAL_V6 and not any(address in network for network in _REFUSED_V6)


def _bare(address: IPAddress) -> IPAddress:
    """Take an IPv4 address out of the IPv6 one that means the same."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _address(text: str) -> IPAddress:
    """Read an address as the resolver gives it, where a link-local one may bear its zone."""
    return ipaddress.ip_address(text.partition("%")[0])


def _split(url: str, max_chars: int) -> SplitResult:
    if len(url) > max_chars:
        raise UrlMalformed(f"the URL has {len(url)} characters; at most {max_chars} are allowed")
    if not _PLAIN.fullmatch(url) or "\\" in url:
        raise UrlMalformed(
            "the URL has spaces, backslashes or characters beyond ASCII: write a host as xn--… and others as %XX"
        )
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UrlMalformed("that is no URL: write https://host/path") from None
    if "@" in parts.netloc:
        raise UrlRefused("the URL has a user or password in it, which is not allowed")
    if parts.fragment:
        raise UrlMalformed("the URL has a fragment (#…), which no server would see: leave it out")
    return parts


def _host(parts: SplitResult) -> tuple[str, IPAddress | None]:
    """Give the host as it is compared, and the address that it is, if it is one."""
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme == "file":
        raise UrlRefused("files are not allowed here: write https://host/path")
    if not parts.netloc:
        raise UrlMalformed("that does not begin with https:// and a host: write https://host/path")
    if not host or len(host) > MAX_HOST_CHARS:
        raise UrlMalformed("the URL has no host: write https://host/path")
    if ":" in host:
        try:
            return host, ipaddress.IPv6Address(host) if "%" not in host else _no_zone()
        except ValueError:
            raise UrlMalformed("the URL's host is no IPv6 address") from None
    if _ends_in_number(host):
        try:
            return host, ipaddress.IPv4Address(host)
        except ValueError:
            raise UrlRefused(f"{host} is a number in the place of a host: write its name, or 192.0.2.1") from None
    if not _NAME.fullmatch(host):
        raise UrlMalformed("the URL's host is no name: letters, digits and hyphens are allowed, between dots")
    return host, None


def _no_zone() -> ipaddress.IPv6Address:
    raise UrlRefused("the URL's address has a zone (%…), which is not allowed")


def _ends_in_number(host: str) -> bool:
    """Whether it would be read as an IPv4 address: its last label is a number (WHATWG URL, 3.5)."""
    return _NUMBER.fullmatch(host.rpartition(".")[2]) is not None


def onward(url: str, location: str) -> str:
    """Give where the header Location of an answer leads, a URL that is to be checked as any other; raises ValueError.

    What is no letter of a URL is written as browsers do, byte by byte as it came.
    """
    plain = quote(location.encode("latin-1"), safe=_PRINTABLE)
    return urljoin(url, plain).partition("#")[0]
