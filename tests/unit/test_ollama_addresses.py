"""Where an Ollama server is: over TLS, by which URLs, and to whom a key may go."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.common.errors import (
    Cancelled,
    FailedPrecondition,
    Unavailable,
)
from services.inference.runtimes.ollama.address import check_url
from services.inference.runtimes.ollama.server import OllamaServer
from services.inference.runtimes.runtime import GenerationOptions
from tests.certificates import certificate
from tests.ollama import WAIT_S, Exchange, StubOllama
from tests.ollama_sessions import NAME, load, stub, texts

__all__ = ["stub"]


def test_over_tls_it_is_the_same(stub: StubOllama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert_file, key_file = certificate(tmp_path)
    stub.secure(cert_file, key_file)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert_file))
    session = load(stub, "generate")
    assert session.run({"prompt": texts("hello")})["response"].tolist() == ["you said hello"]
    begun, closed = threading.Event(), threading.Event()

    def linger(exchange: Exchange) -> None:
        exchange.begin()
        exchange.say("one")
        begun.set()
        exchange.until_closed()
        closed.set()

    stub.models[NAME] = linger
    generation = session.stream({"prompt": texts("x")}, GenerationOptions())
    with ThreadPoolExecutor(1) as reader:
        pieces = reader.submit(lambda: list(generation))
        assert begun.wait(WAIT_S)
        generation.cancel()
        with pytest.raises(Cancelled):
            pieces.result(WAIT_S)
    assert closed.wait(WAIT_S)


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(stub: StubOllama, tmp_path: Path) -> None:
    stub.secure(*certificate(tmp_path))
    with pytest.raises(Unavailable, match="certificate verify failed") as caught:
        load(stub, "generate")
    assert caught.value.reason == "OLLAMA_UNREACHABLE"


# Where it is


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:11434", "ftp://host", "http://", "http://ada:secret@host", "http://host/?key=secret",
     "http://[::1", "http://host:x"],
)  # fmt: skip
def test_a_url_that_is_none_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:11434", "https://ollama.example/base", "http://[::1]:11434/"])
def test_a_url_is_taken(url: str) -> None:
    assert check_url(url) == url
    assert str(OllamaServer(url).address) == url.rstrip("/")


def test_a_key_does_not_go_to_another_machine_in_plain_text(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="plain text") as caught:
        OllamaServer("http://ollama.example", token_file=tmp_path / "key")
    assert caught.value.reason == "TOKEN_OVER_INSECURE_CHANNEL"
    OllamaServer("https://ollama.example", token_file=tmp_path / "key")
    OllamaServer("http://ollama.example", token_file=tmp_path / "key", insecure_token=True)
