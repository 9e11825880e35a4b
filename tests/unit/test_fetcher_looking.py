"""Looks at sources, and texts of theirs, end in time. Real sockets on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from services.common.addresses import AddressRules, AllowedHosts
from services.fetcher.faults import NetworkError
from services.fetcher.models import Reference
from services.fetcher.sources import hub
from services.fetcher.sources.http import Answer, GuardedHttp
from services.fetcher.sources.http_files import body_of
from services.fetcher.sources.looking import looked_at
from services.fetcher.sources.source import Found, Source, Stopping
from tests.origins import answering

MOST = 1 << 30


class Silent:
    """A source that says nothing until it is told to stop."""

    def find(self, reference: Reference, stopping: Stopping) -> Found:
        told = threading.Event()
        stopping.on_stop(told.set)
        assert told.wait(30)
        stopping.forget(told.set)
        stopping.check()
        raise AssertionError(reference)


def test_a_look_ends_in_time_though_its_caller_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.fetcher.sources.looking.LOOK_S", 0.05)
    silent: Source = Silent()  # type: ignore[assignment]
    with pytest.raises(NetworkError, match="had not answered"):
        looked_at(silent, Reference("url", "https://example.org/m.onnx"), Stopping())


@pytest.mark.parametrize(
    "read", [lambda answer: body_of(answer, MOST), lambda answer: hub.read(answer, MOST, "a card")], ids=["body", "hub"]
)
def test_a_text_that_comes_fast_enough_and_never_ends_is_ended(
    read: Callable[[Answer], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    enough = threading.Event()

    def say(connection: socket.socket, _: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _piece in range(2_000):  # at 50 times the floor, until nobody listens
            if enough.wait(0.01):
                return
            connection.sendall(b" " * 512)

    monkeypatch.setattr("services.fetcher.sources.http_files.MOST_TEXT_S", 0.2)
    asks = GuardedHttp(AddressRules(AllowedHosts.parse("127.0.0.1")))
    with answering(say) as url, asks.get(url, {}, Stopping()) as answer, pytest.raises(NetworkError, match="too slow"):
        read(answer)
    enough.set()
