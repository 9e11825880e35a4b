"""The supervisor: starts the workers of one port, and makes them one service.

It imports neither grpc nor a runtime, and one thread does all its work: it looks at what came over the wires, starts
what is due, and asks who is still there. Only the metrics port has threads of its own.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack, redirect_stderr, suppress
from io import StringIO
from json import loads
from typing import Any

import structlog
from pydantic import ValidationError

from services.common import flags
from services.common.counters import create_file
from services.common.errors import FailedPrecondition
from services.common.process import MISUSED, run
from services.inference.settings import InferenceSettings
from services.inference.workers.children import FOLLOWER, WORKER, Child, Slot
from services.inference.workers.exchange import News, Questions, Remembered
from services.inference.workers.place import Place, cores, worker_count
from services.inference.workers.port import PortReservation
from services.inference.workers.replies import Document, decision_of
from services.inference.workers.scrape import open_metrics
from services.inference.workers.wires import Frame, Kind, message, packed

_log = structlog.get_logger(__name__)
TICK_S = 0.1
PING_S = 1.0
START_LIMIT_S = 120.0
END_MARGIN_S = 5.0
"""After the time that a drain may take; then a worker is killed."""
MAX_EARLY_DEATHS = 5
MAX_LAST_WORDS = 1_000


class Supervisor:
    """Keeps `count` workers alive on one port. `open` it, `wait`, `close` it."""

    def __init__(self, settings: InferenceSettings, arguments: Sequence[str], count: int) -> None:
        self._settings = settings
        self._arguments = arguments
        self._count = count
        self._stack = ExitStack()
        self._selector = selectors.DefaultSelector()
        self._questions = Questions(time.monotonic)
        self._remembered = Remembered()
        self._deciding = 0
        self._joining: list[int] = []
        self._news = News()
        self._inbox: deque[tuple[str, float, Future[list[Document]]]] = deque()
        self._stopping = False
        self.workers: list[Slot] = []

    def open(self) -> int:
        """Take the port, and start the workers; raises FailedPrecondition as `PortReservation.open` does."""
        settings, stack = self._settings, self._stack
        stack.callback(self._selector.close)
        reservation = PortReservation(settings.host, settings.port)
        port = reservation.open()
        stack.callback(reservation.close)
        metrics = open_metrics(self, settings)
        stack.callback(metrics.close)
        self._wake, woken = socket.socketpair()
        for end in (self._wake, woken):
            end.setblocking(False)
            stack.callback(end.close)
        self._selector.register(woken, selectors.EVENT_READ, None)
        files = [create_file() for _ in range(self._count)]
        for each in files:
            stack.callback(os.close, each)
        pins = cores(settings, self._count)
        self.workers = [
            Slot(
                f"worker {number}",
                WORKER,
                Place(number, self._count, os.getpid(), -1, port, metrics.port, files, pins[number]),
            )
            for number in range(self._count)
        ]
        self._follower = Slot("follower", FOLLOWER, Place(-1, self._count, os.getpid(), -1, port, 0, ()))
        self._slots = [self._follower, *self.workers]
        stack.callback(self._kill_all)
        _log.info(
            "supervising",
            address=f"{settings.host}:{port}",
            metrics_port=metrics.port,
            workers=self._count,
            pinned=pins[0] is not None,
        )
        return port

    def wait(self) -> None:
        """Block until SIGTERM or SIGINT, and keep the workers alive meanwhile.

        Raises FailedPrecondition where they die as often as they are started: with a worker's own reason and sentence
        where it said them, else WORKERS_FAIL.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        try:
            while not self._stopping:
                self._start_due()
                self._turn()
                self._look_after()
        finally:
            signal.set_wakeup_fd(-1)

    def close(self) -> None:
        """Let the workers finish what they have in flight, kill those that take too long, and let the port go."""
        self._stopping = True
        _log.info("draining", grace_ms=self._settings.drain_grace_ms)
        deadline = time.monotonic() + self._settings.drain_grace_ms / 1000 + END_MARGIN_S
        for child in self._children():
            child.process.terminate()
        while self._children() and time.monotonic() < deadline:
            self._turn()
            self._bury_dead()
        self._stack.close()
        _log.info("closed")

    @property
    def ready(self) -> bool:
        """Whether a worker answers predictions."""
        return not self._stopping and any(slot.child is not None and slot.child.ready for slot in self.workers)

    def ask(self, name: str, timeout_s: float) -> list[Document]:
        """Have every worker carry out a command, and give the replies that came in time. For other threads."""
        answer: Future[list[Document]] = Future()
        self._inbox.append((name, timeout_s, answer))
        with suppress(OSError):  # it is awake, or at its end
            self._wake.send(b"\0")
        return answer.result(timeout_s + 1.0)

    # One turn of the loop

    def _turn(self) -> None:
        for key, _ in self._selector.select(TICK_S):
            if key.data is None:
                with suppress(BlockingIOError):
                    while key.fileobj.recv(4096):  # type: ignore[union-attr] # a socket: nothing else is registered
                        pass
            else:
                self._read(key.data)
        while self._inbox:
            name, timeout_s, answer = self._inbox.popleft()
            self._command(name, {}, timeout_s, lambda heard, answer=answer: answer.set_result(list(heard.values())))
        for child in self._children():
            child.wire.flush()
        self._questions.expire()

    def _read(self, slot: Slot) -> None:
        child = slot.child
        if child is None:
            return
        frames = child.wire.receive()
        if frames is None:
            self._selector.unregister(child.wire.socket)
            child.process.kill()  # it cannot be reached, so it is of no use
            child.process.wait()
            return
        for frame in frames:
            if slot is not self._follower:
                self._hear(slot, child, loads(frame[1]))
                continue
            child.heard = time.monotonic()
            child.joined = child.ready = True  # it has begun, since it speaks
            if frame[0] is not Kind.MESSAGE:
                self._spread(self._news.take(frame))

    def _hear(self, slot: Slot, child: Child, said: dict[str, Any]) -> None:
        child.heard = time.monotonic()
        number = slot.place.number
        match said["type"]:
            case "pong":
                if said["ready"] and not child.ready:
                    _log.info("a worker serves", worker=number, seconds=round(child.heard - child.began, 2))
                child.ready = bool(said["ready"])
                child.has_been_ready |= child.ready
                if said["stuck"] and child.ending_since is None:
                    self._end(slot, child, f"{said['stuck']} of its runs cannot be ended")
            case "join":
                self._joining.append(number)
            case "reply":
                self._questions.reply(said["id"], number, said)
            case "broadcast":
                self._broadcast(child, said)
            case "failed":
                child.failure = (said["message"], said["reason"])

    # Commands

    def _broadcast(self, asker: Child, said: dict[str, Any]) -> None:
        def answer(content: dict[str, Any]) -> None:
            asker.wire.send(message({"type": "answer", "id": said["id"], **content}))

        decides = decision_of(said["decides"])
        if decides is not None and not self._remembered.has_room(decides):
            sentence = "as much has been decided for all workers as can be kept; undo some of it first"
            answer({"error": {"kind": "ResourceExhausted", "message": sentence, "reason": "COMMANDS_EXHAUSTED"}})
            return
        asked = {slot.place.number: slot.child for slot in self.workers if slot.child and slot.child.joined}

        def done(heard: dict[int, Document]) -> None:
            if decides is not None:
                self._deciding -= 1
                if any("error" not in reply for reply in heard.values()):
                    self._remembered.take(decides, said["name"], said["arguments"])
            silent = [number for number in asked.keys() - heard if self.workers[number].child is asked[number]]
            if silent:
                sentence = f"worker {silent[0]} did not reply in time; the others have done it"
                answer({"error": {"kind": "Unavailable", "message": sentence, "reason": "WORKER_SILENT"}})
            else:
                answer({"replies": [heard[number] for number in sorted(heard)]})

        self._deciding += decides is not None
        self._command(said["name"], said["arguments"], said["timeout_s"], done)

    def _command(self, name: str, arguments: dict[str, Any], timeout_s: float, done: Any) -> None:
        joined = [slot for slot in self.workers if slot.child is not None and slot.child.joined]
        number = self._questions.ask([slot.place.number for slot in joined], timeout_s, done)
        frame = message({"type": "command", "id": number, "name": name, "arguments": arguments})
        for slot in joined:
            self._send(slot, frame)

    def _welcome(self) -> None:
        """Let those in that have begun; not while something is being decided, which they would miss."""
        if self._deciding:
            return
        for number in self._joining:
            slot = self.workers[number]
            if slot.child is not None:
                slot.child.joined = True
                self._send(slot, message({"type": "welcome", "commands": self._remembered.commands}))
                for frame in self._news.so_far:
                    self._send(slot, packed(*frame))
        self._joining.clear()

    def _spread(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            written = packed(*frame)
            for slot in self.workers:
                if slot.child is not None and slot.child.joined:
                    self._send(slot, written)

    def _send(self, slot: Slot, frame: bytes) -> None:
        if slot.child is not None and not slot.child.wire.send(frame):
            self._end(slot, slot.child, "it reads nothing", at_once=True)

    # Children

    def _start_due(self) -> None:
        now = time.monotonic()
        for slot in self._slots:
            if slot.child is None and now >= slot.due:
                try:
                    child = slot.start(self._arguments, now)
                except OSError as error:  # no memory, processes or descriptors left for it, as yet
                    slot.put_off(now)
                    _log.error("a child cannot be started", child=slot.name, error=str(error))
                    continue
                child.has_been_ready = slot is self._follower
                self._selector.register(child.wire.socket, selectors.EVENT_READ, slot)

    def _look_after(self) -> None:
        self._bury_dead()
        self._welcome()
        now = time.monotonic()
        silence_s = self._settings.worker_silence_ms / 1000
        grace_s = self._settings.drain_grace_ms / 1000 + END_MARGIN_S
        for slot in self._slots:
            child = slot.child
            if child is None:
                continue
            if child.ending_since is not None:
                if now - child.ending_since > grace_s:
                    child.process.kill()
            elif not child.joined:
                if now - child.began > START_LIMIT_S:
                    self._end(slot, child, "it does not begin", at_once=True)
            elif child.asked > child.heard:
                if now - child.asked > silence_s:
                    self._end(slot, child, "it says nothing", at_once=True)
            elif now - child.asked > (PING_S if child.ready else TICK_S):
                child.asked = now
                self._send(slot, message({"type": "ping"}))

    def _end(self, slot: Slot, child: Child, why: str, *, at_once: bool = False) -> None:
        event = "the follower is replaced" if slot is self._follower else "a worker is replaced"
        _log.error(event, worker=slot.place.number, why=why)
        child.ending_since = time.monotonic()
        child.ready = False
        (child.process.kill if at_once else child.process.terminate)()

    def _bury_dead(self) -> None:
        for slot in self._slots:
            child = slot.child
            code = child.process.poll() if child is not None else None
            if child is None or code is None:
                continue
            self._read_last_words(slot, child)
            slot.bury(time.monotonic())
            if slot is self._follower:
                self._news.interrupt()
            else:
                self._joining = [number for number in self._joining if number != slot.place.number]
                self._questions.forget(slot.place.number)
            if not self._stopping:
                _log.error("a child died", child=slot.name, code=code, restarts=slot.deaths)
                self._give_up_if_hopeless(slot, child, code)

    def _read_last_words(self, slot: Slot, child: Child) -> None:
        with suppress(KeyError):  # all was read
            for _ in range(MAX_LAST_WORDS):
                self._selector.get_key(child.wire.socket)
                self._read(slot)
            self._selector.unregister(child.wire.socket)

    def _give_up_if_hopeless(self, slot: Slot, child: Child, code: int) -> None:
        if slot is self._follower or self.ready:
            return
        never = not any(each.deaths > 1 for each in self.workers) and not child.has_been_ready
        refused = never and code in (1, MISUSED)
        if refused or slot.early_deaths >= MAX_EARLY_DEATHS:
            why = (f"the workers end with code {code} again and again; the log says more", "WORKERS_FAIL")
            message, reason = child.failure or why
            raise FailedPrecondition(message, reason=reason)

    def _children(self) -> list[Child]:
        return [slot.child for slot in self._slots if slot.child is not None]

    def _kill_all(self) -> None:
        for child in self._children():
            child.process.kill()
            child.process.wait()
            child.close()

    def _stop(self) -> None:
        self._stopping = True


def supervise(arguments: Sequence[str]) -> None:
    """Run the service and end the process, where it is to have several workers; else return.

    It returns too where something else than serving is asked for, or nothing that makes sense: the rest of the program
    says so.
    """
    if {"-h", "--help"} & set(arguments):
        return
    try:
        with redirect_stderr(StringIO()):
            said = flags.parse("inference", arguments, InferenceSettings, commands=None)
        settings = InferenceSettings(**said.settings)
    except (SystemExit, ValidationError):
        return
    count = worker_count(settings)
    if count > 1 and said.command is None:
        sys.exit(run("inference", arguments, InferenceSettings, lambda read, _: Supervisor(read, arguments, count)))
