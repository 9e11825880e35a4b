"""GET from who may be asked: how long it may take, whom it may lead to, and what ends it. Real sockets on loopback."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from services.common.addresses import AddressRules, AllowedHosts
from services.fetcher.faults import Forbidden, ModelNotFound, NetworkError, RateLimited
from services.fetcher.sources.http import Answer, GuardedHttp, HttpLimits
from services.fetcher.sources.source import Stopping
from tests import origins
from tests.certificates import Authority
from tests.origins import Origin, answering

QUICK = HttpLimits(connect_s=0.1, silence_s=0.2, floor_s=0.1, floor_bytes_per_s=1024 * 1024)
PATIENT = HttpLimits(connect_s=600, silence_s=600, floor_s=600)


class LeftError(Exception):
    """Whoever asked has left."""


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with origins.serving() as served:
        yield served


def http(limits: HttpLimits = PATIENT, allowed: str = "127.0.0.1", **names: Sequence[str]) -> GuardedHttp:
    """One whose name server knows `names` under .test."""
    rules = AddressRules(AllowedHosts.parse(allowed), lookup=lambda host, _: names[host.removesuffix(".test")])
    return GuardedHttp(rules, limits)


def body(asks: GuardedHttp, url: str, stopping: Stopping | None = None, **headers: str) -> bytes:
    with asks.get(url, headers, stopping or Stopping()) as answer:
        return b"".join(answer.chunks())


def forever(piece: bytes) -> origins.Say:
    """Send the same again and again, until nobody listens."""
    enough = threading.Event()

    def say(connection: socket.socket, _: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: " if piece == b"a" else b"")
        while not enough.wait(0.01):
            connection.sendall(piece)

    return say


@pytest.mark.parametrize("piece", [b"a", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["header", "continue"])
def test_a_head_that_never_ends_is_ended(piece: bytes) -> None:
    with answering(forever(piece)) as url, pytest.raises(NetworkError, match=r"too (slow|long)"):
        body(http(QUICK), url)


def test_a_body_that_drips_is_ended() -> None:
    def say(connection: socket.socket, _: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        forever(b"drip")(connection, "")

    with answering(say) as url, pytest.raises(NetworkError, match="too slow"):
        body(http(QUICK), url)


def test_a_body_of_unknown_length_that_was_shut_does_not_read_as_whole() -> None:
    with answering(forever(b"HTTP/1.0 200 OK\r\n\r\n")) as url, http().get(url, {}, Stopping()) as answer:
        chunks = answer.chunks()
        next(chunks)
        answer.shut()
        with pytest.raises(NetworkError, match="nobody wants it"):
            b"".join(chunks)


def test_bytes_are_given_as_they_come_and_not_held_back_until_there_are_many() -> None:
    go_on = threading.Event()

    def say(connection: socket.socket, _: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        go_on.wait(30)
        connection.sendall(b"after")

    with answering(say) as url, http().get(url, {}, Stopping()) as answer:
        chunks = answer.chunks()
        assert next(chunks) == b"first"
        go_on.set()
        assert b"".join(chunks) == b"after"


def test_who_takes_long_to_store_what_came_does_not_make_its_sender_slow(origin: Origin) -> None:
    content = bytes(24 * 1024 * 1024)
    url = origin.serve("/large", content)
    limits = HttpLimits(connect_s=60, silence_s=60, floor_s=0.2, floor_bytes_per_s=1)
    with http(limits).get(url, {}, Stopping()) as answer:
        chunks = answer.chunks()
        came = len(next(chunks))
        threading.Event().wait(0.5)
        assert came + sum(map(len, chunks)) == len(content)


def test_a_caller_who_leaves_ends_the_wait_for_a_head() -> None:
    asked = threading.Event()
    shut: list[Callable[[], None]] = []

    def say(connection: socket.socket, _: str) -> None:
        asked.set()
        connection.recv(1)

    def leave() -> None:
        asked.wait(30)
        shut[0]()

    leaver = threading.Thread(target=leave)
    leaver.start()
    with answering(say) as url, pytest.raises(NetworkError, match="nobody wants it"):
        body(http(), url, Stopping(on_stop=shut.append))
    leaver.join()


def test_a_caller_who_leaves_before_there_is_a_connection_ends_it(origin: Origin) -> None:
    url = origin.serve("/x", b"x")
    asked = len(origin.asked)
    with pytest.raises(NetworkError, match="nobody wants it"):
        body(http(), url, Stopping(on_stop=lambda shut: shut()))
    assert len(origin.asked) == asked


def test_a_caller_who_leaves_ends_the_connecting() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:  # nobody accepts: who comes after these waits for ever
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        port = full.getsockname()[1]

        def leave(shut: Callable[[], None]) -> None:
            threading.Timer(0.1, shut).start()

        with pytest.raises(NetworkError, match="nobody wants it"):
            body(http(), f"http://127.0.0.1:{port}/", Stopping(on_stop=leave))
        for each in waiting:
            each.close()


def test_a_caller_who_leaves_ends_a_handshake() -> None:
    shut: list[Callable[[], None]] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def leave() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1)
                shut[0]()

        leaver = threading.Thread(target=leave)
        leaver.start()
        with pytest.raises(NetworkError, match="nobody wants it"):
            body(http(), f"https://127.0.0.1:{listener.getsockname()[1]}/", Stopping(on_stop=shut.append))
        leaver.join()


def test_a_caller_who_leaves_ends_the_looking_up() -> None:
    left, never = threading.Event(), threading.Event()

    def lookup(_host: str, _port: int) -> Sequence[str]:
        left.set()
        never.wait(60)
        return []

    def check() -> None:
        if left.is_set():
            raise LeftError

    asks = GuardedHttp(AddressRules(AllowedHosts.parse("slow.test"), lookup=lookup), PATIENT)
    with pytest.raises(LeftError):
        body(asks, "http://slow.test/", Stopping(check=check))
    never.set()


def redirect(origin: Origin, path: str, to: str) -> str:
    return origin.serve(path, b"", failures=[(302, {"Location": to})] * 10)


def test_five_redirects_are_followed_and_no_more(origin: Origin) -> None:
    origin.serve("/hop0", b"there")
    for hop in range(1, 7):
        redirect(origin, f"/hop{hop}", f"hop{hop - 1}")
    assert body(http(), f"{origin.url}/hop5") == b"there"
    with pytest.raises(NetworkError, match="redirects more than 5 times"):
        body(http(), f"{origin.url}/hop6")


@pytest.mark.parametrize(
    ("to", "fault"),
    [
        ("http://10.1.2.3/x", Forbidden),
        ("http://169.254.169.254/latest/meta-data", Forbidden),
        ("https://2130706433/x", Forbidden),
        ("https://0x7f.1/x", Forbidden),
        ("file:///etc/passwd", Forbidden),
        ("//user:pass@127.0.0.1/x", Forbidden),
        ("http://[", NetworkError),
    ],
)
def test_a_redirect_to_where_nobody_may_go_is_not_followed(origin: Origin, to: str, fault: type[Exception]) -> None:
    with pytest.raises(fault):
        body(http(), redirect(origin, "/away", to))


def test_a_signed_url_may_be_longer_than_people_write_them(origin: Origin) -> None:
    def to(characters: int) -> str:
        return origin.serve("/signed?".ljust(characters - len(origin.url), "s"), b"there")

    assert body(http(), redirect(origin, "/long", to(8_192))) == b"there"
    with pytest.raises(Forbidden, match="8193 characters"):
        body(http(), redirect(origin, "/longer", to(8_193)))


def test_credentials_go_to_their_own_origin_only(origin: Origin) -> None:
    with origins.serving() as other:
        url = redirect(origin, "/mine", other.serve("/theirs", b"x"))
        assert body(http(), url, Authorization="Bearer planted", Range="bytes=0-") == b"x"
        (_, sent), (_, passed) = origin.asked[-1], other.asked[-1]
    assert (sent["Authorization"], passed.get("Authorization")) == ("Bearer planted", None)
    assert passed["Range"] == "bytes=0-"
    origin.serve("/hop0", b"there")
    body(http(), redirect(origin, "/here", "/hop0"), Authorization="Bearer planted")
    assert origin.asked[-1][1]["Authorization"] == "Bearer planted"


def test_credentials_dropped_on_the_way_do_not_come_back(origin: Origin) -> None:
    with origins.serving() as other:
        url = redirect(origin, "/there", redirect(other, "/back", origin.serve("/hop0", b"there")))
        assert body(http(), url, authorization="Bearer planted") == b"there"
    assert "planted" not in str(origin.asked[-1]), "nobody else chooses where they go"


def test_a_redirect_from_tls_to_none_is_not_followed_nor_is_a_false_certificate_taken(
    origin: Origin, tmp_path: Path
) -> None:
    authority = Authority.make(tmp_path, "root")
    pair = authority.issue("true", host="true.test")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.cert_file, pair.key_file)
    plain = origin.serve("/plain", b"x")

    def say(connection: socket.socket, head: str) -> None:
        status, to = ("302 Found", f"Location: {plain}\r\n") if "/away" in head else ("200 OK", "")
        connection.sendall(f"HTTP/1.1 {status}\r\n{to}Content-Length: 2\r\n\r\nok".encode())

    rules = AddressRules(AllowedHosts.parse("true.test,false.test,127.0.0.1"), lookup=lambda *_: ["127.0.0.1"])
    asks = GuardedHttp(rules, PATIENT, ca_file=authority.ca_file)
    with answering(say, tls) as url:
        true, false = url.replace("127.0.0.1", "true.test"), url.replace("127.0.0.1", "false.test")
        assert body(asks, f"{true}/here") == b"ok"
        with pytest.raises(Forbidden, match="without TLS"):
            body(asks, f"{true}/away")
        with pytest.raises(NetworkError, match=r"TLS with false\.test:[0-9]+ failed"):
            body(asks, f"{false}/here")


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_who_speaks_no_tls_is_refused_by_its_port_and_the_settings_that_allow_it(said: bytes) -> None:
    def say() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(65_536)
            connection.sendall(said)
            while connection.recv(65_536):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=say)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/m.onnx"
        with pytest.raises(Forbidden) as caught:
            body(http(), url)
        thread.join()
    assert caught.value.message.startswith(f"127.0.0.1:{urlsplit(url).port} seems to speak no TLS")
    for setting in ("PENSTOCK_FETCHER_ALLOWED_HOSTS", "PENSTOCK_FETCHER_OCI_PLAIN_HOSTS"):
        assert setting in caught.value.message


def test_an_error_names_the_port_where_it_is_not_the_schemes_own(origin: Origin) -> None:
    with pytest.raises(ModelNotFound, match=rf"^127\.0\.0\.1:{urlsplit(origin.url).port} answered 404"):
        body(http(), f"{origin.url}/nothing-there")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/m"
    with pytest.raises(NetworkError, match=rf"^127\.0\.0\.1:{urlsplit(url).port} could not be reached"):
        body(http(), url)


def test_the_address_that_was_checked_is_the_one_connected_to(origin: Origin) -> None:
    port = origin.serve("/pinned", b"x").split(":")[2].partition("/")[0]
    looked: list[str] = []

    def lookup(host: str, _port: int) -> Sequence[str]:
        looked.append(host)
        return ["127.0.0.1" if len(looked) == 1 else "169.254.169.254"]

    asks = GuardedHttp(AddressRules(AllowedHosts.parse("rebind.test"), lookup=lookup), PATIENT)
    assert body(asks, f"http://rebind.test:{port}/pinned") == b"x"
    assert looked == ["rebind.test"], "what the name means a moment later is not asked"
    assert origin.asked[-1][1]["Host"] == f"rebind.test:{port}"
    looked.clear()
    redirect(origin, "/rebound", f"http://rebind.test:{port}/pinned")
    with pytest.raises(Forbidden):
        body(asks, f"http://rebind.test:{port}/rebound")
    assert len(looked) == 2, "each hop is checked anew"


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Encoding": "gzip"},
        {"Content-Encoding": "deflate, br"},
        {"Transfer-Encoding": "gzip, chunked"},
    ],
)
def test_a_body_that_was_compressed_on_the_way_is_refused(origin: Origin, headers: dict[str, str]) -> None:
    url = origin.serve("/packed", b"\x1f\x8b" * 100, headers=headers)
    with pytest.raises(NetworkError, match="compresses"):
        body(http(), url)


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"",
    ],
)
def test_an_answer_that_is_none_is_a_fault_of_the_network(head: bytes) -> None:
    with answering(lambda connection, _: connection.sendall(head)) as url, pytest.raises(NetworkError):
        body(http(), url)


@pytest.mark.parametrize("asked", ["9" * 5_000, "Mon, 01 Jan 2024 00:00:00 +" + "9" * 30, "soon"])
def test_an_odd_wish_for_patience_is_heard_within_reason(origin: Origin, asked: str) -> None:
    url = origin.serve("/busy", b"", failures=[(429, {"Retry-After": asked})])
    with pytest.raises(RateLimited) as refused:
        body(http(), url)
    assert (refused.value.retry_after_s or 0) <= 3_600


def test_an_answer_says_where_it_came_from(origin: Origin) -> None:
    origin.serve("/hop0", b"there")
    came: list[Answer] = []
    with http().get(redirect(origin, "/hop1", "/hop0"), {}, Stopping()) as answer:
        came.append(answer)
    assert came[0].url == f"{origin.url}/hop0"
