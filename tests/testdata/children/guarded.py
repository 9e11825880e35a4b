"""A child under the guard of apprise's: it tries what the task names, and says what came of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.common.addresses import AddressRules, AllowedHosts
from services.monitoring.notifications.apprise_child import Guard


def connect(address: Any) -> Callable[[], object]:
    def attempt() -> None:
        with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as client:
            client.settimeout(5)
            client.connect(tuple(address))

    return attempt


def send_packet(address: Any) -> Callable[[], object]:
    return lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", tuple(address))


def main() -> None:
    """Try each."""
    task = json.loads(sys.stdin.buffer.read())
    kinds: dict[str, Callable[[Any], Callable[[], object]]] = {
        "connect": connect,
        "packet": send_packet,
        "unix": lambda path: lambda: socket.socket(socket.AF_UNIX).connect(path),
        "name": lambda address: lambda: socket.create_connection(tuple(address), 5).close(),
        "bind": lambda address: lambda: socket.socket().bind(tuple(address)),
        "read": lambda path: lambda: Path(path).read_bytes(),
        "write": lambda path: lambda: Path(path).write_bytes(b""),
        "remove": lambda path: lambda: Path(path).unlink(),
        "run": lambda command: lambda: subprocess.run(command, check=False),
        "system": lambda command: lambda: os.system(command),
        "fork": lambda _: os.fork,
    }
    attempts = [kinds[kind](value) for kind, value in task["attempts"]]
    Guard(AddressRules(AllowedHosts.parse(task["allowed_hosts"]))).take_hold()
    found = []
    for attempt in attempts:
        try:
            attempt()
            found.append("done")
        except OSError as error:
            found.append(type(error).__name__)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
