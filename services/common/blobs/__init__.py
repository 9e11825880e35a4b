"""Content-addressed blobs: one protocol, kept in a folder or in an S3 bucket.

`open_blobs` is how a service gets its own; the prefix keeps services apart in one folder or bucket.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from services.common.blobs.blob import MAX_URL_LIFETIME_S, BeforePublish, Blob, BlobStore, checked_sha256
from services.common.blobs.file import FileBlobStore
from services.common.blobs.flow import BlobReader, DigestName
from services.common.errors import FailedPrecondition

if TYPE_CHECKING:
    from services.common.blobs.s3 import S3BlobStore

__all__ = [
    "MAX_URL_LIFETIME_S",
    "BeforePublish",
    "Blob",
    "BlobReader",
    "BlobStore",
    "FileBlobStore",
    "checked_sha256",
    "open_blobs",
    "open_passing_blobs",
]

_PREFIX = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def open_blobs(url: str, *, prefix: str, access_key: str | None = None, secret_key: str | None = None) -> BlobStore:
    """Open the store at `url` for one service, and sweep what killed uploads left there over a day ago.

    `file:///absolute/path`, or `s3://bucket?endpoint=http://127.0.0.1:9000&region=us-east-1` with the keys
    beside it (never inside: URLs end up in logs). Without `endpoint` it is Amazon's; `region` is us-east-1
    by default; `public_endpoint` is where clients reach the server, and without it no URL is presigned.
    `prefix` is the service's own part of it, e.g. `registry`. An S3 server that is down at this moment is no
    error: `check` tells.

    Raises FailedPrecondition for a URL or prefix that can't be meant, and for S3 without keys (BLOB_URL_INVALID).
    """
    return _opened(url, prefix, access_key, secret_key, digest="sha256", cached=True)


def open_passing_blobs(
    url: str, *, prefix: str, access_key: str | None = None, secret_key: str | None = None
) -> BlobStore:
    """Open the store for what passes through one service: read once, by it alone. See `open_blobs`.

    Addresses are BLAKE3, which costs a quarter of SHA-256, and into a folder bytes go straight to the disk where the
    file system can do that, so that they push nothing out of memory which others read.
    """
    return _opened(url, prefix, access_key, secret_key, digest="blake3", cached=False)


def _opened(
    url: str, prefix: str, access_key: str | None, secret_key: str | None, *, digest: DigestName, cached: bool
) -> BlobStore:
    if not _PREFIX.fullmatch(prefix):
        message = f"blob prefix {prefix!r}: use lowercase letters, digits, - and _, beginning with a letter or digit"
        raise FailedPrecondition(message, reason="BLOB_URL_INVALID")
    parts = urlsplit(url)
    if "@" in parts.netloc + parts.query:
        message = (
            "blob URL: it has a user or key inside, and URLs end up in logs; give the keys as "
            "PENSTOCK_BLOB_ACCESS_KEY and PENSTOCK_BLOB_SECRET_KEY"
        )
        raise FailedPrecondition(message, reason="BLOB_URL_INVALID")
    if parts.scheme == "file" and not parts.netloc and len(parts.path) > 1 and not parts.query:
        files = FileBlobStore(Path(unquote(parts.path)) / prefix, digest=digest, cached=cached)
        files.prepare()
        return files
    if parts.scheme == "s3" and parts.netloc and not parts.path.strip("/"):
        return _open_s3(parts.netloc, parts.query, prefix, access_key, secret_key, digest)
    message = f"blob URL {url!r}: use file:///absolute/path or s3://bucket?endpoint=http://host:port&region=…"
    raise FailedPrecondition(message, reason="BLOB_URL_INVALID")


def _open_s3(
    bucket: str, query: str, prefix: str, access_key: str | None, secret_key: str | None, digest: DigestName
) -> S3BlobStore:
    options = {name: values[-1] for name, values in parse_qs(query).items()}
    if unknown := sorted(options.keys() - {"endpoint", "public_endpoint", "region"}):
        message = f"blob URL: unknown option {', '.join(unknown)}; s3:// takes endpoint, public_endpoint and region"
        raise FailedPrecondition(message, reason="BLOB_URL_INVALID")
    if not (access_key and secret_key):
        message = f"blob URL: s3://{bucket} needs an access key and a secret key"
        raise FailedPrecondition(message, reason="BLOB_URL_INVALID")
    endpoint = _endpoint(options, "endpoint") or urlsplit("https://s3.amazonaws.com")
    public = _endpoint(options, "public_endpoint")
    # Only who keeps blobs in S3 pays for its client, a third of a second.
    from services.common.blobs.s3 import S3BlobStore

    try:
        objects = S3BlobStore(
            bucket,
            prefix=prefix,
            endpoint=endpoint.netloc,
            secure=endpoint.scheme == "https",
            region=options.get("region", "us-east-1"),
            access_key=access_key,
            secret_key=secret_key,
            public_endpoint=public.netloc if public else None,
            public_secure=public is not None and public.scheme == "https",
            digest=digest,
        )
        objects.prepare()
    except ValueError as error:  # minio's own word on bucket names
        raise FailedPrecondition(f"blob URL: {error}", reason="BLOB_URL_INVALID") from error
    return objects


def _endpoint(options: dict[str, str], name: str) -> SplitResult | None:
    if name not in options:
        return None
    found = urlsplit(options[name])
    if found.scheme not in {"http", "https"} or not found.hostname or found.path.strip("/"):
        message = f"blob URL: {name} {options[name]!r}: use http://host:port or https://host"
        raise FailedPrecondition(message, reason="BLOB_URL_INVALID")
    return found
