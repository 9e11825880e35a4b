"""Remote workers that are called: a message when a run waits, until somebody has come for it; and no token in it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

import penstock
from penstock import errors
from penstock.api.trainer.v1 import worker_pb2 as pb
from penstock.cli.embedded.ports import free_port
from services.common.errors import FailedPrecondition
from services.common.jobs import JobState
from services.common.outbox.webhooks import signature
from services.trainer.worker.__main__ import NOT_TOLD, Worker
from services.trainer.worker.settings import WorkerSettings
from tests.outside_workers import LONG_S, SCRIPT, Elsewhere, elsewhere, finish, refused, state_of, wait_for
from tests.postgres import PostgresServer
from tests.receivers import Behaviour, Post, Receiver, answers, receiving
from tests.webhook_page import section, told_types, types_of

SECRET = "a-secret-of-sixteen-or-more"
ADDRESS = "grpcs://trainer.example:50055"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as listening:
        yield listening


@pytest.fixture(scope="module")
def database_url(postgres_server: PostgresServer) -> str:
    return postgres_server.clone("trainer")


@pytest.fixture(scope="module")
def place(database_url: str, tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Elsewhere]:
    folder = tmp_path_factory.mktemp("elsewhere")
    receivers = {
        "any": {"url": f"{receiver.url}/any"},
        "gpu": {"url": f"{receiver.url}/gpu?key=hidden", "secret": SECRET, "labels": ["gpu", "fast"]},
    }
    with calling(database_url, folder, receivers) as found:
        yield found


@contextmanager
def calling(database_url: str, folder: Path, receivers: Mapping[str, object], **more: Any) -> Iterator[Elsewhere]:
    settings: dict[str, Any] = {
        "trainer_remote_webhooks": json.dumps(receivers),
        "trainer_remote_webhook_allowed_hosts": "127.0.0.1",
        "trainer_worker_address": ADDRESS,
    }
    with elsewhere(database_url, folder, **settings, **more) as found:
        yield found


@pytest.fixture(autouse=True)
def _forgotten(receiver: Receiver) -> Iterator[None]:
    yield
    receiver.posts.clear()
    receiver.script.clear()
    receiver.otherwise = answers()


def calls_of(receiver: Receiver, run_id: UUID) -> list[Post]:
    return [post for post in list(receiver.posts) if post.document["run"]["id"] == str(run_id)]


def tried_until(place: Elsewhere, condition: Callable[[], bool]) -> None:
    """Wait until something is so, while what waits for another try is sent at once."""

    def look() -> bool:
        with place.database.transaction() as connection:
            connection.execute(
                "UPDATE trainer.outbox SET due_time = clock_timestamp() WHERE state = 'WAITING' AND attempt > 0"
                " AND hold_time <= clock_timestamp()"
            )
        return condition()

    wait_for(look)


def _has(log: bytearray, said: bytes, count: int = 1) -> bool:
    return log.count(said) >= count


def outbox(place: Elsewhere, run_id: UUID) -> list[tuple[str, str]]:
    with place.database.transaction() as connection:
        rows = connection.execute(
            "SELECT state, error_reason FROM trainer.outbox WHERE ordering_key = %s ORDER BY put_number", [str(run_id)]
        ).fetchall()
    return [(row["state"], row["error_reason"]) for row in rows]


def test_a_run_that_waits_calls_who_has_what_it_asks_for_signed_and_without_a_token(
    place: Elsewhere, receiver: Receiver, tmp_path: Path
) -> None:
    run_id = place.start(resources={"labels": ["gpu"]})
    wait_for(lambda: bool(calls_of(receiver, run_id)))
    (post,) = calls_of(receiver, run_id)
    claimed = place.client.training_worker.claim("called", ["gpu"], run_id=str(run_id))
    finish(place, claimed.run_token, tmp_path)
    assert place.ended(run_id).state is JobState.COMPLETED
    assert post.path == "/hook/gpu?key=hidden"
    stamp = int(post.headers["X-Penstock-Signature"].split(",")[0].removeprefix("t="))
    assert post.headers["X-Penstock-Signature"] == signature(SECRET, post.body, stamp)
    told = post.document
    assert told["id"] == post.message_id
    assert (told["type"], told["version"], told["state"], told["receiver"]) == ("training", 1, "WAITING", "gpu")
    assert told["trainer_address"] == ADDRESS
    waits = datetime.fromisoformat(told["deadline_time"]) - datetime.fromisoformat(told["time"])
    assert waits.total_seconds() == 1_800
    assert abs((datetime.now(UTC) - datetime.fromisoformat(told["time"])).total_seconds()) < 3_600
    assert told["run"] == {
        "id": str(run_id), "model": "iris", "recipe": "script", "type": "INITIAL", "attempt_count": 1, "labels": ["gpu"]
    }  # fmt: skip
    assert claimed.run_token not in post.body.decode()
    with place.database.transaction() as connection:
        kept = connection.execute("SELECT row_to_json(outbox)::text AS row FROM trainer.outbox").fetchall()
    assert not [row for row in kept if SECRET in row["row"] or "hidden" in row["row"]]


def test_the_page_for_receivers_says_of_each_field_the_type_that_is_sent(
    place: Elsewhere, receiver: Receiver, tmp_path: Path
) -> None:
    run_id = place.start()
    wait_for(lambda: bool(calls_of(receiver, run_id)))
    told = calls_of(receiver, run_id)[0].document
    finish(place, place.claimed().run_token, tmp_path)
    place.ended(run_id)
    message, run = told_types(section("## Of a run that waits for a worker"))
    assert message == types_of([told])
    assert run == types_of([told["run"]])


def test_a_receiver_that_fails_is_called_again_until_somebody_has_come_and_then_no_more(
    place: Elsewhere, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.script = [answers(503), answers(500)]
    run_id = place.start()
    tried_until(place, lambda: outbox(place, run_id) == [("DELIVERED", "")])
    first, *later = calls_of(receiver, run_id)
    assert [(post.message_id, post.body) for post in later] == [(first.message_id, first.body)] * 2
    assert first.path == "/hook/any"
    assert "X-Penstock-Signature" not in first.headers
    claimed = place.client.training_worker.claim("called", run_id=str(run_id))
    finish(place, claimed.run_token, tmp_path)
    assert place.ended(run_id).state is JobState.COMPLETED


def test_whatever_a_receiver_answers_but_gone_it_is_called_again_and_the_runs_log_says_why(
    place: Elsewhere, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.otherwise = answers(400)
    run_id = place.start()
    for status, more in ((400, {}), (413, {}), (422, {}), (429, {"Retry_After": "3600"})):
        receiver.otherwise = answers(status, **more)
        said = f"the call for a worker has not arrived: 127.0.0.1 answered {status} ".encode()
        tried_until(place, partial(_has, place.told[run_id].log, said))
    assert outbox(place, run_id) == [("WAITING", "RECEIVER_REFUSED")]
    with place.database.transaction() as connection:
        held = connection.execute(
            "SELECT due_time < clock_timestamp() + interval '91 s' AND hold_time < clock_timestamp() + interval '61 s'"
            " AS soon FROM trainer.outbox WHERE ordering_key = %s",
            [str(run_id)],
        ).fetchone()
        connection.execute("UPDATE trainer.outbox SET hold_time = clock_timestamp() WHERE state = 'WAITING'")
    assert held == {"soon": True}
    receiver.otherwise = answers()
    tried_until(place, lambda: outbox(place, run_id) == [("DELIVERED", "")])
    assert len({post.body for post in calls_of(receiver, run_id)}) == 1
    finish(place, place.claimed().run_token, tmp_path)
    assert place.ended(run_id).state is JobState.COMPLETED


def test_a_run_that_waited_in_vain_says_what_was_answered_where_a_worker_was_called(
    place: Elsewhere, receiver: Receiver
) -> None:
    receiver.otherwise = answers(410)
    run_id = place.start()
    said = b"the call for a worker was given up: 127.0.0.1 answered 410 Gone"
    for attempt in (1, 2, 3):
        wait_for(partial(_has, place.told[run_id].log, said, attempt))
        place.fall_silent(run_id)
    error = place.ended(run_id).error
    assert (error.reason, said.decode() in error.message) == ("EXECUTOR_UNAVAILABLE", True)
    assert outbox(place, run_id) == [("FAILED", "RECEIVER_GONE")] * 3
    assert len(calls_of(receiver, run_id)) == 3


def test_nobody_is_called_for_a_run_that_another_worker_has(
    place: Elsewhere, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.script = [answers(503)]
    run_id = place.start()
    wait_for(lambda: outbox(place, run_id) == [("WAITING", "RECEIVER_REFUSED")])
    token = place.claimed().run_token
    tried_until(place, lambda: outbox(place, run_id) == [("DELIVERED", "")])
    assert len(calls_of(receiver, run_id)) == 1
    finish(place, token, tmp_path)
    place.ended(run_id)


def test_two_calls_are_one_claim(place: Elsewhere, receiver: Receiver, tmp_path: Path) -> None:
    run_id = place.start()
    wait_for(lambda: bool(calls_of(receiver, run_id)))
    claimed: list[pb.ClaimTrainingTaskResponse] = []
    begin = threading.Barrier(2)

    def come() -> None:
        begin.wait(LONG_S)
        claimed.append(place.client.training_worker.claim("called", run_id=str(run_id)))

    threads = [threading.Thread(target=come) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    (token,) = [each.run_token for each in claimed if each.run_token]
    assert len(claimed) == 2
    finish(place, token, tmp_path)
    assert place.ended(run_id).state is JobState.COMPLETED
    assert not place.client.training_worker.claim("called", run_id=str(run_id)).run_token


def test_a_worker_that_was_called_is_given_its_run_and_no_other(place: Elsewhere, tmp_path: Path) -> None:
    first, second = place.start(), place.start(resources={"labels": ["gpu"]})
    worker = place.client.training_worker
    wait_for(lambda: bool(outbox(place, first)) and bool(outbox(place, second)))
    assert not worker.claim("called", ["gpu"], run_id=str(uuid4())).run_token
    assert not worker.claim("called", run_id=str(second)).run_token
    for run_id in (second, first):
        claimed = worker.claim("called", ["gpu"], run_id=str(run_id))
        assert claimed.task.run_id == str(run_id)
        finish(place, claimed.run_token, tmp_path)
        place.ended(run_id)
    with refused("INVALID_ID", errors.InvalidArgument):
        worker.claim("called", run_id="the first")


def test_each_attempt_calls_anew_and_a_cancelled_run_calls_nobody(
    place: Elsewhere, receiver: Receiver, tmp_path: Path
) -> None:
    run_id = place.start()
    wait_for(lambda: len(calls_of(receiver, run_id)) == 1)
    place.client.training_worker.fail(place.claimed().run_token, "WORKER_LOST", "it was told to end")
    wait_for(lambda: [post.document["run"]["attempt_count"] for post in calls_of(receiver, run_id)] == [1, 2])
    assert len({post.message_id for post in calls_of(receiver, run_id)}) == 2
    receiver.script = [answers(503)]
    cancelled = place.start()
    wait_for(lambda: outbox(place, cancelled) == [("WAITING", "RECEIVER_REFUSED")])
    place.jobs.cancel(cancelled)
    assert place.ended(cancelled).state is JobState.CANCELLED
    tried_until(place, lambda: outbox(place, cancelled) == [("DELIVERED", "")])
    assert len(calls_of(receiver, cancelled)) == 1
    finish(place, place.claimed().run_token, tmp_path)
    place.ended(run_id)


def test_where_nobody_has_what_a_run_asks_for_nobody_is_called(
    place: Elsewhere, receiver: Receiver, tmp_path: Path
) -> None:
    run_id = place.start(resources={"labels": ["tpu"]})
    claimed = place.claimed("tpu")
    assert claimed.task.run_id == str(run_id)
    assert (outbox(place, run_id), calls_of(receiver, run_id)) == ([], [])
    finish(place, claimed.run_token, tmp_path)
    place.ended(run_id)


@pytest.mark.parametrize(
    ("receivers", "reason"),
    [
        ("not JSON", "WEBHOOKS_INVALID"),
        ('{"gpu": {}}', "WEBHOOKS_INVALID"),
        ('{"g p": {"url": "https://example.org/h"}}', "WEBHOOKS_INVALID"),
        ('{"gpu": {"url": "https://example.org/h", "secret": "too-short"}}', "WEBHOOKS_INVALID"),
        ('{"gpu": {"url": "https://example.org/h", "queue": "x"}}', "WEBHOOKS_INVALID"),
        ('{"gpu": {"url": "http://10.0.0.1/h"}}', "URL_NOT_ALLOWED"),
        ('{"gpu": {"url": "https://169.254.169.254/h"}}', "URL_NOT_ALLOWED"),
        ('{"gpu": {"url": "https://user:unseen@example.org/h"}}', "URL_NOT_ALLOWED"),
        ('{"gpu": {"url": "https://example.org/h"}}', "WORKER_ADDRESS_REQUIRED"),
    ],
)
def test_a_trainer_that_cannot_call_says_so_when_it_starts_and_shows_no_secret(
    tmp_path: Path, database_url: str, receivers: str, reason: str
) -> None:
    with ExitStack() as stack, pytest.raises(FailedPrecondition) as raised:
        stack.enter_context(elsewhere(database_url, tmp_path, trains=False, trainer_remote_webhooks=receivers))
    assert raised.value.reason == reason
    assert "too-short" not in raised.value.message
    assert "unseen" not in raised.value.message


def test_a_worker_that_was_called_does_not_wait_for_a_trainer_for_ever() -> None:
    settings = WorkerSettings(
        trainer_address=f"127.0.0.1:{free_port()}", worker_run=uuid4(), worker_patience_ms=0, worker_poll_ms=50
    )
    with penstock.Client(trainer=settings.trainer_address, timeout_s=1.0) as client:
        assert Worker(settings, client).run() == NOT_TOLD


@pytest.mark.slow
def test_who_is_called_starts_a_worker_that_does_the_run_however_often_it_is_called(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        receivers = {"any": {"url": receiver.url}}
        place = stack.enter_context(calling(postgres_server.clone("trainer"), tmp_path, receivers))

        def start(status: int) -> Behaviour:
            def started(handler: Any) -> None:
                place.worker(PENSTOCK_WORKER_RUN=receiver.posts[-1].document["run"]["id"])
                answers(status)(handler)

            return started

        receiver.script = [start(500), start(202)]
        run_id = place.start(code=SCRIPT)
        tried_until(place, lambda: outbox(place, run_id) == [("DELIVERED", "")])
        job = place.ended(run_id)
        assert job.state is JobState.COMPLETED, (job.error, bytes(place.told[run_id].log), place.logs())
        assert [process.wait(LONG_S) for process in place.processes] == [0] * len(place.processes)
        assert place.told[run_id].artifact == {"model.onnx": b"a model"}
        # Whoever comes when it is over is told so.
        late = place.worker(PENSTOCK_WORKER_RUN=str(run_id))
        assert late.wait(LONG_S) == 0
        assert "it does not wait for this worker" in place.logs()
        assert state_of(place, run_id) is JobState.COMPLETED
