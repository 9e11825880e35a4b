"""Which addresses a URL of somebody else's may be reached at."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Sequence

import pytest

from services.common.addresses import AddressRules, AllowedHosts, UrlRefused, is_public
from services.common.errors import Unavailable

PUBLIC = "93.184.215.14"


def rules(allowed: str = "", **names: Sequence[str]) -> AddressRules:
    """Rules whose name server knows `names` under .test, and nothing else."""
    known = {f"{name}.test": addresses for name, addresses in names.items()}

    def lookup(host: str, _port: int) -> Sequence[str]:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return known[host]

    return AddressRules(AllowedHosts.parse(allowed), lookup=lookup)


# IANA's IPv4 and IPv6 special-purpose address registries, an address of each block that is not globally reachable, the
# ends of the larger ones, and what means such an address in another dress.
PRIVATE = (
    "0.0.0.0", "0.255.255.255", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1",
    "127.255.255.254", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1",
    "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1",
    "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16", "100.100.100.200", "192.0.0.192",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::1", "2002:a00:1::",
    "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1",
)  # fmt: skip
GLOBAL = (PUBLIC, "1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.32.0.1", "2606:4700::1111",
          "::ffff:8.8.8.8", "64:ff9b::808:808")  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_no_private_address_is_reached_as_itself_or_by_a_name(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(UrlRefused):
        rules().endpoint(f"https://{host}/")
    checked = rules(trap=[address])
    with pytest.raises(UrlRefused, match=r"trap\.test is at a private address"):
        checked.resolve(checked.endpoint("https://trap.test/"), 5)


@pytest.mark.parametrize("address", GLOBAL)
def test_global_addresses_are_reached(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))
    checked = rules(host=[address])
    assert checked.resolve(checked.endpoint("https://host.test/"), 5) == (address,)


def test_of_a_names_addresses_only_those_that_passed_are_given() -> None:
    checked = rules(mixed=["10.0.0.1", PUBLIC, "::1", "fe80::1%eth0", "2606:4700::1111"])
    assert checked.resolve(checked.endpoint("https://mixed.test/"), 5) == (PUBLIC, "2606:4700::1111")


@pytest.mark.parametrize(
    "host",
    ["2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "127.0.1", "017700000001", "1.2.3.4.5", "0x",
     "256.1.1.1", "127.0.0.1.", "example.0x7f", "08.8.8.8"],
)  # fmt: skip
def test_a_number_is_no_host(host: str) -> None:
    with pytest.raises(UrlRefused):
        rules().endpoint(f"https://{host}/")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.com/", "http is not allowed"),
        ("ftp://example.com/", "ftp is not allowed"),
        ("file:///etc/passwd", "files are not allowed"),
        ("gopher://example.com:70/", "gopher is not allowed"),
        ("example.com/hook", "not begin with https:// and a host"),
        ("127.0.0.1:8000/hook", "not begin with https:// and a host"),
        ("localhost:8000/hook", "not begin with https:// and a host"),
        ("https://:443/hook", "no host"),
        ("https:///hook", "not begin with https:// and a host"),
        ("https://", "not begin with https:// and a host"),
        ("", "backslashes"),
        ("https://example.com:22/", "port 22 is not allowed here: 80, 443, 8080, 8443 are"),
        ("https://example.com:0/", "port 0 is not allowed"),
        ("https://example.com:99999/", "URL's port is none"),
        ("https://example.com:x/", "URL's port is none"),
        ("https://user:pass@example.com/", "user or password"),
        ("https://example.com@10.0.0.1/", "user or password"),
        ("https://example.com#@10.0.0.1/", "fragment"),
        ("https://example.com\\@10.0.0.1/", "backslashes"),
        ("https://exa mple.com/", "spaces"),
        ("https://example.com/\r\nHost: a", "spaces"),
        ("https://exämple.com/", "xn--"),
        ("https://①②⑦.⓪.⓪.①/", "xn--"),
        ("https://[::1%25eth0]/", "zone"),
        ("https://[1:2]/", "no (IPv6 address|URL)"),
        ("https://[::1/", "no URL"),
        ("https://-example.com/", "no name"),
        ("https://exa$mple.com/", "no name"),
        ("https://a..b/", "no name"),
        ("https://example.com/" + "a" * 2_048, "at most 2048"),
        (f"https://{'a.' * 130}com/", "no host"),
    ],
)
def test_a_url_that_is_odd_is_refused_and_not_repeated(url: str, why: str) -> None:
    with pytest.raises(UrlRefused, match=why) as caught:
        rules().endpoint(url)
    assert "pass" not in caught.value.message.replace("password", "")


def test_a_url_is_taken_apart_once() -> None:
    endpoint = rules().endpoint("https://Hooks.Example.COM.:8443/a/b?c=d&e=%20")
    assert (endpoint.scheme, endpoint.host, endpoint.port) == ("https", "hooks.example.com", 8443)
    assert (endpoint.target, endpoint.authority) == ("/a/b?c=d&e=%20", "hooks.example.com:8443")
    assert rules().endpoint("https://[2606:4700::1111]").authority == "[2606:4700::1111]"
    assert "c=d" not in repr(endpoint)


def test_what_a_setting_names_is_allowed_and_nothing_beside_it() -> None:
    checked = rules("Hooks.test, 10.1.0.0/16, 127.0.0.1", hooks=["10.0.0.9"], deep=["10.1.2.3"], other=["10.2.0.1"])
    hooks = checked.endpoint("http://hooks.test:9999/")
    assert checked.resolve(hooks, 5) == ("10.0.0.9",)
    assert checked.endpoint("http://10.1.2.3:5000/").port == 5_000
    assert checked.endpoint("http://127.0.0.1:5000/").port == 5_000
    assert checked.resolve(checked.endpoint("https://deep.test/"), 5) == ("10.1.2.3",)
    for url in ("http://deep.test/", "https://deep.test:9999/", "https://127.0.0.2/", "https://10.0.0.9/"):
        with pytest.raises(UrlRefused):
            checked.endpoint(url)
    with pytest.raises(UrlRefused):
        checked.resolve(checked.endpoint("https://other.test/"), 5)


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("http://127.0.0.1:8000/m", "names 127.0.0.1 in THE_SETTING"),
        ("https://localhost:8000/m", "names localhost in THE_SETTING"),
        ("https://10.1.2.3/m", "names 10.1.2.3 in THE_SETTING"),
        ("https://inside.test/m", "names inside.test in THE_SETTING"),
        ("ftp://10.1.2.3/m", ""),
        ("https://169.254.169.254/m", ""),
    ],
)
def test_a_refusal_names_the_setting_that_lifts_it(url: str, names: str) -> None:
    checked = AddressRules(lookup=lambda *_: ["10.0.0.1"], setting="THE_SETTING")
    with pytest.raises(UrlRefused) as caught:
        checked.resolve(checked.endpoint(url), 5)
    assert names in caught.value.message
    assert ("THE_SETTING" in caught.value.message) == bool(names)


@pytest.mark.parametrize(
    "address", ["169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "100.100.100.200"]
)
def test_a_network_that_is_allowed_opens_none_of_the_clouds_secrets(address: str) -> None:
    allowed = "trap.test,169.254.0.0/16,fd00::/8,100.64.0.0/10"
    checked = rules(allowed, trap=[address])
    with pytest.raises(UrlRefused):
        checked.resolve(checked.endpoint("https://trap.test/"), 5)
    assert rules(address).allows(ipaddress.ip_address(address))


def test_where_a_cloud_tells_its_secrets_only_the_address_itself_opens() -> None:
    for allowed in ("trap.test", "169.254.0.0/16", "0.0.0.0/0"):
        checked = rules(allowed, trap=["169.254.169.254"])
        with pytest.raises(UrlRefused):
            checked.resolve(checked.endpoint("https://trap.test/"), 5)
    checked = rules("169.254.169.254")
    assert checked.endpoint("http://169.254.169.254/latest").host == "169.254.169.254"


@pytest.mark.parametrize("text", ["10.0.0.1/8", "exa mple", "https://example.com", "1.2.3", "*.example.com", "a:80"])
def test_nonsense_among_the_allowed_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is no host's name"):
        AllowedHosts.parse(f"example.com,{text}")


def test_a_name_that_nobody_knows_may_be_known_later() -> None:
    checked = rules(empty=[])
    for name in ("unknown", "empty"):
        with pytest.raises(Unavailable, match=f"{name}.test is not known") as caught:
            checked.resolve(checked.endpoint(f"https://{name}.test/"), 5)
        assert caught.value.reason == "HOST_NOT_FOUND"


def test_a_name_server_that_hangs_is_left_behind() -> None:
    released = threading.Event()

    def lookup(_host: str, _port: int) -> Sequence[str]:
        released.wait(60)
        return [PUBLIC]

    checked = AddressRules(lookup=lookup)
    with pytest.raises(Unavailable, match="nobody could say in time"):
        checked.resolve(checked.endpoint("https://example.com/"), 0.02)
    released.set()
