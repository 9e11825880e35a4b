"""Artifacts in OCI registries: their layers are the files, known by their digests."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import Final, NamedTuple

from services.common.errors import InvalidArgument
from services.fetcher.faults import DigestMismatch, NetworkError
from services.fetcher.models import Plan, Reference, RemoteFile
from services.fetcher.sources.http import Answer, GuardedHttp
from services.fetcher.sources.http_files import HttpFlow, body_of, opened
from services.fetcher.sources.oci_login import AuthFile, Logins, Repository, registry_of
from services.fetcher.sources.oci_manifests import INDEXES, MANIFESTS, Manifest, Platform
from services.fetcher.sources.source import Found, Stopping, model_name

MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
MAX_NAME_CHARS: Final = 255
_ACCEPT: Final = ", ".join((*MANIFESTS, *INDEXES))
# What has neither a dot nor a port in the registry's place is the short name of some registry that is not named.
_HOST: Final = r"(?:[a-z0-9-]+(?:\.[a-z0-9-]+)+|localhost|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?|[a-z0-9-]+:[0-9]{1,5}"
_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE: Final = re.compile(
    rf"(?:oci://)?(?P<host>{_HOST})/(?P<name>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>[a-z0-9]+:[0-9a-zA-Z]+))?"
)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_ALGORITHMS: Final = ("sha256", "sha512")
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


class _Place(NamedTuple):
    repository: Repository
    reference: str  # a tag or a digest


class OciSource:
    """`registry/namespace/name:tag` or `@sha256:…`; the tag is latest by default.

    Registries of `plain_hosts`, as references write them, are spoken to without TLS.
    """

    name = "oci"
    reference_form = "registry.example/namespace/name:tag, or @sha256:… in the place of :tag"
    has_revisions = True
    disabled_reason = ""

    def __init__(self, http: GuardedHttp, auth_file: AuthFile, plain_hosts: Iterable[str] = ()) -> None:
        self._http = http
        self._logins = Logins(http, auth_file)
        self._plain_hosts = frozenset(host.lower() for host in plain_hosts)

    def check(self, reference: Reference) -> None:
        """See `Source.check`."""
        place = self._placed(reference)
        if reference.variant:
            sentence = "a registry has none; name a tag or a digest"
            raise InvalidArgument.field("source.variant", sentence, reason="INVALID_REFERENCE")
        self._http.endpoint(place.repository.url)

    def host(self, reference: Reference) -> str:
        """See `Source.host`."""
        return self._http.endpoint(self._placed(reference).repository.url).host

    def find(self, reference: Reference, stopping: Stopping) -> Found:
        """Read the manifest, or that one of an index which fits, and ask for the first byte of the largest file."""
        place = self._placed(reference)
        manifest, digest = self._manifest(place, stopping)
        if manifest.manifests is not None:
            machine = platform.machine()
            only = manifest.chosen(Platform(os="linux", architecture=_MACHINES.get(machine, machine)))
            manifest, digest = self._manifest(_Place(place.repository, f"sha256:{only.sha256}"), stopping)
        repository = place.repository
        files, unpack = manifest.files(f"oci://{repository.host}/{repository.name}")
        if reference.sha256 and len(files) == 1 and files[0].sha256 != reference.sha256:
            raise DigestMismatch(f"its file hashes to {files[0].sha256}, and {reference.sha256} was asked for")
        if self._gives_ranges(max(files, key=lambda file: file.size_bytes or 0), stopping):
            files = tuple(replace(file, ranges=True) for file in files)
        canonical = f"{repository.host}/{repository.name}"
        plan = Plan(digest, files, unpack=unpack, metadata=manifest.metadata(), canonical=canonical)
        return Found(plan, model_name(repository.name), licence=manifest.said("licenses"))

    @contextmanager
    def open(self, file: RemoteFile, offset: int, stopping: Stopping, *, end: int | None = None) -> Iterator[HttpFlow]:
        """Ask for the rest of a layer: under its digest lies nothing else."""
        repository, digest = self._placed(Reference(self.name, file.locator))

        def get(url: str, headers: Mapping[str, str], stopping: Stopping) -> AbstractContextManager[Answer]:
            return self._logins.get(repository, url, headers, stopping)

        with opened(get, f"{repository.url}/blobs/{digest}", file, offset, stopping, end=end) as flow:
            yield flow

    def _placed(self, reference: Reference) -> _Place:
        """Read a reference and its revision."""
        found = _REFERENCE.fullmatch(reference.reference)
        if found is None or len(found["name"]) > MAX_NAME_CHARS:
            sentence = f"write {self.reference_form}; the registry's host goes before all else, no short name is known"
            raise InvalidArgument.field("source.reference", sentence, reason="INVALID_REFERENCE")
        for field, digest in (("reference", found["digest"]), ("revision", reference.revision)):
            if digest and not _DIGEST.fullmatch(digest):
                sentence = "a digest is sha256: and 64 of 0-9 and a-f; others are not known here"
                raise InvalidArgument.field(f"source.{field}", sentence, reason="INVALID_REFERENCE")
        if found["digest"] and reference.revision not in ("", found["digest"]):
            sentence = "the revision is another than the reference's digest; leave one of them out"
            raise InvalidArgument.field("source.revision", sentence, reason="INVALID_REFERENCE")
        host = registry_of(found["host"])
        repository = Repository("http" if host in self._plain_hosts else "https", host, found["name"])
        return _Place(repository, reference.revision or found["digest"] or found["tag"] or "latest")

    def _manifest(self, place: _Place, stopping: Stopping) -> tuple[Manifest, str]:
        """Fetch a manifest, which must be what it was asked for by; gives it and its digest."""
        repository, wanted = place
        url = f"{repository.url}/manifests/{wanted}"
        with self._logins.get(repository, url, {"Accept": _ACCEPT}, stopping) as answer:
            if answer.status != HTTPStatus.OK:
                raise NetworkError(f"{repository.host} answers with a part of a manifest")
            body = body_of(answer, MAX_MANIFEST_BYTES)
            said, kind = answer.headers.get("Docker-Content-Digest", ""), answer.headers.get("Content-Type", "")
        for digest in (wanted, said):
            algorithm, _, value = digest.partition(":")
            if algorithm in _ALGORITHMS and value and hashlib.new(algorithm, body).hexdigest() != value:
                raise DigestMismatch(f"the manifest of {repository.name} is not that of {digest[:140]}: do not use it")
        return Manifest.parse(body, kind), f"sha256:{hashlib.sha256(body).hexdigest()}"

    def _gives_ranges(self, file: RemoteFile, stopping: Stopping) -> bool:
        if not file.size_bytes:
            return False
        repository, digest = self._placed(Reference(self.name, file.locator))
        url = f"{repository.url}/blobs/{digest}"
        with self._logins.get(repository, url, {"Range": "bytes=0-0"}, stopping) as answer:
            return answer.status == HTTPStatus.PARTIAL_CONTENT
