"""Sending by apprise, in a process of its own that can be given up: see `apprise_child`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from services.common.errors import InvalidArgument, Unavailable
from services.common.outbox.webhooks import LEFT_ALONE, NotDelivered

_ROOT = Path(__file__).resolve().parents[3]
CHILD = "services.monitoring.notifications.apprise_child"
# -I ignores the folder and the environment that we were started in, so the way to our own modules is given.
_START = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
TIMEOUT_S = 20.0
STARTING_S = 10.0
"""What loading apprise may take beside, on a machine that is busy."""


class AppriseSender:
    """Sends messages; any number of threads may share one, and so many children at once serve them."""

    def __init__(
        self,
        allowed_hosts: str,
        children: int,
        *,
        timeout_s: float = TIMEOUT_S,
        starting_s: float = STARTING_S,
        child: str = CHILD,
    ) -> None:
        """`child` is the module that each process runs."""
        self._allowed_hosts = allowed_hosts
        self._timeout_s = timeout_s
        self._starting_s = starting_s
        self._child = child
        self._places = threading.BoundedSemaphore(children)

    def check(self, url: str, field: str) -> None:
        """See that apprise can read a URL, and that it names one receiver and keeps its password; reaches nobody.

        Raises:
            InvalidArgument: it does not; INVALID_CHANNEL, URL_NOT_ALLOWED.
            Unavailable: nobody said (APPRISE_FAILED, APPRISE_BUSY, RECEIVER_TIMEOUT).
        """
        answer = self._ask({"url": url, "check_only": True})
        if answer["problem"]:
            raise InvalidArgument.field(field, answer["problem"], reason=answer["reason"])

    def send(self, url: str, scheme: str, title: str, text: str, kind: str, last_line: str) -> None:
        """Send a message; `kind` is apprise's: info, success, warning or failure.

        A text that is longer than the receiver takes is cut, and `last_line` still follows it.

        Raises:
            NotDelivered: it did not arrive; says what the receiver answered, where that is known.
        """
        try:
            task = {"url": url, "check_only": False, "title": title, "text": text, "last_line": last_line, "type": kind}
            answer = self._ask(task)
        except Unavailable as error:
            sentence = f"{scheme}: {error.message}"
            left_alone_s = LEFT_ALONE * self._timeout_s if error.reason == "RECEIVER_TIMEOUT" else None
            raise NotDelivered(sentence, reason=error.reason, retry_after_s=left_alone_s) from error
        if answer["delivered"]:
            return
        if answer["refused"]:
            raise NotDelivered(f"{scheme}: {answer['refused']}", reason="URL_NOT_ALLOWED")
        if answer["problem"]:
            raise NotDelivered(f"{scheme}: {answer['problem']}", reason=answer["reason"])
        status = f" (HTTP {answer['status']})" if answer["status"] else ""
        sentence = f"{scheme}: the receiver could not be reached, or refused the message{status}"
        raise NotDelivered(sentence, reason="RECEIVER_REFUSED")

    def _ask(self, task: dict[str, Any]) -> dict[str, Any]:
        """Have a child do a task; it is killed where it takes too long."""
        if not self._places.acquire(timeout=self._timeout_s):
            sentence = "other messages are on their way for too long; try again in a moment"
            raise Unavailable(sentence, reason="APPRISE_BUSY")
        try:
            return self._ask_child({**task, "allowed_hosts": self._allowed_hosts, "timeout_s": self._timeout_s})
        finally:
            self._places.release()

    def _ask_child(self, task: dict[str, Any]) -> dict[str, Any]:
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", _START, str(_ROOT), self._child],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
        )
        with process:
            try:
                said, _ = process.communicate(json.dumps(task).encode(), timeout=self._timeout_s + self._starting_s)
                answer = json.loads(said)
            except subprocess.TimeoutExpired as error:
                sentence = f"it took longer than {self._timeout_s:g} s"
                raise Unavailable(sentence, reason="RECEIVER_TIMEOUT") from error
            except ValueError as error:
                raise Unavailable("the process that sends it broke", reason="APPRISE_FAILED") from error
            finally:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        return dict(answer)
