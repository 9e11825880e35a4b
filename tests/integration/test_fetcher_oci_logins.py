"""Who may pull from a registry: real ones with passwords, tokens, TLS and redirects, and sockets that lie."""

from __future__ import annotations

import base64
import json
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from services.common.addresses import AddressRules, AllowedHosts
from services.common.errors import FailedPrecondition
from services.fetcher.faults import Forbidden, NetworkError, Unauthorized
from services.fetcher.models import Reference
from services.fetcher.sources.http import GuardedHttp
from services.fetcher.sources.oci import OciSource
from services.fetcher.sources.oci_login import AuthFile
from services.fetcher.sources.source import Stopping
from tests.certificates import Authority, Pair
from tests.flows import all_of
from tests.oci_registry import PASSWORD, USER, Layer, OciRegistry, oci_registry
from tests.origins import Say, answering
from tests.s3 import s3_server

pytestmark = pytest.mark.slow
RIGHT = {"username": USER, "password": PASSWORD}
BASIC = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
LAYER = Layer(b"0123456789", "m.onnx")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OciRegistry]:
    """A registry that wants a password, with an artifact."""
    with oci_registry(tmp_path_factory.mktemp("oci"), basic=True, headers={"Authorization": BASIC}) as served:
        served.push("private/m", "latest", [LAYER])
        yield served


def source_of(
    host: str, folder: Path, entry: Mapping[str, Any] | None = None, *, plain: bool = True, ca_file: Path | None = None
) -> OciSource:
    """A source with credentials for a host, or with none."""
    path = None
    if entry is not None:
        path = folder / "auth.json"
        path.write_text(json.dumps({"auths": {host: entry}}))
    http = GuardedHttp(AddressRules(AllowedHosts.parse("127.0.0.1,localhost")), ca_file=ca_file)
    return OciSource(http, AuthFile(path), [host] if plain else [])


def pulled(source: OciSource, host: str, name: str = "private/m") -> bytes:
    """Find an artifact and read its only file, from the fifth byte on as well."""
    found = source.find(Reference("oci", f"{host}/{name}"), Stopping())
    (file,) = found.plan.files
    with source.open(file, 4, Stopping()) as flow:
        assert all_of(flow) == b"456789"
    with source.open(file, 0, Stopping()) as flow:
        return all_of(flow)


@pytest.mark.parametrize("entry", [RIGHT, {"auth": BASIC.removeprefix("Basic ")}], ids=["pair", "docker login"])
def test_a_password_lets_in(locked: OciRegistry, tmp_path: Path, entry: dict[str, str]) -> None:
    assert pulled(source_of(locked.host, tmp_path, entry), locked.host) == LAYER.content


@pytest.mark.parametrize(
    "entry", [None, {**RIGHT, "password": "wrong"}, {"registrytoken": "nonsense"}], ids=["none", "wrong", "token"]
)
def test_who_has_no_password_is_told_where_it_belongs(
    locked: OciRegistry, tmp_path: Path, entry: dict[str, str] | None
) -> None:
    with pytest.raises(Unauthorized, match="PENSTOCK_FETCHER_OCI_AUTH_FILE") as refused:
        pulled(source_of(locked.host, tmp_path, entry), locked.host)
    assert "wrong" not in refused.value.message


def test_credentials_are_those_of_one_registry_and_read_anew(locked: OciRegistry, tmp_path: Path) -> None:
    source = source_of(locked.host, tmp_path, RIGHT)
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {"registry.example": RIGHT}}))
    with pytest.raises(Unauthorized):
        pulled(source, locked.host)
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {f"http://{locked.host}/v1/": RIGHT}}))
    assert pulled(source, locked.host) == LAYER.content


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"{}", b'{"auths": []}', b'{"auths": {"HOST": {}}}', b'{"auths": {"HOST": {"auth": "%%"}}}',
     b'{"auths": {"HOST": {"auth": "bm9jb2xvbg=="}}}', b'{"auths": {"HOST": {"registrytoken": "a b"}}}', None],
)  # fmt: skip
def test_a_file_of_credentials_that_has_none_is_said(
    locked: OciRegistry, tmp_path: Path, content: bytes | None
) -> None:
    source = source_of(locked.host, tmp_path, RIGHT)
    if content is None:
        (tmp_path / "auth.json").unlink()
    else:
        (tmp_path / "auth.json").write_bytes(content.replace(b"HOST", locked.host.encode()))
    with pytest.raises(FailedPrecondition) as refused:
        pulled(source, locked.host)
    assert refused.value.reason == "OCI_AUTH_FILE_INVALID"


def test_a_registry_speaks_tls_unless_it_is_said_to_be_plain(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path, "root")
    pair = authority.issue("registry")
    with oci_registry(tmp_path, tls=pair, ca_file=authority.ca_file) as served:
        served.push("private/m", "latest", [LAYER])
        trusting = source_of(served.host, tmp_path, plain=False, ca_file=authority.ca_file)
        assert pulled(trusting, served.host) == LAYER.content
        with pytest.raises(NetworkError, match="TLS"):
            pulled(source_of(served.host, tmp_path, plain=False), served.host)


def test_blobs_that_lie_in_a_bucket_are_fetched_from_there_without_credentials(tmp_path: Path) -> None:
    with s3_server(tmp_path) as server:
        bucket = server.make_bucket()
        with oci_registry(tmp_path, basic=True, bucket=bucket, headers={"Authorization": BASIC}) as served:
            served.push("private/m", "latest", [LAYER])
            # MinIO refuses requests that bear a password beside the signature in their URL.
            assert pulled(source_of(served.host, tmp_path, RIGHT), served.host) == LAYER.content


@dataclass
class TokenServer:
    """A stand-in for what gives tokens: real ones, that a real registry knows by their certificate."""

    pair: Pair
    url: str = ""
    asked: list[str] = field(default_factory=list)
    password: str = BASIC

    def say(self, connection: socket.socket, head: str) -> None:
        """Give a token to whoever has the password."""
        self.asked.append(head)
        body, status = b"{}", "401 Unauthorized"
        if f"Authorization: {self.password}\r\n" in head:
            body, status = json.dumps({"token": self.token("pull"), "expires_in": 300}).encode(), "200 OK"
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    def token(self, *actions: str) -> str:
        """Make a token for all that the tests pull."""
        key = load_pem_private_key(self.pair.key_file.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        leaf = x509.load_pem_x509_certificate(self.pair.cert_file.read_bytes())
        chain = [base64.b64encode(leaf.public_bytes(Encoding.DER)).decode()]
        now = int(time.time())
        access = [{"type": "repository", "name": "private/m", "actions": actions}]
        times = {"nbf": now - 60, "iat": now, "exp": now + 600}
        claims = {"iss": "tests", "sub": USER, "aud": "models", "jti": "1", "access": access, **times}
        signed = ".".join(map(_encoded, ({"typ": "JWT", "alg": "ES256", "x5c": chain}, claims)))
        r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _encoded(said: Any) -> str:
    raw = said if isinstance(said, bytes) else json.dumps(said).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@contextmanager
def trading(folder: Path) -> Iterator[tuple[OciRegistry, TokenServer]]:
    """A real registry that wants tokens, and who gives them."""
    authority = Authority.make(folder, "root")
    tokens = TokenServer(authority.issue("tokens"))
    with answering(tokens.say) as tokens.url:
        bearer = {
            "realm": f"{tokens.url}/token",
            "service": "models",
            "issuer": "tests",
            "rootcertbundle": str(authority.ca_file),
        }
        headers = {"Authorization": f"Bearer {tokens.token('pull', 'push')}"}
        with oci_registry(folder, bearer=bearer, headers=headers) as served:
            served.push("private/m", "latest", [LAYER])
            yield served, tokens


def test_a_password_is_traded_for_a_token_once(tmp_path: Path) -> None:
    with trading(tmp_path) as (served, tokens):
        realm = {"realm_hosts": [tokens.url.removeprefix("http://")]}
        source = source_of(served.host, tmp_path, {**RIGHT, **realm})
        assert pulled(source, served.host) == LAYER.content
        assert pulled(source, served.host) == LAYER.content
        (asked,) = tokens.asked
        assert "scope=repository%3Aprivate%2Fm%3Apull&service=models" in asked
        given = source_of(served.host, tmp_path, {"registrytoken": tokens.token("pull")})
        assert pulled(given, served.host) == LAYER.content
        with pytest.raises(Unauthorized):
            pulled(source_of(served.host, tmp_path, {**RIGHT, **realm, "password": "wrong"}), served.host)
        with pytest.raises(Unauthorized):
            pulled(source_of(served.host, tmp_path), served.host)


def challenged(realm: str, seen: list[str]) -> Say:
    """A registry that wants tokens of a realm."""

    def say(connection: socket.socket, head: str) -> None:
        seen.append(head)
        challenge = f'Bearer realm="{realm}",service="models",scope="repository:other:pull,push"'
        connection.sendall(
            f"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n".encode()
        )

    return say


def test_a_password_is_told_to_no_other_host_unless_it_is_named(tmp_path: Path) -> None:
    tokens = TokenServer(Authority.make(tmp_path, "root").issue("tokens"))
    seen: list[str] = []
    with answering(tokens.say) as tokens.url:
        elsewhere = tokens.url.replace("127.0.0.1", "localhost") + "/token?a=b"
        with answering(challenged(elsewhere, seen)) as url:
            host = url.removeprefix("http://")
            with pytest.raises(Unauthorized, match="realm_hosts"):
                pulled(source_of(host, tmp_path, RIGHT), host)
            assert not tokens.asked, "not even asked"
            named = elsewhere.partition("://")[2].partition("/")[0]
            for other in ("localhost", "localhost:443", named.replace("localhost", "127.0.0.1")):
                with pytest.raises(Unauthorized, match=f"names {named}"):
                    pulled(source_of(host, tmp_path, {**RIGHT, "realm_hosts": [other]}), host)
            assert not tokens.asked, "another port is another place"
            with pytest.raises(Unauthorized, match="does not give private/m"):
                pulled(source_of(host, tmp_path, {**RIGHT, "realm_hosts": [named]}), host)
    assert f"Authorization: {BASIC}" in tokens.asked[0]
    assert "GET /token?a=b&scope=repository%3Aprivate%2Fm%3Apull&" in tokens.asked[0], "not what the registry says"
    assert not any(BASIC in head for head in seen), "where tokens are used, the password is not"
    assert "Authorization: Bearer " in seen[-1]


def test_a_password_is_told_to_no_other_port_of_the_registrys_host(tmp_path: Path) -> None:
    tokens = TokenServer(Authority.make(tmp_path, "root").issue("tokens"))
    with answering(tokens.say) as tokens.url, answering(challenged(f"{tokens.url}/token", [])) as url:
        host = url.removeprefix("http://")
        with pytest.raises(Unauthorized, match="realm_hosts"):
            pulled(source_of(host, tmp_path, RIGHT), host)
    assert not tokens.asked


@pytest.mark.parametrize("written", ["https://index.docker.io/v1/", "docker.io", "registry-1.docker.io", "Docker.io"])
def test_what_docker_login_writes_of_docker_hub_is_found(tmp_path: Path, written: str) -> None:
    file = tmp_path / "auth.json"
    entry = {"auth": BASIC.removeprefix("Basic ")}
    file.write_text(json.dumps({"auths": {written: entry, f"{written}access-token": {"auth": "b3RoZXI6b3RoZXI="}}}))
    found = AuthFile(file).find("registry-1.docker.io")
    assert found is not None
    assert (found.basic, found.realm_hosts) == (BASIC, frozenset({"auth.docker.io"}))
    assert AuthFile(file).find("registry.example") is None


@pytest.mark.parametrize(
    "realm",
    ["http://169.254.169.254/latest", "https://10.0.0.1/token", "http://registry.example/token", "file:///etc/passwd",
     "https://2130706433/token", "nonsense", ""],
)  # fmt: skip
def test_a_realm_is_trusted_no_more_than_any_url(tmp_path: Path, realm: str) -> None:
    with answering(challenged(realm, [])) as url:
        host = url.removeprefix("http://")
        with pytest.raises(Forbidden):
            pulled(source_of(host, tmp_path, RIGHT), host)


def test_a_registry_with_tls_leads_to_no_realm_without(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path, "root")
    pair, tls = authority.issue("registry"), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.cert_file, pair.key_file)
    with answering(challenged("http://localhost:1/token", []), tls) as url:
        host = url.removeprefix("https://").replace("127.0.0.1", "localhost")
        with pytest.raises(Forbidden, match="without TLS"):
            pulled(source_of(host, tmp_path, RIGHT, plain=False, ca_file=authority.ca_file), host)


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b"{}", b'{"token": 1}', b'{"token": "a b"}', b'{"token": "a\\r\\nX: b"}', b'{"token": ""}',
     b'{"token": "x", "expires_in": "soon"}', b'{"token": "x", "expires_in": [1]}', b'{"token": "\xff"}',
     b'{"token": "x", "expires_in": ' + b"9" * 401 + b"}", b'{"token": "x", "expires_in": -' + b"9" * 5_000 + b"}",
     b"[" * 50_000, b'{"token": {"x": 1}, "access_token": "x"}', b'{"token": null}', b'{"token": "\\ud800"}', b"null"],
    ids=range(17),
)  # fmt: skip
def test_what_is_no_token_is_not_sent(tmp_path: Path, body: bytes) -> None:
    def give(connection: socket.socket, _: str) -> None:
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    seen: list[str] = []
    with answering(give) as tokens, answering(challenged(f"{tokens}/token", seen)) as url:
        host = url.removeprefix("http://")
        with pytest.raises(NetworkError, match="no token"):
            pulled(source_of(host, tmp_path), host)
    assert len(seen) == 1


def test_answers_that_are_almost_tokens_are_used_or_refused(tmp_path: Path) -> None:
    chance = random.Random(7)
    values = ["x", "", 0, -1, 1.5, 1e400, 10**400, True, None, [], {}, "3600", "\u2028", "a b", [["x"]], {"token": "x"}]
    bodies = []
    for _ in range(100):
        fields = chance.sample(["token", "access_token", "expires_in", "issued_at", "Token"], chance.randint(0, 5))
        body = bytearray(json.dumps({name: chance.choice(values) for name in fields}).encode())
        for _ in range(chance.randint(0, 2)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        bodies.append(bytes(body))

    def give(connection: socket.socket, _: str) -> None:
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(bodies[-1])}\r\n\r\n".encode() + bodies[-1])

    with answering(give) as tokens, answering(challenged(f"{tokens}/token", [])) as url:
        host = url.removeprefix("http://")
        while bodies:
            with pytest.raises((NetworkError, Unauthorized)):
                source_of(host, tmp_path).find(Reference("oci", f"{host}/private/m"), Stopping())
            bodies.pop()


def test_a_token_that_is_no_longer_taken_is_fetched_anew(tmp_path: Path) -> None:
    given: list[str] = []

    def give(connection: socket.socket, _: str) -> None:
        given.append(f"token-{len(given)}")
        body = json.dumps({"access_token": given[-1], "expires_in": 3_600}).encode()
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    with answering(give) as tokens, trading_stand_in(f"{tokens}/token", given) as (host, begun):
        source = source_of(host, tmp_path)
        reference = Reference("oci", f"{host}/private/m")
        assert source.find(reference, Stopping()).plan.files[0].path == "m.onnx"
        begun.set()  # from now on only what is given anew is taken
        assert source.find(reference, Stopping()).plan.files[0].path == "m.onnx"
        assert given == ["token-0", "token-1"]


@contextmanager
def trading_stand_in(realm: str, given: list[str]) -> Iterator[tuple[str, threading.Event]]:
    """A registry that takes the first token until it is told otherwise, and the second one then."""
    begun = threading.Event()
    blob = {"digest": "sha256:" + "0" * 64, "size": 0, "annotations": {"org.opencontainers.image.title": "m.onnx"}}
    kind = "application/vnd.oci.image.manifest.v1+json"
    body = json.dumps({"mediaType": kind, "layers": [blob]}).encode()

    def say(connection: socket.socket, head: str) -> None:
        token = re.search(r"Authorization: Bearer (\S+)", head)
        if token and token[1] == ("token-1" if begun.is_set() else "token-0"):
            said = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(said.encode() + body)
        else:
            challenged(realm, [])(connection, head)

    with answering(say) as url:
        yield url.removeprefix("http://"), begun
