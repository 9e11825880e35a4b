"""What a process of this service is to the others: the only one, or a worker among workers.

The composition root builds the same parts for both, and takes from here what differs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from json import loads
from queue import SimpleQueue
from typing import Any, Protocol

import structlog
from prometheus_client import CollectorRegistry

from penstock.api.registry.v1.registry_pb2 import WatchModelsResponse
from services.common.counters import Counters
from services.common.errors import DomainError, Unavailable
from services.common.metrics import MetricsServer
from services.common.server import Sharing
from services.inference.clients import client_of
from services.inference.following.follower import RegistryWatch, Watch
from services.inference.settings import InferenceSettings
from services.inference.workers import families, replies
from services.inference.workers.commands import Arguments, Broadcast, Commands, OneProcess, Reply
from services.inference.workers.place import Place
from services.inference.workers.wires import Frame, Kind, Wire, message

_log = structlog.get_logger(__name__)
COMMAND_THREADS = 16
"""For those that take long as many again, so that metrics, unloads and the like never wait for a load."""
JOIN_TIMEOUT_S = 60.0
ANSWER_MARGIN_S = 2.0
"""The supervisor says when a worker was silent; only if it is silent itself do we."""


class Membership(Protocol):
    """What differs between the only process and a worker."""

    count: int
    """Processes that answer on the port."""
    commands: Commands
    counters: Counters
    broadcast: Broadcast
    sharing: Sharing | None
    follows_alone: bool
    """Whether this process keeps the registry's snapshot on disk."""
    stuck: Callable[[], int]
    """Counts the runs that nothing ends; a worker with such a run is replaced."""

    def metrics(self, settings: InferenceSettings) -> MetricsServer:
        """Make what is scraped."""
        ...

    def watch(self, settings: InferenceSettings) -> Watch:
        """Make the watch on the registry."""
        ...

    def join(self) -> None:
        """Begin to carry out commands, those first that others were told before."""
        ...


class OnlyProcess:
    """The service is this process."""

    def __init__(self) -> None:
        self.count = 1
        self.commands = Commands()
        self.counters = Counters()
        self.broadcast: Broadcast = OneProcess(self.commands)
        self.sharing: Sharing | None = None
        self.follows_alone = True
        self.stuck: Callable[[], int] = lambda: 0

    def metrics(self, settings: InferenceSettings) -> MetricsServer:
        """Listen where Prometheus looks."""
        return MetricsServer(settings.host, settings.metrics_port)

    def watch(self, settings: InferenceSettings) -> Watch:
        """Watch the registry."""
        return RegistryWatch(client_of(settings))

    def join(self) -> None:
        """Have nobody to join."""


class Worker:
    """One of several processes; the supervisor is at the other end of the wire."""

    def __init__(self, place: Place, settings: InferenceSettings) -> None:
        self.count = place.count
        self.commands = Commands()
        self.counters = Counters(place.counters, place.number)
        self.broadcast: Broadcast = self
        self.sharing: Sharing | None = Sharing(self.counters, settings.max_connection_age_ms)
        self.follows_alone = False
        self.stuck: Callable[[], int] = lambda: 0
        self._place = place
        self._wire = Wire(place.wire)
        self._news = RelayedWatch()
        self._metrics = MetricsServer(settings.host, None)
        self._joined = threading.Event()
        self._lock = threading.Lock()
        self._answers: dict[int, Future[list[replies.Document]]] = {}
        self._asked = 0
        self._pool = ThreadPoolExecutor(COMMAND_THREADS, thread_name_prefix="command")
        self._slow_pool = ThreadPoolExecutor(COMMAND_THREADS, thread_name_prefix="slow-command")
        self._thread = threading.Thread(target=self._listen, name="supervisor", daemon=True)
        self.commands.add("metrics", lambda _: {"families": self._families()})

    def metrics(self, settings: InferenceSettings) -> MetricsServer:  # noqa: ARG002 - the supervisor listens
        """Leave the listening to the supervisor, which asks for what is registered here."""
        return self._metrics

    def watch(self, settings: InferenceSettings) -> Watch:  # noqa: ARG002 - the supervisor knows where
        """Hear what the supervisor's one watch hears."""
        return self._news

    def join(self) -> None:
        """Say that commands can come, and carry out those that the others remember."""
        self._thread.start()
        self._wire.send(message({"type": "join"}))
        if not self._joined.wait(JOIN_TIMEOUT_S):
            raise Unavailable("the supervisor says nothing", reason="SUPERVISOR_SILENT")

    def send(self, name: str, arguments: Arguments, timeout_s: float) -> Sequence[Reply]:
        """See `Broadcast.send`."""
        answer: Future[list[replies.Document]] = Future()
        with self._lock:
            self._asked += 1
            number = self._asked
            self._answers[number] = answer
        decides = replies.decision_document(self.commands.decides(name, arguments))
        said = {"type": "broadcast", "id": number, "name": name, "arguments": dict(arguments), "decides": decides}
        try:
            self._wire.send(message({**said, "timeout_s": timeout_s}))
            documents = answer.result(timeout_s + ANSWER_MARGIN_S)
        except (FutureTimeoutError, OSError) as error:
            raise Unavailable("the supervisor says nothing", reason="WORKER_SILENT") from error
        finally:
            with self._lock:
                del self._answers[number]
        return [replies.from_document(document) for document in documents]

    def fail(self, error: DomainError) -> None:
        """Say why this worker cannot begin."""
        self._wire.send(message({"type": "failed", "reason": error.reason, "message": error.message}))

    def _listen(self) -> None:
        for frame in self._wire.frames():
            self._take(frame)
        # The supervisor is dead, and with it the service: whoever comes next must find the port and the spool free.
        os._exit(1)

    def _take(self, frame: Frame) -> None:
        kind, payload = frame
        if kind is not Kind.MESSAGE:
            self._news.put(payload)
            return
        said = loads(payload)
        match said["type"]:
            case "ping":
                state = {"ready": self._metrics.ready(), "stuck": self.stuck()}
                self._wire.send(message({"type": "pong", **state}))
            case "command":
                pool = self._slow_pool if self.commands.is_slow(said["name"]) else self._pool
                pool.submit(self._obey, said)
            case "answer":
                self._hear(said)
            case "welcome":
                self._pool.submit(self._catch_up, said["commands"])

    def _obey(self, said: dict[str, Any]) -> None:
        document = self._carried_out(said["name"], said["arguments"])
        self._wire.send(message({"type": "reply", "id": said["id"], **document}))

    def _catch_up(self, commands: Sequence[dict[str, Any]]) -> None:
        for command in commands:
            document = self._carried_out(command["name"], command["arguments"])
            if "error" in document:
                _log.warning("a command of before does not hold here", command=command["name"], **document["error"])
        self._joined.set()

    def _carried_out(self, name: str, arguments: Arguments) -> replies.Document:
        try:
            return replies.to_document(self.commands.carry_out(name, arguments, worker=self._place.number))
        except Exception:  # noqa: BLE001 - whoever asked must hear of it
            _log.exception("a command failed", command=name)
            error = {"kind": "Internal", "message": "a worker failed; its log says why", "reason": "INTERNAL"}
            return {"worker": self._place.number, "error": error}

    def _hear(self, said: dict[str, Any]) -> None:
        with self._lock:
            answer = self._answers.get(said["id"])
        if answer is None:
            return  # nobody waits any more
        if "error" in said:
            answer.set_exception(replies.error_of(said["error"]))
        else:
            answer.set_result(said["replies"])

    def _families(self) -> list[families.Document]:
        registry: CollectorRegistry = self._metrics.registry
        return families.to_documents(registry.collect())


class RelayedWatch:
    """The supervisor's watch on the registry: what comes is a snapshot first, and each change since."""

    def __init__(self) -> None:
        self._messages: SimpleQueue[bytes | None] = SimpleQueue()

    def put(self, payload: bytes) -> None:
        """Take a message in."""
        self._messages.put(payload)

    def watch(self, after_revision: int, *, epoch: str) -> Iterator[WatchModelsResponse]:  # noqa: ARG002 - the supervisor knows what we have
        """Give what comes. What could not be taken in, a defect that the log shows, this worker does without.

        That lasts until the registry sends a whole snapshot again, or another worker takes the place.
        """
        while (payload := self._messages.get()) is not None:
            yield WatchModelsResponse.FromString(payload)

    def close(self) -> None:
        """End."""
        self._messages.put(None)
