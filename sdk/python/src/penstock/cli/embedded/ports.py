"""The ports of the embedded suite: the usual ones, the user's own, or free ones."""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Self

from penstock.cli.embedded.errors import EmbeddedError

HOST = "127.0.0.1"
FREE_PORTS = range(20_000, 32_000)
"""Below what the kernel hands to outgoing connections: one of those can't take the port before the server does."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Two ports for each service, and PostgreSQL's. PENSTOCK_<FIELD>_PORT changes one; 0 takes a free one."""

    inference: int = 8001
    inference_metrics: int = 8002
    registry: int = 50051
    registry_metrics: int = 9101
    monitoring: int = 50053
    monitoring_metrics: int = 9103
    fetcher: int = 50054
    fetcher_metrics: int = 9104
    trainer: int = 50055
    trainer_metrics: int = 9105
    jobs: int = 50056
    jobs_metrics: int = 9106
    postgres: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Take PENSTOCK_INFERENCE_PORT, PENSTOCK_INFERENCE_METRICS_PORT and so on over the usual ones."""
        said = {field.name: environment.get(_setting(field.name)) for field in fields(cls)}
        wrong = [name for name, text in said.items() if text and not (text.isdigit() and int(text) <= 65_535)]
        if wrong:
            raise EmbeddedError(f"{_setting(wrong[0])} is {said[wrong[0]]!r}; a port is a number from 0 to 65535.")
        return cls(**{name: int(text) for name, text in said.items() if text})

    @classmethod
    def auto(cls) -> Self:
        """Take free ports, all of them."""
        return cls(**{field.name: 0 for field in fields(cls)})

    def settled(self) -> Self:
        """Replace every 0 by a free port, and see that the others are free.

        Raises EmbeddedError naming the port that is taken and the setting that changes it.
        """
        held: list[socket.socket] = []
        try:
            return type(self)(**{field.name: self._settle(field.name, held) for field in fields(self)})
        finally:
            for probe in held:  # held until all are found, so that no free one is found twice
                probe.close()

    def _settle(self, name: str, held: list[socket.socket]) -> int:
        wanted: int = getattr(self, name)
        try:
            held.append(_listen(wanted) if wanted else _listen_anywhere())
        except OSError as error:
            why = "is taken" if error.errno == errno.EADDRINUSE else f"can't be used ({os.strerror(error.errno or 0)})"
            raise EmbeddedError(
                f"Port {wanted} ({name.replace('_', ' ')}) {why}: stop what listens there, or set "
                f"{_setting(name)} to another port (0 takes a free one)."
            ) from error
        port: int = held[-1].getsockname()[1]
        return port


def free_port() -> int:
    """Find a loopback port that nobody listens on just now."""
    with _listen_anywhere() as probe:
        port: int = probe.getsockname()[1]
        return port


def _listen_anywhere() -> socket.socket:
    for port in random.sample(FREE_PORTS, len(FREE_PORTS)):
        with suppress(OSError):
            return _listen(port)
    raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))


def _listen(port: int) -> socket.socket:
    probe = socket.socket()
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do, past connections that linger
        probe.bind((HOST, port))
        probe.listen(1)
    except OSError:
        probe.close()
        raise
    return probe


def _setting(name: str) -> str:
    return f"PENSTOCK_{name.upper()}_PORT"
