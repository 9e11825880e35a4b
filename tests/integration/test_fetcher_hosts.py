"""Politeness towards hosts: budgets that all replicas share, and patience where it is asked for. A real PostgreSQL."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from email.utils import formatdate
from urllib.request import urlopen

import psycopg
import pytest
from prometheus_client import CollectorRegistry

import penstock
from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.errors import ResourceExhausted
from services.common.addresses import AddressRules, AllowedHosts
from services.common.errors import Unavailable
from services.common.postgres import Database
from services.fetcher.downloading.lines import Lines
from services.fetcher.faults import HostBusy, RateLimited
from services.fetcher.metrics import FetchCounters
from services.fetcher.sources.http import GuardedHttp
from services.fetcher.sources.source import Stopping
from services.fetcher.store.hosts import HostStore, Rate, Turn, Unit
from services.fetcher.throttle import HostLimits, Throttle
from tests import origins
from tests.fetching import Place, fetching
from tests.postgres import PostgresServer
from tests.registry import wait_until
from tests.testdata import models

pytestmark = pytest.mark.slow
CloneDatabase = Callable[[str], str]
SLOW = Rate(per_s=1e-3, burst=3)
"""So slow that nothing of it comes back while a test runs."""
BUSY, PENDING = "RATE_LIMITED", pb.FETCH_JOB_STATE_PENDING


class Ended(Exception):
    """Whoever waited was told to end."""


class Counting(HostStore):
    """Counts how often it is asked, and what is taken in all."""

    asked = 0
    taken = 0.0

    def take(self, host: str, unit: Unit, count: float, rate: Rate, *, most_wait_s: float) -> Turn:
        self.asked += 1
        turn = super().take(host, unit, count, rate, most_wait_s=most_wait_s)
        self.taken += count if turn.taken else 0.0
        return turn


@pytest.fixture
def url(clone_database: CloneDatabase) -> str:
    return clone_database("fetcher")


@pytest.fixture
def hosts(url: str) -> Iterator[Counting]:
    with Database(url, pool_size=4) as database:
        yield Counting(database)


def throttle(hosts: HostStore, requests: Rate, **more: Rate) -> Throttle:
    return Throttle(hosts, HostLimits(requests, **more), FetchCounters(CollectorRegistry()))


def stopped_at_once() -> Stopping:
    """End whoever waits as soon as it does; whoever does not, goes on."""
    told = threading.Event()

    def on_stop(callback: Callable[[], None]) -> None:
        told.set()
        callback()

    def check() -> None:
        if told.is_set():
            raise Ended

    return Stopping(check, on_stop)


def age(url: str, seconds: float) -> None:
    """Let time pass for all budgets and all jobs that wait."""
    with psycopg.connect(url) as connection:
        by = "make_interval(secs => %s)"
        connection.execute(f"UPDATE fetcher.host_budgets SET paid_time = paid_time - {by}".encode(), [seconds])
        connection.execute(f"UPDATE fetcher.fetch_jobs SET due_time = due_time - {by}".encode(), [seconds])
        connection.execute("NOTIFY fetcher_fetch_jobs_queued")


def take(hosts: HostStore, count: float = 1, rate: Rate = SLOW, host: str = "a.test", wait_s: float = 0.0) -> Turn:
    return hosts.take(host, Unit.REQUESTS, count, rate, most_wait_s=wait_s)


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate(hosts: Counting, url: str) -> None:
    assert [take(hosts).taken for _ in range(4)] == [True, True, True, False]
    assert 900 < take(hosts).wait_s <= 1_000
    assert take(hosts, host="b.test").taken, "each host has its own"
    age(url, 2_000)
    assert [take(hosts).taken for _ in range(3)] == [True, True, False]
    late = take(hosts, wait_s=1e6)
    assert (late.taken, 900 < late.wait_s <= 1_000) == (True, True)
    assert 1_900 < take(hosts).wait_s <= 2_000, "whoever comes next is behind the one that waits"


def test_a_bucket_never_holds_more_than_its_burst(hosts: Counting, url: str) -> None:
    take(hosts)
    age(url, 1e6)
    assert [take(hosts).taken for _ in range(4)] == [True, True, True, False]


def test_of_many_who_take_at_once_in_two_replicas_only_so_many_get(hosts: Counting, url: str) -> None:
    with Database(url, pool_size=4) as database, ThreadPoolExecutor(16) as pool:
        replicas = (hosts, HostStore(database))
        rate = Rate(per_s=1e-3, burst=20)
        turns = [turn.taken for turn in pool.map(lambda number: take(replicas[number % 2], rate=rate), range(60))]
    assert turns.count(True) == 20


def test_budgets_that_are_full_again_are_forgotten(hosts: Counting, url: str) -> None:
    for number in range(50):
        take(hosts, host=f"h{number}.test")
    age(url, 1e4)
    take(hosts, host="new.test")
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT host FROM fetcher.host_budgets").fetchall() == [("new.test",)]


def test_many_new_hosts_at_once_are_no_deadlock(hosts: Counting, url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert all(pool.map(lambda number: take(hosts, host=f"h{number % 7}.test").taken, range(21)))
            age(url, 1e6)


def test_a_host_that_asked_for_patience_is_asked_by_nobody_and_then_without_a_burst(hosts: Counting, url: str) -> None:
    hosts.pause("a.test", 300, SLOW)
    hosts.pause("a.test", 10, SLOW)
    turn = take(hosts)
    assert (turn.taken, 1_200 < turn.wait_s <= 1_300) == (False, True), "300 s, and the time that one request takes"
    age(url, 300)
    assert not take(hosts).taken
    age(url, 1_000)
    assert [take(hosts).taken for _ in range(2)] == [True, False]


def test_a_process_asks_the_database_once_for_many_requests(hosts: Counting) -> None:
    asks = throttle(hosts, Rate(per_s=40_000, burst=40_000))
    for _ in range(1_000):
        asks.admit("a.test", Stopping())
    assert hosts.asked < 100, "10,000 were taken at a time"


def test_who_waits_for_its_turn_is_ended_at_once(hosts: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.fetcher.throttle.MOST_SLEPT_S", 3_600.0)
    asks = throttle(hosts, Rate(per_s=1e-3, burst=1))
    asks.admit("a.test", stopped_at_once())
    with pytest.raises(Ended):  # else in a quarter of an hour
        asks.admit("a.test", stopped_at_once())


def test_who_would_wait_long_is_told_when_to_come_again(hosts: Counting) -> None:
    asks = throttle(hosts, Rate(per_s=1e-3, burst=1))
    asks.admit("a.test", Stopping())
    with pytest.raises(HostBusy) as busy:
        asks.admit("a.test", Stopping())
    assert (busy.value.reason, busy.value.retryable) == (BUSY, True)
    assert 900 < (busy.value.retry_after_s or 0) <= 1_000


def test_a_pause_spends_what_its_process_had_taken_ahead(hosts: Counting) -> None:
    asks = throttle(hosts, Rate(per_s=400, burst=1_000))
    asks.admit("a.test", Stopping())
    asks.pause("a.test", 600)
    with pytest.raises(HostBusy):
        asks.admit("a.test", Stopping())


def test_bytes_over_their_rate_are_waited_for_in_turn(hosts: Counting) -> None:
    asks = throttle(hosts, Rate(per_s=1e6, burst=1e6), bytes=Rate(per_s=1_000, burst=1_000_000))
    asks.received("a.test", stopped_at_once(), 900_000)
    with pytest.raises(Ended):
        asks.received("a.test", stopped_at_once(), 900_000)
    asks.received("b.test", stopped_at_once(), 900_000)


def test_what_was_taken_is_spent_to_its_end(hosts: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.fetcher.throttle.HELD_S", 3_600.0)
    asks = throttle(hosts, SLOW, bytes=Rate(per_s=4_000_000, burst=1e9))
    for _ in range(20):
        asks.received("a.test", Stopping(), 600_000)
    assert 12_000_000 <= hosts.taken < 13_000_000, "no more is taken than came, save for a moment ahead"


def test_without_a_database_nobody_is_asked() -> None:
    with Database("postgresql://nobody@127.0.0.1:1/none", pool_wait_s=0.1) as database:
        asks = throttle(HostStore(database), SLOW)
        with pytest.raises(Unavailable) as away:
            asks.admit("a.test", Stopping())
    assert away.value.retryable


def test_each_host_of_a_redirect_has_its_own_turn(hosts: Counting) -> None:
    hosts.pause("there.test", 600, SLOW)
    rules = AddressRules(AllowedHosts.parse("here.test,there.test"), lookup=lambda *_: ["127.0.0.1"])
    http = GuardedHttp(rules, throttle=throttle(hosts, SLOW))
    with origins.serving() as origin:
        port = origin.url.rpartition(":")[2]
        origin.serve("/m", b"", failures=[(302, {"Location": f"http://there.test:{port}/m"})])
        with (
            pytest.raises(HostBusy, match=r"there\.test"),
            http.get(f"http://here.test:{port}/m", {}, Stopping()),
        ):
            pass
        assert [headers["Host"] for _, headers in origin.asked] == [f"here.test:{port}"]


def test_a_host_whose_answer_the_caller_judges_is_left_alone_likewise(hosts: Counting) -> None:
    http = GuardedHttp(AddressRules(AllowedHosts.parse("127.0.0.1")), throttle=throttle(hosts, SLOW))
    with origins.serving() as origin:
        url = origin.serve("/m", b"", failures=[(429, {"RateLimit": "in its own words"})])
        with pytest.raises(RateLimited), http.get(url, {}, Stopping(), judged={429}):
            raise RateLimited("it asks for patience", retry_after_s=600)
        with pytest.raises(HostBusy), http.get(url, {}, Stopping()):
            pass
        assert len(origin.asked) == 1


def test_a_connection_that_is_kept_is_no_way_around_a_turn(hosts: Counting) -> None:
    rate = Rate(per_s=1e-3, burst=2)
    http = GuardedHttp(AddressRules(AllowedHosts.parse("127.0.0.1")), throttle=throttle(hosts, rate))
    connections = list[socket.socket]()

    def say(connection: socket.socket, _: str) -> None:
        connections.append(connection)
        asked = True
        while asked:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
            asked = bool(connection.recv(4096))

    with origins.answering(say) as url, Lines(1) as lines:
        stopping = Stopping(kept=lines.kept)
        for _ in range(2):
            with http.get(url, {}, stopping) as answer:
                assert b"".join(answer.chunks()) == b"x"
        with pytest.raises(HostBusy), http.get(url, {}, stopping):
            pass
    assert len(connections) == 1, "it was kept"


@pytest.fixture
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("fetcher")
    with fetching(postgres_server, folder, fetcher_allowed_hosts="127.0.0.1,localhost") as running:
        yield running


def put_back(client: penstock.Client, job: pb.FetchJob) -> pb.FetchJob | None:
    found = client.fetcher.get(job.id)
    return found if found.state == PENDING and found.error.reason == BUSY else None


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_host_that_asks_for_patience_gets_it_from_every_job(place: Place, form: str) -> None:
    said = "900" if form == "seconds" else formatdate(time.time() + 900, usegmt=True)
    url = place.origin.serve("/busy.onnx", models.classifier(), failures=[(429, {"Retry-After": said})])
    told = place.client.fetcher.start("url", url)
    wait_until(lambda: put_back(place.client, told))
    asked = len(place.origin.asked)
    others = [place.client.fetcher.start("url", url, priority=9) for _ in range(4)]
    waiting = [wait_until(lambda job=job: put_back(place.client, job)) for job in others]  # type: ignore[misc]
    assert {job.attempt_count for job in waiting} == {0}, "who did not ask has spent nothing"
    assert all(job.error.retryable and "127.0.0.1" in job.error.message for job in waiting)
    assert place.client.fetcher.get(told.id).attempt_count == 1
    with pytest.raises(ResourceExhausted) as busy:
        place.client.fetcher.inspect("url", url)
    assert (busy.value.reason, len(place.origin.asked)) == (BUSY, asked)
    elsewhere = place.fetch("url", url.replace("127.0.0.1", "localhost"), model="elsewhere")
    assert elsewhere.state == pb.FETCH_JOB_STATE_COMPLETED, "another host's jobs have the slots"
    age(place.database_url, 2_000)
    ended = [place.end(job) for job in (told, *others)]
    assert {job.state for job in ended} == {pb.FETCH_JOB_STATE_COMPLETED}


def test_prometheus_is_told_what_came_and_what_hosts_asked_for(place: Place) -> None:
    failures: list[tuple[int, dict[str, str]]] = [(429, {"Retry-After": "900"}), (500, {})]
    for failure in failures:
        url = place.origin.serve("/counted.onnx", models.classifier(), failures=[failure], etag=None)
        waits = place.client.fetcher.start("url", url, max_attempts=2)
        if failure[0] == 429:
            wait_until(lambda job=waits: put_back(place.client, job))  # type: ignore[misc]
            age(place.database_url, 2_000)
        assert place.end(waits).state == pb.FETCH_JOB_STATE_COMPLETED
    with urlopen(f"http://127.0.0.1:{place.metrics_port}/metrics") as page:
        lines = [line for line in page.read().decode().splitlines() if line.startswith("penstock_fetch_")]
    told = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
    assert told["penstock_fetch_received_bytes_total"] >= 2 * len(models.classifier())
    assert told["penstock_fetch_pauses_total"] == 1
    assert told['penstock_fetch_faults_total{reason="RATE_LIMITED",retryable="true"}'] == 1
    assert told['penstock_fetch_faults_total{reason="NETWORK_ERROR",retryable="true"}'] == 1
    assert told['penstock_fetch_throttled_seconds_total{unit="requests"}'] >= 0


def test_a_cancel_reaches_a_job_that_is_slowed_down(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    arrived = threading.Event()
    with ExitStack() as stack:
        slow = {"fetcher_host_bytes_per_second": 64 * 1024}
        folder = tmp_path_factory.mktemp("fetcher")
        place = stack.enter_context(fetching(postgres_server, folder, **slow))
        url = place.origin.serve("/slow.onnx", bytes(64 * 1024 * 1024), hold=lambda _: arrived.set())
        job = place.client.fetcher.start("url", url, framework="onnx")
        assert arrived.wait(60)
        wait_until(lambda: place.client.fetcher.get(job.id).progress.done_bytes or None)
        place.client.fetcher.cancel(job.id)
        assert place.end(job).state == pb.FETCH_JOB_STATE_CANCELLED, "17 min before its bytes would be here"
