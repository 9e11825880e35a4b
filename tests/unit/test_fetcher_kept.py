"""What requests of one attempt leave to each other: connections, and where redirects led. Real sockets on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence

import pytest

from services.common.addresses import AddressRules, AllowedHosts
from services.fetcher.faults import Forbidden, NetworkError, Unauthorized
from services.fetcher.sources.http import GuardedHttp, HttpLimits
from services.fetcher.sources.kept import KeptConnections
from services.fetcher.sources.source import Stopping
from tests import origins
from tests.origins import answering
from tests.ranges import Answer, Asked, Ranges, empty, serving_ranges

PATIENT = HttpLimits(connect_s=600, silence_s=600, floor_s=600)


@pytest.fixture
def ranges() -> Iterator[Ranges]:
    with serving_ranges() as served:
        yield served


@pytest.fixture
def attempt() -> Iterator[Stopping]:
    kept = KeptConnections()
    yield Stopping(kept=kept)
    kept.close()


def http(limits: HttpLimits = PATIENT, **names: Sequence[str]) -> GuardedHttp:
    rules = AddressRules(AllowedHosts.parse("127.0.0.1"), lookup=lambda host, _: names[host.removesuffix(".test")])
    return GuardedHttp(rules, limits)


def body(asks: GuardedHttp, url: str, stopping: Stopping, **headers: str) -> bytes:
    with asks.get(url, headers, stopping) as answer:
        return b"".join(answer.chunks())


def test_requests_of_an_attempt_follow_each_other_on_one_connection(ranges: Ranges, attempt: Stopping) -> None:
    url = ranges.serve("/x", b"content")
    assert [body(http(), url, attempt) for _ in range(3)] == [b"content"] * 3
    assert ranges.connections == 1
    body(http(), url, Stopping())
    assert ranges.connections == 2, "another attempt has its own"


def test_an_answer_that_was_not_read_to_its_end_takes_its_connection_with_it(ranges: Ranges, attempt: Stopping) -> None:
    url = ranges.serve("/x", b"content")
    with http().get(url, {}, attempt):
        pass
    assert body(http(), url, attempt) == b"content"
    assert ranges.connections == 2


def test_a_connection_that_its_server_closed_meanwhile_is_no_fault_of_the_source(attempt: Stopping) -> None:
    closed, asked = threading.Event(), list[str]()

    def say(connection: socket.socket, head: str) -> None:
        asked.append(head)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        if len(asked) == 1:
            # It reads the next request, and leaves without a word: that the connection was open says nothing.
            connection.recv(1)
            closed.set()

    with answering(say) as url:
        assert [body(http(), url, attempt) for _ in range(2)] == [b"ok"] * 2
    assert (closed.is_set(), len(asked)) == (True, 2)


def test_a_connection_serves_its_own_origin_only(ranges: Ranges, attempt: Stopping) -> None:
    with serving_ranges() as other:
        assert body(http(), ranges.serve("/x", b"one"), attempt) == b"one"
        assert body(http(), other.serve("/x", b"other"), attempt) == b"other"
    assert (ranges.connections, other.connections) == (1, 1)


def test_who_leaves_shuts_a_connection_that_was_kept(ranges: Ranges, attempt: Stopping) -> None:
    asked, never = threading.Event(), threading.Event()

    def script(request: Asked, answer: Answer) -> Answer:
        if request.number:
            asked.set()
            never.wait(60)
        return answer

    url = ranges.serve("/x", b"content", script)
    body(http(), url, attempt)
    shut: list[object] = []

    def on_stop(callback: object) -> None:
        shut.append(callback)

    def leave() -> None:
        asked.wait(60)
        shut[0]()  # type: ignore[operator]

    leaver = threading.Thread(target=leave)
    leaver.start()
    with pytest.raises(NetworkError, match="nobody wants it"):
        body(http(), url, Stopping(on_stop=on_stop, kept=attempt.kept))
    never.set()
    leaver.join()
    assert ranges.connections == 1


def test_where_a_redirect_led_is_asked_without_the_credentials_that_were_dropped(
    ranges: Ranges, attempt: Stopping
) -> None:
    with serving_ranges() as cdn:
        target = cdn.serve("/signed", b"content")
        url = ranges.serve("/hub", b"", lambda *_: empty(302, Location=target))
        for _ in range(3):
            assert body(http(), url, attempt, Authorization="Bearer planted") == b"content"
        assert len(ranges.asked["/hub"]) == 1
        assert "planted" not in str(cdn.asked)
        assert len(cdn.asked["/signed"]) == 3


def test_a_redirect_that_led_back_home_by_another_is_asked_without_credentials_ever_after(
    ranges: Ranges, attempt: Stopping
) -> None:
    with serving_ranges() as other:
        home = ranges.serve("/home", b"content")
        between = other.serve("/between", b"", lambda *_: empty(302, Location=home))
        url = ranges.serve("/asked", b"", lambda *_: empty(302, Location=between))
        for _ in range(2):
            assert body(http(), url, attempt, Authorization="Bearer planted") == b"content"
    assert len(ranges.asked["/asked"]) == 1
    assert [asked.headers.get("Authorization") for asked in ranges.asked["/home"]] == [None, None]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_url_that_has_expired_is_asked_for_again_once(ranges: Ranges, attempt: Stopping, status: int) -> None:
    script = lambda asked, answer: answer if asked.number == 0 else empty(status)  # noqa: E731
    ranges.serve("/signed-1", b"content", script)
    ranges.serve("/signed-2", b"content", script)
    url = ranges.serve("/hub", b"", lambda asked, _: empty(302, Location=f"/signed-{min(2, asked.number + 1)}"))
    assert [body(http(), url, attempt) for _ in range(2)] == [b"content"] * 2
    assert len(ranges.asked["/hub"]) == 2
    with pytest.raises(Exception, match=str(status)):
        body(http(), url, attempt)
    assert len(ranges.asked["/hub"]) == 3, "once, and no more"


def test_a_source_that_refuses_by_itself_is_asked_once(ranges: Ranges, attempt: Stopping) -> None:
    url = ranges.serve("/mine", b"", lambda *_: empty(403))
    with pytest.raises(Unauthorized):
        body(http(), url, attempt)
    assert len(ranges.asked["/mine"]) == 1


def test_one_deadline_holds_for_all_heads_of_a_chain() -> None:
    never = threading.Event()

    def say(connection: socket.socket, head: str) -> None:
        hop = int(head.partition("/hop")[2][0])
        never.wait(0.4)  # less than the deadline, which four of them are beyond
        location = f"Location: /hop{hop + 1}\r\n" if hop < 4 else ""
        status = "302 Found" if hop < 4 else "200 OK"
        connection.sendall(f"HTTP/1.1 {status}\r\n{location}Content-Length: 0\r\n\r\n".encode())

    limits = HttpLimits(connect_s=0.5, silence_s=0.5, floor_s=600)
    with answering(say) as url, pytest.raises(NetworkError, match=r"too slow|silent"):
        body(http(limits), f"{url}/hop1", Stopping())


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        ("/a model.onnx", "/a%20model.onnx"),
        ("/modèle.onnx?x=é", "/mod%C3%A8le.onnx?x=%C3%A9"),
        ("/already%20written", "/already%20written"),
    ],
)
def test_a_redirect_is_written_as_browsers_do(location: str, asked: str) -> None:
    heads: list[str] = []

    def say(connection: socket.socket, head: str) -> None:
        heads.append(head.partition(" HTTP")[0])
        if len(heads) == 1:
            connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n".encode())
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with answering(say) as url:
        assert body(http(), f"{url}/first", Stopping()) == b"ok"
    assert heads[1] == f"GET {asked}"


def test_a_redirect_to_a_host_beyond_ascii_leads_nowhere() -> None:
    def say(connection: socket.socket, _: str) -> None:
        connection.sendall("HTTP/1.1 302 Found\r\nLocation: https://exämple.org/x\r\n\r\n".encode())

    with answering(say) as url, pytest.raises(Forbidden, match="URL's host is no name"):
        body(http(), url, Stopping())


def test_what_is_kept_is_closed_with_the_attempt(ranges: Ranges) -> None:
    kept = KeptConnections()
    with origins.serving():
        assert body(http(), ranges.serve("/x", b"x"), Stopping(kept=kept)) == b"x"
    kept.close()
    body(http(), f"{ranges.url}/x", Stopping(kept=kept))
    kept.close()
    assert ranges.connections == 2, "and nothing is kept for it any more"
