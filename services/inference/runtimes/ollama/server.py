"""An Ollama server, as far as HTTP goes: where it is, how long it may take, and the connections to it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import BaseHTTPResponse

from services.common.errors import FailedPrecondition
from services.inference.runtimes.ollama.address import OllamaAddress
from services.inference.runtimes.ollama.call import Call
from services.inference.runtimes.ollama.connections import Calling, PlainConnection, SecureConnection

MAX_TOKEN_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class OllamaLimits:
    """How long a call may take and how many there may be.

    Attributes:
        connect_timeout_s: until the server takes the connection.
        stall_timeout_s: a silence of the server: before its first byte, while it loads the model, or between two.
        timeout_s: one call, all in all.
        parallel_calls: of one session at once.
    """

    connect_timeout_s: float = 5.0
    stall_timeout_s: float = 120.0
    timeout_s: float = 600.0
    parallel_calls: int = 4


class OllamaServer:
    """Makes calls to the Ollama server at a base URL, over connections that are kept; threads may share it.

    `token_file` holds a key for a proxy that wants one, sent as a bearer token; it is read again for each call,
    and goes to another machine in plain text only with `insecure_token`; raises FailedPrecondition otherwise.
    No redirect is followed and no proxy of the environment is used: requests go to this server or nowhere.
    """

    def __init__(
        self,
        url: str,
        limits: OllamaLimits | None = None,
        *,
        token_file: Path | None = None,
        insecure_token: bool = False,
    ) -> None:
        self.limits = limits or OllamaLimits()
        self.address = address = OllamaAddress.parse(url)
        if token_file is not None and address.scheme == "http" and not (insecure_token or address.loopback):
            raise FailedPrecondition(
                f"the key for Ollama would go to {address} in plain text: write https://, or set "
                "PENSTOCK_INSECURE_TOKEN=true",
                reason="TOKEN_OVER_INSECURE_CHANNEL",
            )
        self._token_file = token_file
        self._calling = Calling()
        kind, connection = (
            (HTTPSConnectionPool, SecureConnection)
            if address.scheme == "https"
            else (HTTPConnectionPool, PlainConnection)
        )
        self._pool = kind(address.host, address.port, maxsize=self.limits.parallel_calls, retries=False)
        # urllib3's own hook for another kind of connection; these say which socket serves which call.
        self._pool.ConnectionCls = connection
        self._pool.conn_kw["calling"] = self._calling

    def call(self, path: str, document: Mapping[str, Any], *, timeout_s: float | None = None) -> Call:
        """Make a call, to be opened by reading it. `timeout_s` bounds it within the limits."""
        return Call(self, path, document, min(timeout_s or self.limits.timeout_s, self.limits.timeout_s))

    def open(self, call: Call) -> BaseHTTPResponse:
        """Send a call's request and wait for the head of the answer; raises what urllib3 and `http.client` raise."""
        self._calling.call = call
        try:
            return self._pool.urlopen(
                "POST",
                self.address.path + call.path,
                body=json.dumps(call.document).encode(),
                headers=self._headers(),
                timeout=urllib3.Timeout(connect=self.limits.connect_timeout_s, read=call.wait_s(time.monotonic())),
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        finally:
            self._calling.call = None

    def close(self) -> None:
        """Close the connections that are kept."""
        self._pool.close()

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "penstock"}
        if self._token_file is not None:
            headers["Authorization"] = f"Bearer {_token(self._token_file)}"
        return headers


def _token(path: Path) -> str:
    try:
        with path.open(encoding="ascii") as file:
            token = file.read(MAX_TOKEN_BYTES).strip()
    except (OSError, UnicodeDecodeError) as error:
        sentence = f"the key for Ollama cannot be read ({type(error).__name__}): see PENSTOCK_OLLAMA_TOKEN_FILE"
        raise FailedPrecondition(sentence, reason="OLLAMA_TOKEN_UNREADABLE") from error
    if not token.isprintable() or not token:
        sentence = "the key for Ollama must be one line of text: see PENSTOCK_OLLAMA_TOKEN_FILE"
        raise FailedPrecondition(sentence, reason="OLLAMA_TOKEN_UNREADABLE")
    return token
