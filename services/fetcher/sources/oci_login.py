"""Who may pull from a registry: credentials in a file, and the tokens that they are traded for, in memory only."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from services.common.errors import FailedPrecondition
from services.fetcher.faults import Forbidden, NetworkError, Unauthorized
from services.fetcher.sources.http import Answer, GuardedHttp
from services.fetcher.sources.http_files import body_of
from services.fetcher.sources.source import Stopping

MAX_FILE_BYTES: Final = 1024 * 1024
MAX_ANSWER_BYTES: Final = 256 * 1024
MAX_KEPT: Final = 1_000
LEAST_TOKEN_S: Final = 60.0
MOST_TOKEN_S: Final = 3_600.0
SETTING: Final = "PENSTOCK_FETCHER_OCI_AUTH_FILE"
_DOCKER: Final = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
_REALMS: Final = {"registry-1.docker.io": frozenset({"auth.docker.io"})}
_BEARER: Final = re.compile(r'\bBearer\s+((?:[a-z_]{1,32}="[^"]{0,2048}"[ ,]*)+)', re.IGNORECASE)
_PARAMETER: Final = re.compile(r'([a-z_]{1,32})="([^"]*)"', re.IGNORECASE)
_BASIC: Final = re.compile(r"\bBasic\b", re.IGNORECASE)
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,32768}")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of a registry: `host` as references write it, with its port; `name` within it."""

    scheme: str
    host: str
    name: str

    @property
    def url(self) -> str:
        """Where its manifests and blobs are."""
        return f"{self.scheme}://{self.host}/v2/{self.name}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a registry is told; `realm_hosts` are others that may be told it, to give a token for it.

    Each is a host, or host:port where the port is not its scheme's own.
    """

    basic: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    realm_hosts: frozenset[str] = frozenset()


class AuthFile:
    """Credentials as `docker login` writes them: {"auths": {"host": {"auth": base64 of user:password}}}.

    Docker Hub's may stand under https://index.docker.io/v1/, where docker login writes them, or under docker.io.
    `username` and `password`, or `registrytoken`, may stand in the place of `auth`, and `realm_hosts` beside them. The
    file is read each time, so that new ones need no restart.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def find(self, host: str) -> Credentials | None:
        """Give the credentials for a registry; raises FailedPrecondition where the file has none of use."""
        if self._path is None:
            return None
        try:
            with self._path.open("rb") as file:
                said = json.loads(file.read(MAX_FILE_BYTES))["auths"]
            entry = next((entry for name, entry in said.items() if registry_of(_host_of(name)) == host), None)
            return None if entry is None else _credentials(entry, _REALMS.get(host, frozenset()))
        except OSError as error:
            raise self._unusable(str(error.strerror)) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._unusable(f"of {host} it has no auth, username and password, or registrytoken") from error

    def _unusable(self, why: str) -> FailedPrecondition:
        return FailedPrecondition(f"the file of {SETTING} cannot be used: {why}", reason="OCI_AUTH_FILE_INVALID")


class Logins:
    """Asks registries, and answers their challenges."""

    def __init__(self, http: GuardedHttp, auth_file: AuthFile, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._http = http
        self._auth_file = auth_file
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[Repository, tuple[str, float]] = {}

    @contextmanager
    def get(self, repository: Repository, url: str, headers: Mapping[str, str], stopping: Stopping) -> Iterator[Answer]:
        """Ask for something of a repository; see `GuardedHttp.get`.

        Raises:
            Unauthorized: the registry wants credentials that are not here, or does not take those that are.
        """
        said = self._recalled(repository)
        for fresh in (False, True):
            sent = {**headers, "Authorization": said} if said else headers
            with self._http.get(url, sent, stopping, judged=(HTTPStatus.UNAUTHORIZED,)) as answer:
                if answer.status != HTTPStatus.UNAUTHORIZED:
                    yield answer
                    return
                challenge = answer.headers.get("WWW-Authenticate", "")
            if fresh:
                break
            said = self._answer(repository, challenge, stopping)
        self._forget(repository)
        given = f"{repository.host} does not give {repository.name} to this service"
        raise Unauthorized(f"{given}; see what the file of {SETTING} has for it")

    def _recalled(self, repository: Repository) -> str:
        with self._lock:
            header, until = self._kept.get(repository, ("", 0.0))
        return header if self._clock() < until else ""

    def _forget(self, repository: Repository) -> None:
        with self._lock:
            self._kept.pop(repository, None)

    def _answer(self, repository: Repository, challenge: str, stopping: Stopping) -> str:
        """Give the header that answers a challenge, and keep it for as long as it holds."""
        credentials = self._auth_file.find(repository.host)
        bearer = _BEARER.search(challenge)
        if credentials and credentials.token:
            header, holds_s = f"Bearer {credentials.token}", LEAST_TOKEN_S
        elif bearer:
            asked = {name.lower(): value for name, value in _PARAMETER.findall(bearer[1])}
            header, holds_s = self._traded(repository, asked, credentials, stopping)
        elif _BASIC.search(challenge) and credentials:
            header, holds_s = credentials.basic, LEAST_TOKEN_S
        else:
            raise Unauthorized(f"{repository.host} wants credentials: name them in the file of {SETTING}")
        with self._lock:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[repository] = header, self._clock() + holds_s
        return header

    def _traded(
        self,
        repository: Repository,
        asked: Mapping[str, str],
        credentials: Credentials | None,
        stopping: Stopping,
    ) -> tuple[str, float]:
        """Fetch a token from where the registry says, which nobody trusts for that; gives it and how long it holds."""
        realm = asked.get("realm", "")
        endpoint = self._http.endpoint(realm)
        if repository.scheme == "https" and endpoint.scheme != "https":
            raise Forbidden(f"{repository.host} has its tokens fetched from a URL without TLS")
        headers: dict[str, str] = {}
        if credentials:
            own = self._http.endpoint(repository.url)
            at_home = (endpoint.scheme, endpoint.host, endpoint.port) == (own.scheme, own.host, own.port)
            if not at_home and endpoint.authority not in credentials.realm_hosts:
                place = f"{endpoint.scheme}://{endpoint.authority}"
                sentence = f"{repository.host} has its tokens fetched from {place}, which is not told credentials"
                raise Unauthorized(
                    f"{sentence} unless realm_hosts beside them names {endpoint.authority}, in the file of {SETTING}"
                )
            headers["Authorization"] = credentials.basic
        wanted = {"scope": f"repository:{repository.name}:pull"}
        if asked.get("service"):
            wanted["service"] = asked["service"]
        url = f"{realm}{'&' if urlsplit(realm).query else '?'}{urlencode(wanted)}"
        with self._http.get(url, headers, stopping) as answer:
            body = body_of(answer, MAX_ANSWER_BYTES)
        try:
            said: dict[str, Any] = json.loads(body)
            token = said.get("token") or said["access_token"]
            holds_s = min(MOST_TOKEN_S, max(LEAST_TOKEN_S, float(said.get("expires_in") or 0)))
            if not _TOKEN.fullmatch(token):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise NetworkError(f"{endpoint.host} gives no token that can be sent") from error
        return f"Bearer {token}", holds_s


def registry_of(host: str) -> str:
    """Give the host that a registry is asked at, which of Docker Hub is another than the one that is written."""
    return _DOCKER.get(host, host)


def _credentials(entry: Mapping[str, Any], realms: frozenset[str]) -> Credentials:
    """Read an entry of the file, with the realms that are known anyway; raises ValueError, KeyError, TypeError."""
    named = entry.get("realm_hosts", [])
    if not isinstance(named, list):
        raise TypeError
    realms |= {str(host).lower() for host in named}
    if entry.get("registrytoken"):
        if not _TOKEN.fullmatch(entry["registrytoken"]):
            raise ValueError
        return Credentials(token=entry["registrytoken"], realm_hosts=realms)
    said = entry.get("auth")
    pair = base64.b64decode(said, validate=True) if said else f"{entry['username']}:{entry['password']}".encode()
    if b":" not in pair:
        raise ValueError
    return Credentials(basic=f"Basic {base64.b64encode(pair).decode()}", realm_hosts=realms)


def _host_of(name: str) -> str:
    """Give the host of a registry, which docker login also writes as a URL."""
    return (name.partition("://")[2].partition("/")[0] if "://" in name else name.rstrip("/")).lower()
