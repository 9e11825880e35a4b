"""A stand-in for Hugging Face's Hub, which no test can reach: a real HTTP server on loopback that speaks the endpoints
its documentation and its client name. It is asked by the real huggingface_hub client.

Large files (LFS) redirect to a CDN of another origin with a signed URL, small ones to a cache of the Hub's own.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import SecretStr

from services.common.addresses import AddressRules, AllowedHosts
from services.fetcher.models import Reference
from services.fetcher.sources.http import GuardedHttp, HttpLimits
from services.fetcher.sources.hub import Hub as Client
from services.fetcher.sources.huggingface import HuggingFaceSource
from services.fetcher.sources.source import Found, Stopping
from tests import origins
from tests.origins import Origin

LFS_BYTES = 300
"""Files from this size on are LFS's, as on the Hub those of 10 MB are."""
GRAPH = b"g" * LFS_BYTES
FILES = {
    "README.md": b"read me",
    "config.json": json.dumps({"hidden_size": 8}).encode(),
    "tokenizer.json": b"{}",
    "onnx/model.onnx": GRAPH,
    "onnx/model_fp16.onnx": GRAPH + b"h",
}
"""A bundle by its names alone."""
PATIENT = HttpLimits(connect_s=600, silence_s=600, floor_s=600)
LOOPBACK = AddressRules(AllowedHosts.parse("127.0.0.1"))
_INFO = re.compile(r"/api/models/(?P<repository>[^/]+(?:/[^/]+)??)(?:/revision/(?P<revision>[^/]+))?")
_RESOLVE = re.compile(r"/(?P<repository>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


@dataclass
class Repository:
    """A repository: the files of each commit, and what branches and tags name.

    Attributes:
        private: nobody but the token's holder hears that it is there.
        gated: its files are for whoever accepted its conditions; `allowed` says whether the token's holder did.
        moved: its name by now.
        answers: further answers to every question about it, each a status and headers, before the real one.
        said: what the API says of it besides, as it is.
    """

    commits: dict[str, dict[str, bytes]]
    revisions: dict[str, str]
    card: Mapping[str, Any] = field(default_factory=dict)
    tags: list[Any] = field(default_factory=list)
    pipeline_tag: Any = None
    private: bool = False
    gated: bool = False
    allowed: bool = True
    moved: str = ""
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    said: dict[str, Any] = field(default_factory=dict)


@dataclass
class Hub:
    """A running Hub; `cdn` is where it sends whoever asks for large files. `token` opens what is private."""

    url: str
    cdn: Origin
    token: str = "hf_the-secret"
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list, repr=False)

    def publish(self, name: str, files: Mapping[str, bytes], **more: Any) -> str:
        """Commit files to `main` of a repository; gives the commit."""
        said = json.dumps({path: hashlib.sha256(content).hexdigest() for path, content in sorted(files.items())})
        commit = hashlib.sha1(f"{name} {said}".encode()).hexdigest()
        known = self.repositories.get(name)
        kept = known or Repository({}, {})
        kept.commits[commit] = dict(files)
        kept.revisions["main"] = commit
        for attribute, value in more.items():
            setattr(kept, attribute, value)
        self.repositories[name] = kept
        return commit

    def signed_path(self, name: str, sha256: str) -> str:
        """Where the CDN has a large file, as long as such URLs are."""
        return f"/xet-bridge-us/{name}/{sha256}?X-Amz-Signature={'0' * 64}&Policy={'e' * 800}&Signature={'f' * 344}"

    def paths(self) -> list[str]:
        """What was asked for, without parameters."""
        return [urlsplit(path).path for path, _ in self.asked]


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server.hub
        hub.asked.append((self.path, dict(self.headers)))
        parts = urlsplit(self.path)
        path = parts.path.removeprefix("/api/resolve-cache") if parts.path.startswith("/api/resolve-cache/") else ""
        cached = bool(path)
        if found := _RESOLVE.fullmatch(path or parts.path):
            self._resolve(hub, found["repository"], unquote(found["revision"]), unquote(found["path"]), cached=cached)
        elif found := _INFO.fullmatch(parts.path):
            blobs = parse_qs(parts.query).get("blobs") == ["true"]
            self._describe(hub, found["repository"], unquote(found["revision"] or "main"), blobs=blobs)
        else:
            self._say(404, {})

    def _describe(self, hub: Hub, name: str, revision: str, *, blobs: bool) -> None:
        repository = self._allowed(hub, name)
        if repository is None:
            return
        commit = repository.revisions.get(revision, revision)
        if commit not in repository.commits:
            self._say(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"})
            return
        files = repository.commits[commit].items()
        document = {
            "_id": "621ffdc036468d709f174328", "id": name, "modelId": name, "private": repository.private,
            "sha": commit, "lastModified": "2025-03-06T13:37:44.000Z", "tags": repository.tags, "downloads": 7,
            "gated": "auto" if repository.gated else False, "disabled": False, "cardData": dict(repository.card),
            "pipeline_tag": repository.pipeline_tag, "library_name": "transformers.js",
            "siblings": [_sibling(path, content) if blobs else {"rfilename": path} for path, content in files],
            **repository.said,
        }  # fmt: skip
        self._say(200, {"Content-Type": "application/json; charset=utf-8"}, json.dumps(document).encode())

    def _resolve(self, hub: Hub, name: str, revision: str, path: str, *, cached: bool) -> None:
        repository = self._allowed(hub, name)
        if repository is None:
            return
        if repository.gated and not (self._token(hub) and repository.allowed):
            status = 403 if self._token(hub) else 401
            said = f"Access to model {name} is restricted and you are not in the authorized list"
            self._say(status, {"X-Error-Code": "GatedRepo", "X-Error-Message": said})
            return
        commit = repository.revisions.get(revision, revision)
        content = repository.commits.get(commit, {}).get(path)
        if content is None:
            self._say(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
            return
        headers = {"X-Repo-Commit": commit}
        if len(content) >= LFS_BYTES:
            sha256 = hashlib.sha256(content).hexdigest()
            there = hub.signed_path(name, sha256)
            hub.cdn.files.setdefault(there, origins.File(content, etag='"of the CDN"'))
            linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
            self._say(302, {**headers, **linked, "Location": f"{hub.cdn.url}{there}"})
        elif not cached:
            self._say(307, {**headers, "Location": f"/api/resolve-cache/{name}/resolve/{commit}/{path}"})
        else:
            self._say(200, {**headers, "ETag": f'"{_oid(content)}"', "Content-Type": "text/plain"}, content)

    def _allowed(self, hub: Hub, name: str) -> Repository | None:
        """Give a repository that may be seen; else say why not, as the Hub does."""
        repository = hub.repositories.get(name)
        if repository is not None and repository.answers:
            self._say(*repository.answers.pop(0))
            return None
        authorization = self.headers.get("Authorization")
        if authorization is not None and not self._token(hub):
            self._say(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
            return None
        if repository is None or (repository.private and not self._token(hub)):
            status = 404 if self._token(hub) else 401
            self._say(status, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return None
        if repository.moved:
            self._say(307, {"Location": self.path.replace(name, repository.moved)})
            return None
        return repository

    def _token(self, hub: Hub) -> bool:
        return self.headers.get("Authorization") == f"Bearer {hub.token}"

    def _say(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub

    def handle_error(self, *_: object) -> None:
        """A fetcher that leaves is what some tests are about."""


def _sibling(path: str, content: bytes) -> dict[str, Any]:
    said: dict[str, Any] = {"rfilename": path, "blobId": _oid(content), "size": len(content)}
    if len(content) >= LFS_BYTES:
        sha256 = hashlib.sha256(content).hexdigest()
        said["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 132}
    return said


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve on a port of its own, with a CDN on another."""
    with origins.serving() as cdn, _Server(("127.0.0.1", 0), _Handler) as server:
        server.hub = Hub(f"http://127.0.0.1:{server.server_address[1]}", cdn)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server.hub
        finally:
            server.shutdown()
            thread.join()


def source(url: str, token: str = "", rules: AddressRules = LOOPBACK) -> HuggingFaceSource:
    """Ask a Hub, from loopback."""
    return HuggingFaceSource(Client(GuardedHttp(rules, PATIENT), url, SecretStr(token) if token else None))


def look(server: Hub, reference: str, token: str = "", **more: str) -> Found:
    """See that a reference can be one, and look at what it names."""
    said = Reference("huggingface", reference, **more)
    found = source(server.url, token)
    found.check(said)
    return found.find(said, Stopping())


def publish(server: Hub, name: str, files: Mapping[str, bytes] = FILES, **more: Any) -> str:
    """Publish a small bundle with a card, or these files."""
    return server.publish(name, files, **{"card": {"license": "mit"}, "pipeline_tag": "feature-extraction", **more})
