"""What sources say of files, and what is believed of it: real sockets on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import grpc
import pytest

from penstock.api.fetcher.v1 import sources_pb2 as pb
from services.common.addresses import AddressRules, AllowedHosts, bears_secret
from services.common.errors import InvalidArgument, Unavailable
from services.fetcher.faults import (
    Forbidden,
    NetworkError,
    SourceChanged,
    UnsupportedFramework,
)
from services.fetcher.models import Plan, Reference, RemoteFile
from services.fetcher.sources.http import GuardedHttp, HttpLimits
from services.fetcher.sources.servicer import SourceServicer
from services.fetcher.sources.source import Found, Stopping
from services.fetcher.sources.url import UrlSource
from tests import origins
from tests.flows import all_of
from tests.origins import Origin, answering

PATIENT = HttpLimits(connect_s=600, silence_s=600, floor_s=600)
URLS = UrlSource(GuardedHttp(AddressRules(AllowedHosts.parse("127.0.0.1")), PATIENT))
DATE, BEFORE, JUST = "Sun, 22 Nov 2026 12:00:00 GMT", "Sun, 22 Nov 2026 11:59:00 GMT", "Sun, 22 Nov 2026 11:59:01 GMT"


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with origins.serving() as served:
        yield served


def answer(status: str = "200 OK", body: bytes = b"abc", **headers: Any) -> origins.Say:
    """Answer with this, whatever was asked; `_` in a header's name stands for `-`. None sends none."""
    lines = {"Content-Length": len(body), **{name.replace("_", "-"): value for name, value in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    raw = f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body
    return lambda connection, _: connection.sendall(raw)


def found(say: origins.Say, path: str = "/m.onnx", sha256: str = "") -> RemoteFile:
    with answering(say) as url:
        return URLS.find(Reference("url", url + path, sha256=sha256), Stopping()).plan.files[0]


def opened(
    say: origins.Say, offset: int = 0, tag: str = '"a"', size_bytes: int | None = 10
) -> tuple[int, int | None, bytes]:
    with answering(say) as url, URLS.open(RemoteFile("m", url + "/m", tag, size_bytes), offset, Stopping()) as flow:
        return flow.offset, flow.size_bytes, all_of(flow)


def ranged(said: str, body: bytes, tag: str = '"a"') -> origins.Say:
    return answer("206 Partial Content", body, ETag=tag, Content_Range=f"bytes {said}")


def test_the_rest_of_a_file_is_that_which_was_asked_for() -> None:
    assert opened(ranged("4-9/10", b"456789"), 4) == (4, 10, b"456789")
    assert opened(answer(ETag='"a"', body=b"0123456789"), 4) == (0, 10, b"0123456789")


@pytest.mark.parametrize(
    ("said", "body", "offset"),
    [
        ("6-9/10", b"6789", 4),  # a gap
        ("0-9/10", b"0123456789", 4),
        ("0-9/10", b"0123456789", 0),  # nobody asked for a part
        ("4-9/5", b"456789", 4),
        ("9-4/10", b"", 4),
        ("4-9/10", b"4567", 4),  # its length says otherwise
        ("4-" + "9" * 5_000 + "/*", b"456789", 4),
        ("nonsense", b"456789", 4),
    ],
)
def test_a_part_that_was_not_asked_for_is_not_taken(said: str, body: bytes, offset: int) -> None:
    with pytest.raises(NetworkError):
        opened(ranged(said, body), offset)


@pytest.mark.parametrize(
    ("say", "offset"),
    [
        (ranged("4-10/11", b"456789A"), 4),
        (answer(ETag='"a"', body=b"0123456789A"), 0),
        (ranged("4-9/10", b"456789", tag='"b"'), 4),
        (ranged("4-9/10", b"456789", tag='W/"a"'), 4),
        (answer("416 Range Not Satisfiable", ETag='"a"'), 4),
    ],
    ids=["size of a part", "size", "tag", "weak tag", "past the end"],
)
def test_a_file_that_is_another_by_now_is_begun_anew(say: origins.Say, offset: int) -> None:
    with pytest.raises(SourceChanged):
        opened(say, offset)


def test_going_on_is_asked_for_the_same_file_only(origin: Origin) -> None:
    url = origin.serve("/part", b"0123456789")
    with URLS.open(RemoteFile("m", url, '"one"', 10), 4, Stopping()) as flow:
        assert all_of(flow) == b"456789"
    assert origin.asked[-1][1]["If-Range"] == '"one"'


@pytest.mark.parametrize(
    ("tag", "headers"),
    [
        ('"a"', {"ETag": '"a"', "Last_Modified": BEFORE, "Date": DATE}),
        (BEFORE, {"Last_Modified": BEFORE, "Date": DATE}),
        ("", {"ETag": 'W/"a"', "Last_Modified": BEFORE, "Date": DATE}),
        ("", {"Last_Modified": JUST, "Date": DATE}),
        ("", {"Last_Modified": BEFORE}),
        ("", {"Last_Modified": "yesterday", "Date": DATE}),
        ("", {"Last_Modified": "Mon, 01 Jan 2024 00:00:00 +" + "9" * 30, "Date": DATE}),
        ("", {"ETag": '"a\0b"'}),
        ("", {"ETag": '"a\x1b[2Jb"'}),
        ("", {"ETag": '"é"'}),
        ("", {"ETag": '"' + "a" * 1_024 + '"'}),
        ("", {}),
    ],
)
def test_only_what_changes_with_every_byte_shows_that_a_file_is_the_same(tag: str, headers: dict[str, Any]) -> None:
    assert found(answer(**headers)).tag == tag


def test_a_file_whose_end_nobody_can_tell_from_a_break_is_not_known_again() -> None:
    assert found(answer(Content_Length=None, ETag='"a"')).tag == ""
    known = found(answer(Content_Length=None, ETag='"a"'), sha256="0" * 64)
    assert (known.tag, known.sha256) == ("", "0" * 64), "its digest tells"
    chunked = answer(Content_Length=None, body=b"3\r\nabc\r\n0\r\n\r\n", ETag='"a"', Transfer_Encoding="chunked")
    assert found(chunked).tag == '"a"', "chunks say where they end"


def test_a_file_whose_size_was_said_before_may_end_with_its_connection() -> None:
    unsized = answer(Content_Length=None, ETag='"a"', body=b"0123456789")
    assert opened(unsized) == (0, None, b"0123456789")
    with pytest.raises(SourceChanged):
        opened(unsized, size_bytes=None)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ('attachment; filename="roses.onnx"', "roses.onnx"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ('attachment; filename="..\\..\\boot.ini"', "boot.ini"),
        ('attachment; filename=".."', "model.onnx"),
        ('attachment; filename="..."', "model.onnx"),
        ('attachment; filename=" "', "model.onnx"),
        ('attachment; filename="a\tb"', "model.onnx"),
        ('attachment; filename="' + "a" * 60_000 + '"', "model.onnx"),
        ('attachment; filename="' + "é" * 200 + '"', "model.onnx"),
        ("attachment; filename=", "m.onnx"),
        (";" * 60_000, "m.onnx"),
        ("attachment; filename=roses.onnx ; size=4", "roses.onnx"),
        ('attachment; filename="red;white.onnx"', "red;white.onnx"),
        ("attachment; filename=\"x.onnx\"; filename*=UTF-8''ros%C3%A9.onnx", "rosé.onnx"),
        ("attachment; filename*=UTF-8''ros%C3%A9.onnx; filename=\"x.onnx\"", "rosé.onnx"),
        ("attachment; filename*=iso-8859-1'en'ros%E9.onnx", "rosé.onnx"),
        ("attachment; filename*=UTF-8''..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("attachment; filename*=UTF-8''a%0Ab", "model.onnx"),
    ],
)
def test_a_name_is_all_that_is_taken_of_what_a_sender_says(said: str, name: str) -> None:
    assert found(answer(Content_Disposition=said)).path == name


PAGE = "text/html; charset=utf-8"


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><title>iris.onnx</title>", b"\n\n<html>", b"\xef\xbb\xbf<html>"])
def test_a_web_page_is_no_model(page: bytes) -> None:
    for path in ("/blob/main/iris.onnx", "/login"):
        with pytest.raises(UnsupportedFramework, match="sent a web page in the place of a model"):
            found(answer(body=page, Content_Type=PAGE), path)
    part = answer("206 Partial Content", page[:1], Content_Range=f"bytes 0-0/{len(page)}", Content_Type=PAGE)
    with pytest.raises(UnsupportedFramework):
        found(part)


def test_a_model_that_its_server_calls_a_page_is_one() -> None:
    assert found(answer(body=b"\x08\x07onnx", Content_Type=PAGE)).size_bytes == 6
    assert found(answer(body=b"<a file>", Content_Type="application/octet-stream")).size_bytes == 8


@pytest.mark.parametrize(
    "reference",
    ["127.0.0.1:8000/iris.onnx", "localhost:8000/iris.onnx", "iris.onnx", "https:///m.onnx", "https://a b/m.onnx",
     "https://host.test:x/m.onnx", "https://host.test/m.onnx#main"],
)  # fmt: skip
def test_what_is_no_url_is_an_invalid_reference_and_no_matter_of_security(reference: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^source\.reference: (the URL|that)") as refused:
        URLS.check(Reference("url", reference))
    assert refused.value.reason == "INVALID_REFERENCE"
    for forbidden in (
        "https://10.0.0.1/m.onnx",
        "http://host.test/m.onnx",
        "file:///m.onnx",
        "https://user:pass@host.test/m.onnx",
    ):
        with pytest.raises(Forbidden):
            URLS.check(Reference("url", forbidden))


@pytest.mark.parametrize(
    ("asked", "led", "name"),
    [
        ("/download/123", "/files/roses.onnx", "roses.onnx"),
        ("/download/123", "/files/roses.tar.gz?signature=x", "roses.tar.gz"),
        ("/tulips.onnx", "/files/roses.onnx", "tulips.onnx"),
        ("/tulips.onnx", "/blobs/9f8a", "tulips.onnx"),
        ("/download/123", "/blobs/9f8a", "123"),
    ],
)
def test_a_url_that_says_nothing_is_named_by_where_it_leads(asked: str, led: str, name: str) -> None:
    def say(connection: socket.socket, head: str) -> None:
        if f" {asked} " in head:
            connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {led}\r\nContent-Length: 0\r\n\r\n".encode())
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")

    assert found(say, asked).path == name


SECRETS = (
    "token", "authtoken", "apitoken", "access_token", "accesskey", "accessKey", "AWSAccessKeyId", "api_key", "key",
    "X-Goog-Api-Key", "auth", "authorization", "jwt", "sas", "SASToken", "sig", "code", "%74oken", "hdnts=exp~hmac",
    "X-Amz-Signature", "X-Amz-Credential", "client-secret", "pwd", "user[token]", "u=https%3A%2F%2Fh%2F%3Ftoken",
    "bearer", "pat", "gh_pat", "sessionid", "sessionId", "session_id", "JSESSIONID", "ticket", "pass", "deploykey",
    "downloadtoken", "jobtoken", "mytoken", "hdnea=exp~acl", "hdntl", "otp", "PHPSESSID",
)  # fmt: skip
HARMLESS = (
    "monkey", "author", "authority", "design", "tokens", "max_tokens", "tokenizer", "keyword", "turkey", "codec",
    "zipcode", "asset", "signal", "revision", "download", "versionId", "keyboard",
    "compass", "bypass", "passes", "path", "patch", "pattern", "tickets", "session", "bearers",
)  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_a_url_that_lets_its_reader_in_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        URLS.check(Reference("url", f"https://example.org/m.onnx?a=1&{name}=planted"))
    assert refused.value.reason == "CREDENTIALS_IN_URL"
    assert "planted" not in str(refused.value)


@pytest.mark.parametrize("name", HARMLESS)
def test_a_parameter_that_only_sounds_like_a_secret_is_let_through(name: str) -> None:
    URLS.check(Reference("url", f"https://example.org/m.onnx?a=1&{name}=x"))
    assert not bears_secret(f"see https://example.org/?{name}=x, and token=")


class Looking:
    """A look at a source that takes until its caller leaves."""

    def __init__(self) -> None:
        self.looking = threading.Event()

    def inspect(self, reference: Reference, stopping: Stopping) -> Found:
        ours, theirs = socket.socketpair()
        with closing(ours), closing(theirs):
            stopping.on_stop(lambda: theirs.shutdown(socket.SHUT_RDWR))
            self.looking.set()
            assert ours.recv(1) == b""
            stopping.check()
        return Found(Plan("", ()), reference.reference)


class Call:
    """What a call gives to know of its end."""

    def __init__(self) -> None:
        self.callbacks: list[Any] = []
        self.over = False

    def add_callback(self, callback: Any) -> bool:
        self.callbacks.append(callback)
        return not self.over


@pytest.mark.parametrize("before", [False, True], ids=["during", "before"])
def test_a_caller_who_leaves_ends_the_look_at_a_source(before: bool) -> None:
    call, looking = Call(), Looking()
    call.over = before

    def leave() -> None:
        looking.looking.wait(30)
        call.callbacks[0]()

    leaver = threading.Thread(target=leave)
    if not before:
        leaver.start()
    request = pb.InspectSourceRequest(source=pb.SourceReference(source="url", reference="https://example.org/m.onnx"))
    context: grpc.ServicerContext = call  # type: ignore[assignment]
    with pytest.raises(Unavailable) as left:
        SourceServicer(looking).InspectSource(request, context)  # type: ignore[arg-type]
    assert left.value.reason == "CALLER_GONE"
    if not before:
        leaver.join()
