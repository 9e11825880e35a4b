"""What the supervisor of several workers stands on: frames, questions, what is remembered, news, ports, metrics."""

from __future__ import annotations

import errno
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.common import errors
from services.common.errors import FailedPrecondition, FieldViolation, InvalidArgument
from services.common.metrics import GrpcCollector
from services.inference.models import ModelFailed
from services.inference.settings import InferenceSettings
from services.inference.workers import families, place, replies
from services.inference.workers.commands import Commands, Decision, Reply
from services.inference.workers.exchange import News, Questions
from services.inference.workers.place import Place, cores, worker_count
from services.inference.workers.port import PortReservation
from services.inference.workers.wires import MAX_FRAME_BYTES, Kind, QueuedWire, Unpacker, Wire, message, packed


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# Frames


def test_frames_come_out_as_they_went_in_however_they_are_cut() -> None:
    frames = [(Kind.MESSAGE, b"{}"), (Kind.CHANGE, b""), (Kind.SNAPSHOT, b"x" * 1000)]
    stream = b"".join(packed(*frame) for frame in frames)
    unpacker = Unpacker()
    assert [frame for byte in stream for frame in unpacker.feed(bytes([byte]))] == frames


def test_a_frame_over_the_limit_is_refused_on_both_sides() -> None:
    with pytest.raises(ValueError, match="are allowed"):
        packed(Kind.CHANGE, bytes(MAX_FRAME_BYTES + 1))
    with pytest.raises(ValueError, match="are allowed"):
        list(Unpacker().feed((MAX_FRAME_BYTES + 1).to_bytes(4, "big") + b"\0"))


def test_the_supervisor_never_waits_for_a_child_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire = QueuedWire(ours)
        payload = bytes(2**20)
        for _ in range(8):
            assert wire.send(packed(Kind.CHANGE, payload))
        stuck = wire.has_waiting
        assert stuck
        monkeypatch.setattr("services.inference.workers.wires.MAX_WAITING_BYTES", 2**20)
        assert not wire.send(packed(Kind.CHANGE, payload))  # it is as good as hung
        with ThreadPoolExecutor(1) as pool:
            frames = Wire(theirs.detach()).frames()
            read = pool.submit(lambda: [next(frames) for _ in range(8)])
            while wire.has_waiting:
                wire.flush()
            assert read.result(60) == [(Kind.CHANGE, payload)] * 8


def test_a_wire_whose_other_end_is_gone_says_so() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        wire = QueuedWire(ours)
        assert list(wire.receive() or ()) == []
        theirs.sendall(message({"type": "join"}))
        theirs.close()
        assert [kind for kind, _ in wire.receive() or ()] == [Kind.MESSAGE]
        assert wire.receive() is None


# Questions and commands


def test_a_question_ends_with_its_last_reply_with_its_time_or_with_those_who_are_gone() -> None:
    clock, answers = Clock(), []
    questions = Questions(clock)
    for _ in range(3):
        questions.ask([0, 1], 5.0, lambda found: answers.append(dict(found)))
    questions.reply(1, 0, {"n": 0})
    questions.reply(1, 0, {"n": 9})  # it has replied already
    questions.reply(1, 1, {"n": 1})
    questions.reply(2, 0, {"n": 0})
    questions.forget(1)
    assert answers == [{0: {"n": 0}, 1: {"n": 1}}, {0: {"n": 0}}]
    clock.now = 5.0
    questions.expire()
    questions.reply(3, 0, {"n": "late"})
    assert answers[2] == {}
    questions.ask([], 5.0, lambda found: answers.append(dict(found)))
    assert len(answers) == 4


def test_commands_say_what_they_decide() -> None:
    commands = Commands()
    commands.add("load", lambda _: {})
    commands.add("pin", lambda _: {}, remember=lambda arguments: Decision(("pin", arguments["key"])))
    assert commands.decides("load", {}) is None
    assert commands.decides("pin", {"key": "x"}) == Decision(("pin", "x"))


@pytest.mark.parametrize(
    "error",
    [
        errors.ResourceExhausted("full", reason="FULL", retry_after_s=2.0),
        errors.NotFound("nothing", metadata={"a": "b"}),
        InvalidArgument("two", violations=(FieldViolation("x", "too long"),)),
    ],
)
def test_errors_travel_whole(error: errors.DomainError) -> None:
    back = replies.from_document(replies.to_document(Reply(1, {}, error))).error
    assert back is not None
    assert (type(back), vars(back)) == (type(error), vars(error))


def test_an_error_that_only_this_service_knows_arrives_as_its_kind() -> None:
    back = replies.from_document(replies.to_document(Reply(0, {}, ModelFailed("broken")))).error
    assert back is not None
    assert type(back).__module__ == errors.__name__
    assert isinstance(ModelFailed("broken"), type(back))


# The registry's news


def test_a_late_worker_hears_the_last_whole_snapshot_and_the_changes_since() -> None:
    news = News()
    part, whole = (Kind.SNAPSHOT_PART, b"1"), (Kind.SNAPSHOT, b"2")
    assert news.take(part) == []
    assert news.so_far == []  # half a snapshot is none
    assert news.take(whole) == [part, whole]
    assert news.take((Kind.CHANGE, b"3")) == [(Kind.CHANGE, b"3")]
    assert news.so_far == [part, whole, (Kind.CHANGE, b"3")]
    assert news.take((Kind.BASE, b"4")) == []  # nothing new to those who are there
    assert news.so_far == [(Kind.BASE, b"4")]
    news.take(part)
    news.interrupt()
    assert news.take(whole) == [whole]


# The port


def test_a_port_is_taken_once_and_free_again() -> None:
    first = PortReservation("127.0.0.1", 0)
    port = first.open()
    with pytest.raises(FailedPrecondition) as refused:
        PortReservation("127.0.0.1", port).open()
    assert refused.value.reason == "ADDRESS_IN_USE"
    with socket.socket() as listener:  # as each worker does
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        with pytest.raises(FailedPrecondition):
            PortReservation("127.0.0.1", port).open()
    first.close()
    again = PortReservation("127.0.0.1", port)
    assert again.open() == port
    again.close()


def test_a_port_where_a_stranger_listens_is_not_taken() -> None:
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        with pytest.raises(FailedPrecondition):
            PortReservation("127.0.0.1", stranger.getsockname()[1]).open()


def refusal(host: str) -> str:
    with pytest.raises(FailedPrecondition) as refused:
        PortReservation(host, 0).open()
    return refused.value.reason


def test_an_address_that_cannot_be_taken_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal("192.0.2.1") == "HOST_NOT_HERE"  # TEST-NET-1: nobody's

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", unknown)
        assert refusal("no-such-host.invalid") == "HOST_UNKNOWN"
    for code, reason in ((errno.EACCES, "PORT_FORBIDDEN"), (errno.EAFNOSUPPORT, "HOST_NOT_HERE")):
        with monkeypatch.context() as patched:
            patched.setattr(socket, "socket", refusing(code))
            assert refusal("127.0.0.1") == reason


def refusing(code: int) -> Any:
    def make(*_: object, **__: object) -> None:
        raise OSError(code, "refused")

    return make


def test_of_a_name_for_several_addresses_those_are_taken_that_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, 0)) for host in ("192.0.2.1", "127.0.0.1")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    first = PortReservation("both", 0)
    port = first.open()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    first.close()


# Places


def settings(**said: Any) -> InferenceSettings:
    return InferenceSettings(**said)


def test_auto_is_the_quota_and_a_number_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "cpu_count", lambda: 6)
    assert worker_count(settings()) == 6
    assert worker_count(settings(inference_workers="3")) == 3
    monkeypatch.setattr("sys.platform", "darwin")
    assert worker_count(settings(inference_workers=3)) == 1


@pytest.mark.parametrize(
    ("pinned", "quota", "expected"),
    [
        ("auto", 2.0, [4, 5]),
        ("auto", 1.5, [None, None]),
        ("auto", None, [None, None]),
        ("never", 2.0, [None, None]),
        ("always", None, [4, 5]),
    ],
)
def test_workers_are_pinned_where_the_cores_are_theirs_alone(
    monkeypatch: pytest.MonkeyPatch, pinned: str, quota: float | None, expected: list[int | None]
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {4, 5})
    monkeypatch.setattr(place, "find_quota", lambda: quota)
    assert cores(settings(inference_pinned=pinned), 2) == expected


def test_a_worker_gets_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "cpu_count", lambda: 4)
    whole = settings(session_budget_bytes=2**30, response_cache_bytes=0, spool_queue_events=5)
    free = Place(0, 2, 1, 3, 8001, 8002, ()).settings(whole)
    assert (free.session_budget_bytes, free.response_cache_bytes, free.spool_queue_events) == (2**29, 0, 3)
    assert (free.runtime_threads, free.port, free.artifact_cache_bytes) == (2, 8001, whole.artifact_cache_bytes)
    assert Place(0, 2, 1, 3, 8001, 8002, (), core=1).settings(whole).runtime_threads == 1


# Metrics


@pytest.fixture
def registries() -> list[CollectorRegistry]:
    """Two workers' own metrics."""
    made = []
    for number in (1, 2):
        registry = CollectorRegistry()
        Counter("asked", "Asked.", ("model",), registry=registry).labels("iris").inc(number)
        Gauge("depth", "Waiting.", registry=registry).set(number)
        Gauge("queue_age_seconds", "The oldest.", registry=registry).set(number)
        Histogram("size", "Sizes.", buckets=(1, 10), registry=registry).observe(number * 5)
        rpcs = GrpcCollector()
        rpcs.add("unary", "Service", "Method").start()
        registry.register(rpcs)
        made.append(registry)
    return made


def test_what_each_counts_is_added_up_and_what_all_count_together_is_not(registries: list[CollectorRegistry]) -> None:
    told = [families.to_documents(registry.collect()) for registry in registries]
    merged = {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in families.merged(told)
        for sample in family.samples
    }
    assert merged["asked_total", ("iris",)] == 3
    assert merged["depth", ()] == 3
    assert merged["queue_age_seconds", ()] == 2
    assert (merged["size_sum", ()], merged["size_bucket", ("10.0",)], merged["size_count", ()]) == (15, 2, 2)
    assert merged["grpc_server_started_total", ("unary", "Service", "Method")] == 1
    assert not [name for name, _ in merged if name.endswith("_created")]
