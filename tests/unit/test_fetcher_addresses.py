"""Which hosts, ports and schemes an operator lets the fetcher reach."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.common.addresses import AddressRules, AllowedHosts, OnlyHosts, UrlRefused
from services.fetcher.settings import FetcherSettings

ONLY = OnlyHosts.parse("Hub.example.org, *.cdn.example.org, 93.184.216.0/24")


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("hub.example.org", True),
        ("hub.example.org.", True),
        ("HUB.example.org", True),
        ("eu.cdn.example.org", True),
        ("a.b.cdn.example.org", True),
        ("93.184.216.7", True),
        ("cdn.example.org", False),  # itself is not below itself
        ("evilcdn.example.org", False),
        ("cdn.example.org.evil.com", False),
        ("sub.hub.example.org", False),
        ("example.org", False),
        ("org", False),
        ("1.1.1.1", False),
        ("[2606:4700::1111]", False),
        ("93-184-216-7.cdn.example.com", False),
    ],
)
def test_only_the_hosts_that_are_named_are_reached(host: str, reached: bool) -> None:
    rules = AddressRules(only=ONLY)
    if reached:
        rules.endpoint(f"https://{host}/m.onnx")
        return
    with pytest.raises(UrlRefused, match="none of the hosts that the server's operator allows"):
        rules.endpoint(f"https://{host}/m.onnx")


def test_a_private_host_that_is_allowed_is_reached_beside_them() -> None:
    rules = AddressRules(AllowedHosts.parse("store.internal,10.0.0.0/8"), only=ONLY)
    for url in ("http://store.internal:9000/m", "http://10.1.2.3/m", "https://hub.example.org/m"):
        rules.endpoint(url)
    with pytest.raises(UrlRefused):
        rules.endpoint("https://other.internal/m")


def test_a_name_among_the_only_ones_opens_no_private_address() -> None:
    rules = AddressRules(only=OnlyHosts.parse("hub.test"), lookup=lambda *_: ["10.0.0.1"])
    with pytest.raises(UrlRefused, match="private address"):
        rules.resolve(rules.endpoint("https://hub.test/"), 5)


def test_schemes_and_ports_are_those_of_the_setting() -> None:
    plain = AddressRules(schemes=frozenset({"https", "http"}), ports=frozenset({80, 9000}))
    assert plain.endpoint("http://example.org/m").port == 80
    assert plain.endpoint("https://example.org:9000/m").port == 9000
    for url, why in (("https://example.org/m", "80, 9000 are"), ("ftp://example.org/m", "https:// or http://")):
        with pytest.raises(UrlRefused, match=why):
            plain.endpoint(url)
    with pytest.raises(UrlRefused, match="port 9000 is not allowed"):
        AddressRules().endpoint("https://example.org:9000/m")


@pytest.mark.parametrize("text", ["*", "*.", "hub.*", "*.*.org", "https://hub.example.org", "hub:443", "*.10.0.0.0/8"])
def test_nonsense_among_the_only_hosts_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is no host's name"):
        OnlyHosts.parse(f"example.com,{text}")


def test_the_settings_say_so_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {"DATABASE_URL": "postgresql://x/y", "BLOB_URL": "file:///tmp/blobs"}
    told = {
        "FETCHER_ONLY_HOSTS": "hub.example.org",
        "FETCHER_ALLOWED_PORTS": "443, 8443",
        "FETCHER_SCHEMES": "https,http",
    }
    for name, value in {**needed, **told}.items():
        monkeypatch.setenv(f"PENSTOCK_{name}", value)
    settings = FetcherSettings.model_validate({})
    assert (settings.fetcher_allowed_ports, settings.fetcher_schemes) == (
        frozenset({443, 8443}),
        frozenset({"https", "http"}),
    )
    for name, value in (("ONLY_HOSTS", "a b"), ("ALLOWED_PORTS", "0"), ("SCHEMES", "ftp")):
        with monkeypatch.context() as patch:
            patch.setenv(f"PENSTOCK_FETCHER_{name}", value)
            with pytest.raises(ValidationError):
                FetcherSettings.model_validate({})
