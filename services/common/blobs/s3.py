"""Blobs in an S3 bucket, through the `minio` package.

An upload of a known digest goes as a multipart upload straight to its address: nothing can be seen there
until it is completed, and it is completed only after the last byte was hashed and checked. Where the caller
does not know the digest, the address is unknown until the end as well: what fits into one part waits in
memory, and what does not goes to a temporary key and is copied by the server, so that memory stays constant
and no local disk is needed.

Bodies are signed without a digest of their bytes (UNSIGNED-PAYLOAD): minio hashes each once more for that, and so does
the server, an eighth of an upload's whole cost each. Against what the network may do to them each goes with its CRC-32,
which costs little, and which the server checks: damaged bytes must never take the place of a good blob.

minio's `put_object` would do this too, but alone it is a third slower (one part at a time), and with its
parallel uploads a stream that fails leaves three threads behind for good and is aborted while parts are
still in flight. So the four multipart calls are made here, though minio keeps them underscore-private: the
version is capped, and the contract suite runs every one of them.
"""

from __future__ import annotations

import logging
import math
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Final, ParamSpec, TypeVar
from urllib.parse import quote, urlunsplit
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.commonconfig import CopySource
from minio.credentials.credentials import Credentials
from minio.datatypes import CompleteMultipartUploadResult
from minio.error import MinioException, S3Error
from minio.signer import sign_v4_s3
from urllib3.exceptions import HTTPError

from services.common.blobs.blob import MAX_URL_LIFETIME_S, BeforePublish, Blob, OnTaken, checked_sha256, is_sha256
from services.common.blobs.flow import READ_BYTES, BlobReader, Chunk, DigestName, Inflow, check_offset, hash_of
from services.common.blobs.s3_parts import CHECKED, SentPart, checksum, completion
from services.common.errors import DomainError, FailedPrecondition, NotFound, ResourceExhausted, Unavailable

# S3's smallest part. Three in flight and one being gathered make an upload grow the process by 38 MiB
# (measured); parts of 8 MiB took 59 and were no faster.
PART_BYTES: Final = 5 * 1024 * 1024
PARTS_IN_FLIGHT: Final = 3
# Of all uploads together: what many of them hold in memory is then little more than one part each.
PARTS_IN_FLIGHT_IN_ALL: Final = 4
MAX_PARTS: Final = 10_000  # S3's own limit
STALE_AFTER: Final = timedelta(days=1)
PROBE_TIMEOUT_S: Final = 3.0

_FULL: Final = {"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded"}
_DAMAGED: Final = {"XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "BadDigest"}
_DENIED: Final = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"}
_PASSING: Final = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "XMinioServerNotInitialized"}
_UNSIGNED: Final = "UNSIGNED-PAYLOAD"
_LOST: Final = {"NoSuchUpload", "InvalidPart", "InvalidPartOrder"}

logger = logging.getLogger(__name__)
_Query = dict[str, str | list[str] | tuple[str]]  # as minio has it
P = ParamSpec("P")
T = TypeVar("T")


class S3BlobStore:
    """A `BlobStore` in `bucket`: `<prefix>/ab/abcd…` are blobs, `<prefix>/incoming/` is what still arrives.

    `answer_timeout_s` bounds each wait for the server's next byte, not a transfer as a whole. Requests that
    may be repeated are, twice at most, with back-off; deletions are not. Multipart uploads that a killed
    process left unfinished can't be seen; MinIO drops them after a day, elsewhere a lifecycle rule
    (AbortIncompleteMultipartUpload) has to. Parts grow where the declared size, or else the limit, is above
    48 GiB, and memory with them.
    """

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str,
        endpoint: str,
        secure: bool,
        region: str,
        access_key: str,
        secret_key: str,
        public_endpoint: str | None = None,
        public_secure: bool = False,
        connect_timeout_s: float = 3.0,
        answer_timeout_s: float = 30.0,
        digest: DigestName = "sha256",
    ) -> None:
        self._new_hash = hash_of(digest)
        self._bucket = bucket
        self._prefix = prefix
        self._region = region
        self._credentials = Credentials(access_key, secret_key)
        self._slots = threading.BoundedSemaphore(PARTS_IN_FLIGHT_IN_ALL)
        self._http = bounded_http(connect_timeout_s, answer_timeout_s, retries=2)
        # A deletion sent again could be carried out after its first copy, when the blob is stored anew.
        self._once_http = bounded_http(connect_timeout_s, answer_timeout_s, retries=0)
        # Health is asked often and wants its answer soon, so the probe neither waits nor tries again.
        probe_timeout_s = min(PROBE_TIMEOUT_S, answer_timeout_s)
        self._probe_http = bounded_http(probe_timeout_s, probe_timeout_s, retries=0)

        def client(endpoint: str, secure: bool, http: urllib3.PoolManager) -> Minio:
            return Minio(endpoint, access_key, secret_key, secure=secure, region=region, http_client=http)

        self._client = client(endpoint, secure, self._http)
        self._once = client(endpoint, secure, self._once_http)
        self._probe = client(endpoint, secure, self._probe_http)
        # A URL is signed for the host that it names; signing calls nobody, so it need not be in our reach.
        self._public = client(public_endpoint, public_secure, self._http) if public_endpoint else None

    def prepare(self) -> None:
        """Sweep temporary objects older than a day; a server that can't be reached now is swept next time."""
        oldest = datetime.now(UTC) - STALE_AFTER
        try:
            self._call(self._sweep, oldest)
        except DomainError as error:
            logger.warning("blob store not swept: %s", error.message)

    def put(
        self,
        chunks: Iterable[Chunk],
        *,
        sha256: str | None = None,
        size_bytes: int | None = None,
        max_bytes: int,
        before_publish: BeforePublish | None = None,
        on_taken: OnTaken | None = None,  # noqa: ARG002 -- the protocol's
    ) -> Blob:
        """Store the bytes, the digest checked before the upload is completed. See `BlobStore.put`."""
        declared = None if sha256 is None else checked_sha256(sha256)
        inflow = Inflow(chunks, sha256=declared, size_bytes=size_bytes, max_bytes=max_bytes, new_hash=self._new_hash)
        largest = max_bytes if size_bytes is None else size_bytes
        parts = inflow.parts(max(PART_BYTES, math.ceil(largest / MAX_PARTS)))
        first = next(parts)

        def arrived() -> Blob:
            blob = Blob(inflow.sha256, inflow.size_bytes)
            if before_publish is not None:
                before_publish(blob)
            return blob

        if inflow.ended:
            blob = arrived()
            self._call(self._send_body, self._key(blob.sha256), first, checksum(first), {})
            return blob
        parts = chain((first,), parts)
        del first  # this frame lives as long as the upload; the part must not
        if declared is not None:
            return self._put_parts(self._key(declared), parts, arrived)
        return self._put_by_copy(parts, arrived)

    def open(self, sha256: str, *, offset: int = 0) -> BlobReader:
        """Begin the download. See `BlobStore.open`."""
        if offset:
            size_bytes = self.stat(sha256).size_bytes
            check_offset(offset, size_bytes=size_bytes)
            if offset == size_bytes:  # S3 knows no empty range
                return BlobReader(sha256, size_bytes=size_bytes, offset=offset, read=lambda: b"", release=lambda: None)
        response = self._call(self._client.get_object, self._bucket, self._key(sha256), offset)

        def release() -> None:
            # A connection that still holds unread bytes can't serve again: closed, not returned.
            response.close()
            response.release_conn()

        return BlobReader(
            sha256,
            size_bytes=size_bytes if offset else int(response.headers["content-length"]),
            offset=offset,
            read=lambda: self._call(response.read, READ_BYTES, decode_content=False),
            release=release,
            new_hash=self._new_hash,
        )

    def stat(self, sha256: str) -> Blob:
        """See `BlobStore.stat`."""
        found = self._call(self._client.stat_object, self._bucket, self._key(sha256))
        return Blob(sha256, found.size or 0)

    def exists(self, sha256: str) -> bool:
        """See `BlobStore.exists`."""
        try:
            self.stat(sha256)
        except NotFound:
            return False
        return True

    def delete(self, sha256: str) -> None:
        """See `BlobStore.delete`."""
        self._call(self._once.remove_object, self._bucket, self._key(sha256))

    def list(self) -> Iterator[tuple[Blob, datetime]]:
        """Go through the keys, a page of a thousand at a time. See `BlobStore.list`."""
        found = iter(self._client.list_objects(self._bucket, prefix=f"{self._prefix}/", recursive=True))
        while (each := self._call(next, found, None)) is not None:
            folder, _, name = str(each.object_name).removeprefix(f"{self._prefix}/").partition("/")
            # What still arrives lies in another folder, and strangers may have left anything.
            if folder == name[:2] and is_sha256(name) and each.last_modified is not None:
                yield Blob(name, each.size or 0), each.last_modified

    def presign(self, sha256: str, *, lifetime_s: int, file_name: str) -> str | None:
        """Sign a URL with this store's key, for the endpoint that clients reach. See `BlobStore.presign`."""
        if self._public is None:
            return None
        if not 1 <= lifetime_s <= MAX_URL_LIFETIME_S:
            raise ValueError(f"lifetime_s is {lifetime_s}; 1 to {MAX_URL_LIFETIME_S} are allowed")
        disposition = f"attachment; filename*=UTF-8''{quote(file_name, safe='')}"
        return self._call(
            self._public.presigned_get_object,
            self._bucket,
            self._key(sha256),
            timedelta(seconds=lifetime_s),
            {"response-content-disposition": disposition},
        )

    def free_bytes(self) -> int | None:
        """None: S3 does not say. See `BlobStore.free_bytes`."""
        return None

    def check(self) -> None:
        """Ask for the bucket, once and briefly. See `BlobStore.check`."""
        if not self._call(self._probe.bucket_exists, self._bucket):
            raise self._bucket_missing()

    def close(self) -> None:
        """Close the idle connections; one in use is closed by whoever uses it."""
        self._http.clear()
        self._once_http.clear()
        self._probe_http.clear()

    def _key(self, sha256: str) -> str:
        return f"{self._prefix}/{checked_sha256(sha256)[:2]}/{sha256}"

    def _put_parts(self, key: str, parts: Iterator[Chunk], arrived: Callable[[], T]) -> T:
        """Upload the parts to `key`, say so and complete; whatever is raised on the way, abort."""
        upload_id = self._call(self._client._create_multipart_upload, self._bucket, key, dict(CHECKED))
        try:
            sent = self._send(key, upload_id, parts)
            result = arrived()
            done = self._call(self._complete, key, upload_id, sent)
            if not done.etag:  # an error that came too late for the status line: 200 with an error inside
                message = "the blob store could not complete the upload; send the file again"
                raise Unavailable(message, reason="BLOB_STORE_UNAVAILABLE")
        except BaseException:
            # A server that fails here as well has its own sweep; what went wrong first is what matters.
            with suppress(DomainError):
                self._call(self._client._abort_multipart_upload, self._bucket, key, upload_id)
            raise
        return result

    def _send(self, key: str, upload_id: str, parts: Iterator[Chunk]) -> tuple[SentPart, ...]:
        """Send the parts, a few at a time. When this returns or raises, none is in flight any more."""
        sent: list[SentPart] = []
        flying: deque[Future[SentPart]] = deque()

        def send(number: int, body: Chunk) -> SentPart:
            try:
                return self._call(self._upload_part, key, upload_id, number, body)
            finally:
                self._slots.release()

        with ThreadPoolExecutor(PARTS_IN_FLIGHT, thread_name_prefix="blob-part") as pool:
            for number, part in enumerate(parts, start=1):
                if len(flying) == PARTS_IN_FLIGHT:
                    sent.append(flying.popleft().result())
                self._slots.acquire()
                flying.append(pool.submit(send, number, part))
            sent.extend(future.result() for future in flying)
        return tuple(sent)

    def _upload_part(self, key: str, upload_id: str, number: int, body: Chunk) -> SentPart:
        """Send one part, with what the server is to check it against."""
        crc = checksum(body)
        etag = self._send_body(key, body, crc, {"partNumber": str(number), "uploadId": upload_id})
        return SentPart(number, etag, crc)

    def _send_body(self, key: str, body: Chunk, crc: str, query: _Query) -> str:
        """Send bytes that are signed for without their digest, and checked by their CRC; gives their etag."""
        url = self._client._base_url.build(
            method="PUT",
            region=self._region,
            bucket_name=self._bucket,
            object_name=key,
            query_params=query,
        )
        now = datetime.now(UTC)
        headers = sign_v4_s3(
            method="PUT",
            url=url,
            region=self._region,
            headers={
                "Host": url.netloc,
                "x-amz-checksum-crc32": crc,
                "x-amz-content-sha256": _UNSIGNED,
                "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
            },
            credentials=self._credentials,
            content_sha256=_UNSIGNED,
            date=now,
        )
        answer = self._http.urlopen("PUT", urlunsplit(url), body=body, headers=headers)
        if answer.status != 200:
            raise S3Error.fromxml(answer)
        return str(answer.headers["etag"]).strip('"')

    def _complete(self, key: str, upload_id: str, parts: Iterable[SentPart]) -> CompleteMultipartUploadResult:
        """Ask for the parts to be made one object."""
        answer = self._client._execute(
            "POST",
            self._bucket,
            key,
            body=completion(parts),
            headers={"Content-Type": "application/xml"},
            query_params={"uploadId": upload_id},
        )
        return CompleteMultipartUploadResult(answer)

    def _put_by_copy(self, parts: Iterator[Chunk], arrived: Callable[[], Blob]) -> Blob:
        temporary = f"{self._prefix}/incoming/{uuid.uuid4().hex}"
        self._put_parts(temporary, parts, lambda: None)
        try:
            blob = arrived()
            source = CopySource(self._bucket, temporary)
            self._call(self._client.copy_object, self._bucket, self._key(blob.sha256), source)
            return blob
        finally:
            # Should this fail, the sweep of a later opening takes it.
            with suppress(DomainError):
                self._call(self._client.remove_object, self._bucket, temporary)

    def _sweep(self, oldest: datetime) -> None:
        for found in self._probe.list_objects(self._bucket, prefix=f"{self._prefix}/incoming/", recursive=True):
            if found.last_modified < oldest:
                self._probe.remove_object(self._bucket, found.object_name)

    def _call(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make one call to the server, with what it raises said in our terms."""
        try:
            return call(*args, **kwargs)
        except S3Error as error:
            raise self._refusal(error) from error
        except (MinioException, HTTPError, ParseError) as error:
            message = "the blob store can't be reached or does not answer as S3 does; try again later"
            raise Unavailable(message, reason="BLOB_STORE_UNAVAILABLE") from error

    def _refusal(self, error: S3Error) -> DomainError:
        """Say an S3 error code in our terms."""
        if error.code == "NoSuchKey":
            sha256 = str(error.object_name or "").rpartition("/")[2]
            return NotFound(f"no blob {sha256} is stored; upload it first", reason="BLOB_NOT_FOUND")
        if error.code == "NoSuchBucket":
            return self._bucket_missing()
        if error.code in _DAMAGED:
            message = f"bytes changed on their way to the blob store ({error.code}); send the file again"
            return Unavailable(message, reason="BLOB_STORE_UNAVAILABLE")
        if error.code in _DENIED:
            message = f"the blob store refuses this service's key ({error.code}); check the key and its policy"
            return FailedPrecondition(message, reason="BLOB_STORE_DENIED")
        if error.code in _FULL:
            message = f"the blob store is full ({error.code}); free or add space, then try again"
            return ResourceExhausted(message, reason="BLOB_STORE_FULL")
        if error.code in _LOST:
            message = f"the blob store lost a part of the upload ({error.code}); send the file again"
            return Unavailable(message, reason="BLOB_STORE_UNAVAILABLE")
        if error.code in _PASSING or error.response.status >= 500:
            message = f"the blob store can't serve now ({error.code}); try again later"
            return Unavailable(message, reason="BLOB_STORE_UNAVAILABLE")
        return FailedPrecondition(f"the blob store refused: {error.code}", reason="BLOB_STORE_DENIED")

    def _bucket_missing(self) -> FailedPrecondition:
        message = f"the blob bucket {self._bucket} does not exist; create it, or correct the blob URL"
        return FailedPrecondition(message, reason="BLOB_BUCKET_MISSING")


def bounded_http(connect_timeout_s: float, answer_timeout_s: float, *, retries: int) -> urllib3.PoolManager:
    """Make the connections of a client that waits a bounded time, whatever the server says of retrying."""
    return urllib3.PoolManager(
        maxsize=16,
        timeout=urllib3.Timeout(connect=connect_timeout_s, read=answer_timeout_s),
        retries=urllib3.Retry(
            total=retries,
            redirect=0,
            backoff_factor=0.2,
            backoff_jitter=0.2,
            status_forcelist=[429, 500, 502, 503, 504],
            respect_retry_after_header=False,  # a server must not tell us to sleep for an hour
        ),
    )
