"""Calls to the HTTP API of a cluster, whose address the operator named: JSON there and back, each bounded in time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from services.trainer.faults import ExecutorUnavailable

CONNECT_S: Final = 5.0
ANSWER_S: Final = 30.0
MAX_ANSWER_BYTES: Final = 4 * 1024**2
MAX_WORD_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class Answer:
    """What a cluster answered."""

    status: int
    text: str

    @property
    def well(self) -> bool:
        """Whether it did what it was asked for."""
        return 200 <= self.status < 300

    @property
    def word(self) -> str:
        """Its last line, for people."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip(" .")]
        return f"{self.status} {lines[-1][:MAX_WORD_CHARS] if lines else ''}".strip()

    def content(self) -> Mapping[str, Any]:
        """Read its JSON; an empty object where it is none."""
        try:
            found = json.loads(self.text)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class ClusterApi:
    """One cluster's API. `token` and `ca_file` are asked for with each call: they change while the service runs."""

    address: str
    token: Callable[[], str] = field(repr=False)
    ca_file: Callable[[], Path | None] = field(default=lambda: None)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """Ask; an answer longer than 4 MiB is cut. Raises ExecutorUnavailable where nobody answers."""
        import urllib3  # a tenth of a service's start, for those alone who name a cluster

        headers = {"Accept": "application/json", "User-Agent": "penstock"}
        try:
            if token := self.token():
                headers["Authorization"] = f"Bearer {token}"
            ca_file = self.ca_file()
            with urllib3.PoolManager(
                timeout=urllib3.Timeout(connect=CONNECT_S, read=ANSWER_S),
                retries=False,
                ca_certs=str(ca_file) if ca_file else None,
            ) as pool:
                sent: dict[str, Any] = {}
                if body is not None:
                    headers["Content-Type"] = "application/json"
                    sent["body"] = json.dumps(body)
                response = pool.request(
                    method, self.address.rstrip("/") + path, headers=headers, preload_content=False, **sent
                )
                text = response.read(MAX_ANSWER_BYTES, decode_content=True).decode(errors="replace")
                response.release_conn()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            sentence = f"{self.address} does not answer ({type(error).__name__})"
            raise ExecutorUnavailable(sentence) from error
        return Answer(response.status, text)
