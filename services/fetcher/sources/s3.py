"""Objects in buckets of S3, and of what speaks as it does: requests signed by minio, sent as those of URLs are."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http import HTTPStatus
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import SplitResult, urlsplit
from xml.etree.ElementTree import ParseError

from services.common.addresses import AllowedHosts, bears_secret
from services.common.errors import FailedPrecondition, InvalidArgument
from services.fetcher.faults import (
    DigestMismatch,
    FileTooLarge,
    Forbidden,
    ModelNotFound,
    NetworkError,
    SourceChanged,
    Unauthorized,
)
from services.fetcher.models import Plan, Reference, RemoteFile
from services.fetcher.sources.file_names import check_distinct, fault_of, told_of
from services.fetcher.sources.http import Answer, GuardedHttp
from services.fetcher.sources.http_files import HttpFlow, body_of, length_of, opened, tag_of
from services.fetcher.sources.source import MAX_FILES, Found, Stopping, is_archive, model_name

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

MAX_LISTED: Final = 10_000
MAX_PAGES: Final = 100
MAX_PAGE_BYTES: Final = 16 * 1024 * 1024
MAX_REFUSAL_BYTES: Final = 64 * 1024
AMAZON: Final = "https://s3.amazonaws.com"
_EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
_REFERENCE: Final = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", re.DOTALL)
_TAG: Final = re.compile(r'("[^"]*")(?: (.+))?')
_CODE: Final = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")
_REGION: Final = re.compile(r"[a-z0-9-]{1,32}")
# What S3 says of a refusal lies in its body, and a bucket of another region is no redirect that is followed.
_REFUSALS: Final = frozenset(range(300, 500)) - {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
}
_KEYS: Final = frozenset(
    {
        "AccessDenied", "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidAccessKeyId", "InvalidObjectState",
        "InvalidToken", "RequestTimeTooSkewed", "SignatureDoesNotMatch",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class S3Access:
    """Where S3 is, and the keys for it; without keys requests are not signed."""

    endpoint: str = AMAZON
    region: str = "us-east-1"
    access_key: str = ""
    secret_key: str = field(default="", repr=False)

    @property
    def allowed_hosts(self) -> AllowedHosts:
        """The endpoint is the operator's word: it may be private, and without TLS."""
        host = urlsplit(self.endpoint).hostname or ""
        return AllowedHosts() if self.endpoint == AMAZON else AllowedHosts.parse(host)


@dataclass(frozen=True, slots=True)
class _Place:
    """An object, or what begins with a key; of a folder the key is '' or ends in '/'."""

    bucket: str
    key: str

    @property
    def is_folder(self) -> bool:
        return not self.key or self.key.endswith("/")

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


class S3Source:
    """`s3://bucket/key`, a file or an archive, and `s3://bucket/folder/`, all that lies below.

    `buckets` are those that may be read, each with or without a folder in it. `http` may reach the endpoint, and
    follows no redirects.
    """

    name = "s3"
    reference_form = "s3://bucket/model.onnx, s3://bucket/folder/"
    has_revisions = True

    def __init__(self, access: S3Access, buckets: Iterable[str], http: GuardedHttp) -> None:
        self._access = access
        self._buckets = tuple(sorted(bucket.rstrip("/") for bucket in buckets))
        self._http = http

    @property
    def disabled_reason(self) -> str:
        """See `Source.disabled_reason`."""
        return "" if self._buckets else "no bucket is allowed: set PENSTOCK_FETCHER_S3_BUCKETS where the fetcher runs"

    def check(self, reference: Reference) -> None:
        """See `Source.check`."""
        place = self._placed(reference.reference)
        if reference.variant:
            raise InvalidArgument.field("source.variant", "a bucket has none; leave it out", reason="INVALID_REFERENCE")
        if bears_secret(reference.reference):
            sentence = "the key bears a token or signature, which everyone who sees the fetch would see; leave it out"
            raise InvalidArgument.field("source.reference", sentence, reason="CREDENTIALS_IN_URL")
        if reference.revision and place.is_folder:
            sentence = "a folder has none, an object's is its version id; leave it out"
            raise InvalidArgument.field("source.revision", sentence, reason="INVALID_REFERENCE")

    def host(self, reference: Reference) -> str:  # noqa: ARG002 - all of them are at the endpoint
        """See `Source.host`."""
        return urlsplit(self._access.endpoint).hostname or ""

    def find(self, reference: Reference, stopping: Stopping) -> Found:
        """Ask for the object's head, or list all below a folder; what cannot be a file's name is left out, and said."""
        place = self._placed(reference.reference)
        if not place.is_folder:
            return self._found(place, reference, stopping)
        left_out: list[tuple[str, str]] = []
        files = tuple(self._listed(place, left_out, stopping))
        if not files:
            raise ModelNotFound(f"there is no file in {place}")
        check_distinct(file.path for file in files)
        if reference.sha256 and len(files) == 1:
            files = (replace(files[0], sha256=reference.sha256),)
        unpack = len(files) == 1 and is_archive(files[0].path)
        return Found(Plan("", files, unpack=unpack), model_name(place.key or place.bucket), told_of(left_out))

    @contextmanager
    def open(self, file: RemoteFile, offset: int, stopping: Stopping, *, end: int | None = None) -> Iterator[HttpFlow]:
        """Ask for the rest of an object, provided that it is the same; each request is signed when it is made."""
        place = self._placed(file.locator)
        known = _TAG.fullmatch(file.tag)
        etag, version = (known[1], known[2] or "") if known else ("", "")

        def get(_: str, headers: Mapping[str, str], stopping: Stopping) -> AbstractContextManager[Answer]:
            same = {"If-Match": etag} if etag else {}
            return self._asked(place.bucket, place.key, {**headers, **same}, stopping, query=_versioned(version))

        with opened(get, self._access.endpoint, replace(file, tag=etag), offset, stopping, end=end) as flow:
            yield flow

    def _placed(self, text: str) -> _Place:
        """Read a reference, and see that it lies where reading is allowed."""
        found = _REFERENCE.fullmatch(text)
        fault = fault_of((found[2] or "").removesuffix("/")) if found and found[2] else ""
        if found is None or fault:
            sentence = f"{fault or 'no bucket is named'}: write {self.reference_form}"
            raise InvalidArgument.field("source.reference", sentence, reason="INVALID_REFERENCE")
        place = _Place(found[1], found[2] or "")
        if any(f"{place.bucket}/{place.key}/".startswith(f"{allowed}/") for allowed in self._buckets):
            return place
        places = ", ".join(self._buckets) or "none is"
        raise Forbidden(f"the reference lies in no bucket that PENSTOCK_FETCHER_S3_BUCKETS allows ({places})")

    def _found(self, place: _Place, reference: Reference, stopping: Stopping) -> Found:
        with self._head(place, reference.revision, stopping) as answer:
            size_bytes = length_of(answer)
            etag = tag_of(answer, size_bytes)
            version = answer.headers.get("x-amz-version-id", "")
            sha256 = _sha256_of(answer)
        if size_bytes is None:
            raise NetworkError(f"{self.host(reference)} does not say how large {place} is")
        if reference.sha256 and sha256 and reference.sha256 != sha256:
            raise DigestMismatch(f"{place} hashes to {sha256}, and {reference.sha256} was asked for")
        name = place.key.rpartition("/")[2]
        etag = etag if _TAG.fullmatch(etag) else ""  # without an ETag that can be asked for again it has none
        tag = f"{etag} {reference.revision}" if etag and reference.revision else etag
        file = RemoteFile(name, str(place), tag, size_bytes, reference.sha256 or sha256, ranges=True)
        revision = version if version not in ("", "null") and version.isprintable() else etag
        return Found(Plan(revision, (file,), unpack=is_archive(name)), model_name(name))

    @contextmanager
    def _head(self, place: _Place, version: str, stopping: Stopping) -> Iterator[Answer]:
        """Ask for all that is said of an object; where that is refused ask for a byte, for only GET says why."""
        query, signed = _versioned(version), {"x-amz-checksum-mode": "ENABLED"}
        with self._asked(
            place.bucket, place.key, {}, stopping, query=query, signed=signed, method="HEAD", refused=_silent
        ) as answer:
            if answer.status < HTTPStatus.MULTIPLE_CHOICES:
                yield answer
                return
        with self._asked(place.bucket, place.key, {"Range": "bytes=0-0"}, stopping, query=query):
            raise NetworkError(f"{urlsplit(self._access.endpoint).hostname} gives {place}, and refuses to describe it")

    def _listed(self, place: _Place, left_out: list[tuple[str, str]], stopping: Stopping) -> Iterator[RemoteFile]:
        """Give the files below a key, in the order of S3."""
        seen = count = 0
        for key, etag, size_bytes in self._keys(place, stopping):
            seen += 1
            if seen > MAX_LISTED:
                raise FileTooLarge(f"{place} has more than {MAX_LISTED:,} objects")
            path = key.removeprefix(place.key)
            if not key.startswith(place.key) or size_bytes < 0:
                raise NetworkError(f"{urlsplit(self._access.endpoint).hostname} lists what it was not asked for")
            if key.endswith("/") and not size_bytes:
                continue  # how consoles show a folder
            if fault := fault_of(path):
                left_out.append((path, fault))
                continue
            count += 1
            if count > MAX_FILES:
                raise FileTooLarge(f"{place} has more than {MAX_FILES:,} files")
            yield RemoteFile(path, f"s3://{place.bucket}/{key}", etag, size_bytes, ranges=True)

    def _keys(self, place: _Place, stopping: Stopping) -> Iterator[tuple[str, str, int]]:
        """Give keys, ETags and sizes, a page of a thousand at a time."""
        from minio.datatypes import parse_list_objects

        token: str | None = ""
        for _ in range(MAX_PAGES):
            query = {"list-type": "2", "encoding-type": "url", "max-keys": "1000", "prefix": place.key}
            if token:
                query["continuation-token"] = token
            with self._asked(place.bucket, "", {}, stopping, query=query) as answer:
                page = body_of(answer, MAX_PAGE_BYTES)
            try:
                said = cast("BaseHTTPResponse", SimpleNamespace(data=page))
                objects, more, token, _version = parse_list_objects(said)
            except (ParseError, ValueError) as error:
                raise NetworkError(f"{urlsplit(answer.url).hostname} does not list as S3 does") from error
            for each in objects:
                yield each.object_name or "", f'"{each.etag}"' if each.etag else "", each.size or 0
            if not more or not token:
                return
        raise FileTooLarge(f"{place} has more than {MAX_PAGES} pages of objects")

    @contextmanager
    def _asked(
        self,
        bucket: str,
        key: str,
        headers: Mapping[str, str],
        stopping: Stopping,
        *,
        query: Mapping[str, str],
        signed: Mapping[str, str] | None = None,
        method: str = "GET",
        refused: Callable[[Answer, str], None] | None = None,
    ) -> Iterator[Answer]:
        """Ask for an object, or of a bucket; raises what a refusal means, unless told otherwise."""
        url, added = self._signed(method, bucket, key, query, signed or {})
        with self._http.get(url, {**headers, **added}, stopping, method=method, judged=_REFUSALS) as answer:
            if answer.status in _REFUSALS:
                (refused or _refuse)(answer, f"s3://{bucket}/{key}")
            yield answer

    def _signed(
        self, method: str, bucket: str, key: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[str, dict[str, str]]:
        """Give the URL and the headers that let a request in, for the next quarter of an hour."""
        from minio.credentials.credentials import Credentials
        from minio.signer import sign_v4_s3

        access = self._access
        url = self._url(method, bucket, key, query)
        if not access.access_key:
            return url.geturl(), dict(headers)
        now = datetime.now(UTC)
        added = sign_v4_s3(
            method=method,
            url=url,
            region=access.region,
            headers={
                **headers,
                "Host": url.netloc,
                "x-amz-content-sha256": _EMPTY_SHA256,
                "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
            },
            credentials=Credentials(access.access_key, access.secret_key),
            content_sha256=_EMPTY_SHA256,
            date=now,
        )
        return url.geturl(), {name: str(value) for name, value in added.items()}

    def _url(self, method: str, bucket: str, key: str, query: Mapping[str, str]) -> SplitResult:
        """Say where an object is: of Amazon's the bucket is part of the host, of others of the path."""
        from minio.helpers import BaseURL

        access = self._access
        try:
            return BaseURL(access.endpoint, access.region).build(
                method=method,
                region=access.region,
                bucket_name=bucket,
                object_name=key or None,
                query_params=dict(query),
            )
        except ValueError as error:
            sentence = f"PENSTOCK_FETCHER_S3_ENDPOINT and …_REGION do not fit each other or the bucket ({error})"
            raise FailedPrecondition(sentence, reason="S3_ENDPOINT_INVALID") from error


def _versioned(version: str) -> dict[str, str]:
    return {"versionId": version} if version else {}


def _silent(_: Answer, __: str) -> None:
    """Leave an answer to who asked."""


def _refuse(answer: Answer, place: str) -> None:
    """Raise what a refusal means, as S3's code and the status say."""
    found = _CODE.search(body_of(answer, MAX_REFUSAL_BYTES))
    code = found[1].decode() if found else str(answer.status)
    if answer.status == HTTPStatus.PRECONDITION_FAILED:
        raise SourceChanged(f"{place} is another object by now; it is begun anew")
    if answer.status < HTTPStatus.BAD_REQUEST:
        region = answer.headers.get("x-amz-bucket-region", "")
        where = f"in the region {region}" if _REGION.fullmatch(region) else "elsewhere"
        raise ModelNotFound(f"the bucket of {place} lies {where}: set PENSTOCK_FETCHER_S3_REGION or …_ENDPOINT")
    if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) or code in _KEYS:
        raise Unauthorized(f"S3 does not give {place} to this service's key ({code}); check the key and its policy")
    if code == "RequestTimeout":
        raise NetworkError(f"S3 waited too long ({code})")
    raise ModelNotFound(f"S3 has nothing at {place} ({code}); see that it is right, and a / ends a folder")


def _sha256_of(answer: Answer) -> str:
    """Give the digest of an object, in hex; '' where it has none, or one of its parts' digests."""
    if answer.headers.get("x-amz-checksum-type", "FULL_OBJECT") != "FULL_OBJECT":
        return ""
    try:
        digest = base64.b64decode(answer.headers.get("x-amz-checksum-sha256", ""), validate=True)
    except binascii.Error:
        return ""
    return digest.hex() if len(digest) == hashlib.sha256().digest_size else ""
