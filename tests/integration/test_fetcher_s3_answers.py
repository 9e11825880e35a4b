"""What S3 answers, and what is believed of it: a real MinIO where it can be had to say so, else sockets on loopback."""

from __future__ import annotations

import io
import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest

from services.common.addresses import AddressRules
from services.common.errors import DomainError, FailedPrecondition
from services.fetcher.faults import (
    FileTooLarge,
    ModelNotFound,
    NetworkError,
    RateLimited,
    RegistrationRefused,
    SourceChanged,
    Unauthorized,
)
from services.fetcher.models import Reference, RemoteFile
from services.fetcher.sources.http import GuardedHttp
from services.fetcher.sources.s3 import S3Access, S3Source
from services.fetcher.sources.source import Found, Stopping
from tests.flows import all_of
from tests.origins import Say, answering
from tests.s3 import S3Bucket, S3Server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> S3Bucket:
    return s3.make_bucket()


def source_of(access: S3Access, bucket: str = "models") -> S3Source:
    return S3Source(access, [bucket], GuardedHttp(AddressRules(access.allowed_hosts)))


def reader(bucket: S3Bucket, **keys: str) -> S3Source:
    """A source with the bucket's keys, or with others."""
    said = {"access_key": bucket.server.access_key, "secret_key": bucket.server.secret_key, **keys}
    return source_of(S3Access(bucket.server.endpoint, **said), bucket.name)


def put(bucket: S3Bucket, key: str, content: bytes) -> Reference:
    bucket.server.client().put_object(bucket.name, key, io.BytesIO(content), len(content))
    return Reference("s3", f"s3://{bucket.name}/{key}")


def found(source: S3Source, reference: Reference) -> RemoteFile:
    (file,) = source.find(reference, Stopping()).plan.files
    return file


def read(source: S3Source, file: RemoteFile, offset: int = 0, end: int | None = None) -> bytes:
    with source.open(file, offset, Stopping(), end=end) as flow:
        assert flow.offset == offset
        return all_of(flow)


@contextmanager
def saying(say: Say) -> Iterator[S3Source]:
    """A source whose server is a stand-in."""
    with answering(say) as url:
        yield source_of(S3Access(url, access_key="key", secret_key="secret"))


def answer(status: str, body: bytes = b"", **headers: str) -> Say:
    lines = {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())

    def say(connection: socket.socket, asked: str) -> None:
        connection.sendall(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + (b"" if asked.startswith("HEAD") else body))

    return say


def refusal(status: str, code: str) -> Say:
    return answer(status, f"<Error><Code>{code}</Code></Error>".encode())


def page(keys: list[str], *, more: str = "", size: int = 1) -> bytes:
    objects = "".join(
        f"<Contents><Key>{quote(key)}</Key><ETag>&quot;e&quot;</ETag><Size>{size}</Size></Contents>" for key in keys
    )
    truncated = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{more}</NextContinuationToken>" if more else ""
    name = "<Name>models</Name><EncodingType>url</EncodingType>"
    return f"<ListBucketResult>{name}{objects}{truncated}</ListBucketResult>".encode()


def listing(say: Say) -> Found:
    with saying(say) as source:
        return source.find(Reference("s3", "s3://models/a/"), Stopping())


def test_any_range_of_an_object_can_be_had(bucket: S3Bucket) -> None:
    source = reader(bucket)
    file = found(source, put(bucket, "ranges.bin", b"0123456789"))
    assert file.ranges
    assert (read(source, file), read(source, file, 4), read(source, file, 4, 6)) == (b"0123456789", b"456789", b"45")


def test_an_object_that_is_another_by_now_is_begun_anew(bucket: S3Bucket) -> None:
    source = reader(bucket)
    file = found(source, put(bucket, "changing.bin", b"0123456789"))
    put(bucket, "changing.bin", b"9876543210")
    for offset in (0, 4):
        with pytest.raises(SourceChanged):
            read(source, file, offset)


def test_names_of_keys_reach_s3_as_they_are(bucket: S3Bucket) -> None:
    for key in ("with space.bin", "plus+and%20.bin", "é/ü.bin", "a=b&c.bin", "hash#ed?.bin", "semi;colon~.bin"):
        source = reader(bucket)
        assert read(source, found(source, put(bucket, f"odd/{key}", key.encode()))) == key.encode(), key
    folder = source.find(Reference("s3", f"s3://{bucket.name}/odd/"), Stopping())
    assert {read(source, file).decode() for file in folder.plan.files} == {file.path for file in folder.plan.files}


def test_wrong_keys_are_told_from_what_is_not_there(bucket: S3Bucket) -> None:
    reference = put(bucket, "kept.bin", b"kept")
    for keys, code in (
        ({"secret_key": "wrong-key-wrong-key"}, "SignatureDoesNotMatch"),
        ({"access_key": "nobody"}, "InvalidAccessKeyId"),
        ({"access_key": "", "secret_key": ""}, "AccessDenied"),
    ):
        with pytest.raises(Unauthorized, match=code):
            reader(bucket, **keys).find(reference, Stopping())
        with pytest.raises(Unauthorized, match=code):
            reader(bucket, **keys).find(Reference("s3", f"s3://{bucket.name}/"), Stopping())


def test_what_everybody_may_read_needs_no_keys(bucket: S3Bucket) -> None:
    reference = put(bucket, "public/open.bin", b"open")
    allowed = f"arn:aws:s3:::{bucket.name}/public/*"
    statement = {"Effect": "Allow", "Principal": {"AWS": ["*"]}, "Action": ["s3:GetObject"], "Resource": [allowed]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    bucket.server.client().set_bucket_policy(bucket.name, policy)
    anybody = reader(bucket, access_key="", secret_key="")
    assert read(anybody, found(anybody, reference)) == b"open"
    with pytest.raises(Unauthorized, match="AccessDenied"):
        anybody.find(put(bucket, "private.bin", b"closed"), Stopping())


def test_a_folder_in_many_pages_is_listed_whole(bucket: S3Bucket) -> None:
    pages = {"": page([f"a/{n:04}" for n in range(600)], more="two"), "two": page(["a/x", "a/y"])}

    def say(connection: socket.socket, asked: str) -> None:
        token = re.search(r"continuation-token=(\w+)", asked)
        answer("200 OK", pages[token[1] if token else ""])(connection, asked)

    assert len(listing(say).plan.files) == 602


def test_what_is_left_out_is_counted_all_the_same() -> None:
    odd = [f"a/{n}/../x" for n in range(5_001)]
    pages = {"": page(odd, more="two"), "two": page(odd)}

    def say(connection: socket.socket, asked: str) -> None:
        token = re.search(r"continuation-token=(\w+)", asked)
        answer("200 OK", pages[token[1] if token else ""])(connection, asked)

    with pytest.raises(FileTooLarge, match="10,000 objects"):
        listing(say)


def test_keys_that_cannot_be_names_of_files_are_left_out_and_said() -> None:
    odd = ["a/../x", "a//x", "a/./x", "a/b\\c", "a/b\x07c", "a/" + "n" * 300, "a/folder/"]
    told = listing(answer("200 OK", page([*odd, "a/good.onnx", "a/"])))
    assert [file.path for file in told.plan.files] == ["good.onnx"]
    assert len(told.warnings) == len(odd) + 1
    assert all(warning.isprintable() for warning in told.warnings)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (page([f"a/{n}" for n in range(1_001)]), FileTooLarge),
        (page(["a/one"], more="again"), FileTooLarge),  # for ever
        (page([]), ModelNotFound),
        (page(["a/", "a/folder/"], size=0), ModelNotFound),
        (page(["b/elsewhere"]), NetworkError),
        (page(["a/Rose", "a/rose"]), RegistrationRefused),
        (page(["a/rose", "a/rose/thorn"]), RegistrationRefused),
        (b"<ListBucketResult>", NetworkError),
        (b"\xff\xfe", NetworkError),
        (b"<ListBucketResult/>", NetworkError),
        (page(["a/x"]).replace(b"<Size>1", b"<Size>-1"), NetworkError),
        (page(["a/x"]).replace(b"<Size>1", b"<Size>one"), NetworkError),
        (b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'aaaa'>]>" + page(["a/x"]) + b"<", NetworkError),
        (b" " * 17 * 1024 * 1024, FileTooLarge),
    ],
    ids=lambda each: each.__name__ if isinstance(each, type) else "",
)
def test_listings_that_are_too_long_or_wrong_are_refused(body: bytes, fault: type[DomainError]) -> None:
    with pytest.raises(fault):
        listing(answer("200 OK", body))


@pytest.mark.parametrize(
    ("say", "fault", "said"),
    [
        (refusal("503 Slow Down", "SlowDown"), RateLimited, "patience"),
        (refusal("500 Internal", "InternalError"), NetworkError, "500"),
        (refusal("403 Forbidden", "RequestTimeTooSkewed"), Unauthorized, "RequestTimeTooSkewed"),
        (refusal("403 Forbidden", "InvalidObjectState"), Unauthorized, "InvalidObjectState"),
        (refusal("400 Bad Request", "ExpiredToken"), Unauthorized, "ExpiredToken"),
        (refusal("400 Bad Request", "AuthorizationHeaderMalformed"), Unauthorized, "AuthorizationHeaderMalformed"),
        (refusal("400 Bad Request", "RequestTimeout"), NetworkError, "RequestTimeout"),
        (refusal("405 Not Allowed", "MethodNotAllowed"), ModelNotFound, "MethodNotAllowed"),
        (answer("404 Not Found"), ModelNotFound, "404"),
        (answer("403 Forbidden", b"<Code>\x1b[2J</Code>"), Unauthorized, "403"),
        (answer("301 Moved", x_amz_bucket_region="eu-west-1"), ModelNotFound, "eu-west-1"),
        (answer("307 Moved", Location="http://127.0.0.1:1/x"), ModelNotFound, "elsewhere"),
        (answer("200 OK", b"", Content_Length="10", Content_Encoding="gzip"), NetworkError, "compresses"),
    ],
)
def test_each_refusal_says_what_it_means(say: Say, fault: type[DomainError], said: str) -> None:
    with saying(say) as source, pytest.raises(fault, match=re.escape(said)) as refused:
        source.find(Reference("s3", "s3://models/x.onnx"), Stopping())
    assert "secret" not in refused.value.message


def test_patience_is_asked_for_in_seconds() -> None:
    with saying(answer("503 Slow Down", Retry_After="7")) as source, pytest.raises(RateLimited) as refused:
        source.find(Reference("s3", "s3://models/x.onnx"), Stopping())
    assert refused.value.retry_after_s == 7


@pytest.mark.parametrize(
    ("headers", "sha256", "tag"),
    [
        ({"x_amz_checksum_sha256": "LCa0a2j/xo/5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564="}, True, '"e"'),
        ({"x_amz_checksum_sha256": "LCa0a2j/xo/5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564=-2"}, False, '"e"'),
        (
            {
                "x_amz_checksum_sha256": "LCa0a2j/xo/5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564=",
                "x_amz_checksum_type": "COMPOSITE",
            },
            False,
            '"e"',
        ),
        ({"x_amz_checksum_sha256": "Zm9v"}, False, '"e"'),
        ({"ETag": "bare"}, False, ""),
        ({"ETag": 'W/"weak"'}, False, ""),
    ],
)
def test_only_a_digest_of_all_of_an_object_is_its_digest(headers: dict[str, str], sha256: bool, tag: str) -> None:
    with saying(answer("200 OK", b"foo", **{"ETag": '"e"', **headers})) as source:
        file = found(source, Reference("s3", "s3://models/x.onnx"))
    assert (bool(file.sha256), file.tag, file.size_bytes) == (sha256, tag, 3)


def test_requests_of_amazon_go_to_the_bucket_of_the_region() -> None:
    asked: list[tuple[str, int]] = []

    def lookup(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["169.254.169.254"]

    access = S3Access(region="eu-west-1", access_key="key", secret_key="secret")
    source = S3Source(
        access, ["models", "dotted.bucket"], GuardedHttp(AddressRules(access.allowed_hosts, lookup=lookup))
    )
    for name in ("models", "dotted.bucket"):
        with pytest.raises(FailedPrecondition) as refused:
            source.find(Reference("s3", f"s3://{name}/x.onnx"), Stopping())
        assert refused.value.reason == "SECURITY", "Amazon is no private address"
    assert asked == [("models.s3.eu-west-1.amazonaws.com", 443), ("s3.eu-west-1.amazonaws.com", 443)]


def test_a_server_that_does_not_fit_its_region_is_said() -> None:
    source = source_of(S3Access("https://s3.eu-west-1.amazonaws.com", region="UPPER CASE"))
    with pytest.raises(FailedPrecondition) as refused:
        source.find(Reference("s3", "s3://models/x.onnx"), Stopping())
    assert refused.value.reason == "S3_ENDPOINT_INVALID"


def test_without_buckets_there_is_no_source() -> None:
    none: Callable[..., Any] = S3Source
    assert "PENSTOCK_FETCHER_S3_BUCKETS" in none(S3Access(), [], GuardedHttp(AddressRules())).disabled_reason
    assert not source_of(S3Access()).disabled_reason
