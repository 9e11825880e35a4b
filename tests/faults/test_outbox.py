"""The outbox when processes die, receivers misbehave and the database goes away: nothing is lost, ids stay."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from services.common.addresses import AddressRules, AllowedHosts
from services.common.errors import Unavailable
from services.common.jobs.backoff import Backoff
from services.common.outbox import Message, OutboxLimits, OutboxWorkers
from services.common.outbox.webhooks import Webhook, WebhookLimits, Webhooks
from tests.monitoring import eventually
from tests.outbox import QUICK, delivering, opened, put, rows, states
from tests.postgres import PostgresServer
from tests.receivers import Behaviour, Receiver, answers, drips, hangs, receiving, resets

ROOT = Path(__file__).resolve().parents[2]
LIMITS = OutboxLimits(lease_s=30.0, poll_interval_s=0.02, backoff=Backoff(base_s=0.01, cap_s=0.05, max_asked_s=0.05))
PATIENT_S = 20.0
CloneDatabase = Callable[[str], str]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as listening:
        yield listening


def posting(receiver: Receiver, patience_s: float = PATIENT_S) -> Callable[[Message], None]:
    """Post to the receiver."""
    limits = WebhookLimits(connect_s=patience_s, total_s=patience_s)
    webhooks = Webhooks(AddressRules(AllowedHosts.parse("127.0.0.1")), limits)

    def deliver(message: Message) -> None:
        webhooks.post(Webhook(receiver.url), message.message_id, message.body)

    return deliver


@contextmanager
def delivered_by(
    receiver: Receiver, url: str, replicas: int = 1, patience_s: float = PATIENT_S
) -> Iterator[list[OutboxWorkers]]:
    """Have replicas deliver to the receiver, each with connections of its own."""
    with ExitStack() as stack:
        workers = []
        for _ in range(replicas):
            _, outbox = stack.enter_context(opened(url))
            workers.append(stack.enter_context(delivering(outbox, posting(receiver, patience_s), LIMITS)))
        yield workers


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param([hangs], id="hangs"),
        pytest.param([drips], id="drips"),
        pytest.param([resets, resets], id="resets"),
        pytest.param([answers(500), answers(502), answers(404)], id="errors"),
        pytest.param([answers(429, Retry_After="3600")], id="busy"),
        pytest.param([answers(503, Retry_After="Fri, 31 Dec 2100 23:59:59 GMT")], id="busy-until"),
        pytest.param([answers(302, Location="http://169.254.169.254/latest/meta-data/")], id="redirects"),
    ],
)
def test_whatever_a_receiver_does_it_gets_the_message_in_the_end_under_one_id(
    clone_database: CloneDatabase, receiver: Receiver, faults: list[Behaviour]
) -> None:
    url = clone_database("monitoring")
    receiver.script = list(faults)
    patience_s = 0.3 if faults[0] in (hangs, drips) else PATIENT_S
    with opened(url) as (database, outbox), delivered_by(receiver, url, patience_s=patience_s):
        message_id = put(database, outbox, "team", b'{"a":1}')
        eventually(lambda: states(url) == ["DELIVERED"])
    assert set(receiver.ids) == {str(message_id)}
    count = len(faults) + 1
    # Who waits for so short a time may give up a good answer as well, where the machine is busy.
    assert len(receiver.ids) == count if patience_s == PATIENT_S else len(receiver.ids) >= count
    assert {post.body for post in receiver.posts} == {b'{"a":1}'}


def test_a_redirect_to_a_private_address_is_kept_as_the_reason_and_followed_by_nobody(
    clone_database: CloneDatabase, receiver: Receiver
) -> None:
    url = clone_database("monitoring")
    with receiving() as private, opened(url) as (database, outbox), delivered_by(receiver, url):
        receiver.otherwise = answers(307, Location=private.url)
        put(database, outbox, "team", give_up_s=-1)
        eventually(lambda: states(url) == ["FAILED"])
        assert private.posts == []
    assert rows(url)[0]["error_reason"] == "REDIRECTED"


def end_leases(url: str) -> None:
    """Let the time pass that a worker which died has its messages for; so long that a slow one loses none."""
    with psycopg.connect(url) as connection:
        due = "due_time = least(due_time, clock_timestamp()), hold_time = least(hold_time, clock_timestamp())"
        connection.execute(f"UPDATE monitoring.outbox SET {due}")


@pytest.mark.slow  # a process a place
@pytest.mark.parametrize(
    ("where", "stored", "posted"), [("putting", 0, 0), ("put", 1, 0), ("claimed", 2, 0), ("delivered", 2, 1)]
)
def test_a_kill_at_any_point_loses_no_message_that_was_put(
    clone_database: CloneDatabase, receiver: Receiver, where: str, stored: int, posted: int
) -> None:
    url = clone_database("monitoring")
    command = [sys.executable, "-m", "tests.faults.outbox_worker", url, receiver.url, where]
    killed = subprocess.run(command, cwd=ROOT, timeout=240, check=False)
    assert killed.returncode == -signal.SIGKILL
    found = rows(url)
    assert len(found) in (stored, min(stored, 1))  # it may die before it puts the second
    assert len(receiver.posts) in range(posted, 3)
    end_leases(url)
    with delivered_by(receiver, url):
        eventually(lambda: states(url) == ["DELIVERED"] * len(found))
    ids = {str(row["message_id"]) for row in found}
    assert set(receiver.ids) == ids
    if where == "delivered":  # it arrived, and could not be marked: it came again under its id
        assert len(receiver.ids) > len(ids)


def test_two_replicas_send_what_many_put_at_once_once_each(clone_database: CloneDatabase, receiver: Receiver) -> None:
    url = clone_database("monitoring")
    ids: list[UUID] = []

    def put_some(number: int) -> None:
        with opened(url) as (database, outbox):
            ids.extend(put(database, outbox, f"d{number}") for _ in range(10))

    with delivered_by(receiver, url, replicas=2):
        threads = [threading.Thread(target=put_some, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        eventually(lambda: states(url) == ["DELIVERED"] * 40)
    assert Counter(receiver.ids) == Counter(map(str, ids))


@pytest.mark.slow  # a server of its own, stopped and started
def test_a_database_that_goes_away_on_the_way_loses_nothing_and_repeats_only_the_same_id(
    own_postgres_server: PostgresServer,
) -> None:
    url = own_postgres_server.clone("monitoring")
    begun, released, came = threading.Event(), threading.Event(), list[UUID]()

    def deliver(message: Message) -> None:
        came.append(message.message_id)
        begun.set()
        released.wait(60)

    with opened(url) as (database, outbox), delivering(outbox, deliver, replace(QUICK, lease_s=60)) as workers:
        first = put(database, outbox, "team")
        assert begun.wait(60)
        own_postgres_server.stop()
        with pytest.raises(Unavailable):
            put(database, outbox, "team")
        released.set()  # it arrives while nobody can write that down
        own_postgres_server.start()
        eventually(lambda: states(url) == ["DELIVERED"], within_s=60)
        second = put(database, outbox, "team")
        eventually(lambda: workers.delivered_count == 2, within_s=60)
    assert came == [first, second]


@pytest.mark.slow  # as above
def test_a_database_that_is_away_for_longer_than_the_lease_has_the_message_sent_again(
    own_postgres_server: PostgresServer, receiver: Receiver
) -> None:
    url = own_postgres_server.clone("monitoring")
    stopped = threading.Event()
    send = posting(receiver)

    def deliver(message: Message) -> None:
        send(message)
        if not stopped.is_set():
            own_postgres_server.stop()
            stopped.set()

    with opened(url) as (database, outbox), delivering(outbox, deliver, replace(QUICK, lease_s=0.2)):
        message_id = put(database, outbox, "team")
        assert stopped.wait(60)
        receiver.wait()
        own_postgres_server.start()
        eventually(lambda: states(url) == ["DELIVERED"], within_s=60)
    assert set(receiver.ids) == {str(message_id)}
