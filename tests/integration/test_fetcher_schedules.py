"""Schedules as callers meet them: a real registry, fetcher, PostgreSQL and HTTP server, through the SDK."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.api.fetcher.v1 import fetch_schedules_pb2 as schedules_pb2
from penstock.api.fetcher.v1.sources_pb2 import SourceReference
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from penstock.ids import uuid7
from tests.fetching import Place, fetching
from tests.origins import answering
from tests.postgres import PostgresServer
from tests.registry import wait_until
from tests.testdata import models

pytestmark = pytest.mark.slow
MOST = 20
RARELY = "0 3 29 2 *"
"""Not while a test runs, unless it has it come."""


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    limits = {"fetcher_max_schedules": MOST, "fetcher_webhook_allowed_hosts": "127.0.0.1"}
    with fetching(postgres_server, tmp_path_factory.mktemp("fetcher"), **limits) as running:
        yield running


@pytest.fixture(autouse=True)
def clean(place: Place) -> Iterator[None]:
    yield
    for schedule in place.client.fetcher.schedules.list():
        place.client.fetcher.schedules.delete(schedule.id)


def come_due(place: Place, schedule: schedules_pb2.FetchSchedule, *, in_s: float = -3_600) -> None:
    """Have its time come: in so long, or so long ago."""
    with psycopg.connect(place.database_url) as connection:
        connection.execute(
            "UPDATE fetcher.fetch_schedules SET next_time = clock_timestamp() + make_interval(secs => %s) "
            "WHERE schedule_id = %s",
            [in_s, schedule.id],
        )
        connection.execute("SELECT pg_notify('fetcher_fetch_schedules_changed', '')")


def turned(place: Place, schedule: schedules_pb2.FetchSchedule) -> schedules_pb2.FetchSchedule:
    """Have its time come, and wait until the service has heeded it; gives the schedule then."""
    before = schedule.last_time
    come_due(place, schedule)

    def heeded() -> schedules_pb2.FetchSchedule | None:
        now = place.client.fetcher.schedules.get(schedule.id)
        return now if now.last_time != before else None

    return wait_until(heeded)


def fetched(place: Place, schedule: schedules_pb2.FetchSchedule) -> pb.FetchJob:
    """Wait for the end of its last job, which ends well."""
    job = place.end(place.client.fetcher.get(schedule.last_job_id))
    assert job.state == pb.FETCH_JOB_STATE_COMPLETED, job.error
    return job


def test_a_schedule_fetches_when_its_time_comes(place: Place) -> None:
    url = place.origin.serve("/nightly.onnx", models.classifier())
    schedule = place.client.fetcher.schedules.create("url", url, cron=RARELY, time_zone="Europe/Berlin")
    assert (schedule.cron, schedule.time_zone, schedule.enabled) == (RARELY, "Europe/Berlin", True)
    assert schedule.next_time.ToDatetime().minute == 0
    after = turned(place, schedule)
    job = fetched(place, after)
    assert (job.schedule_id, job.result.model, job.result.version) == (schedule.id, "nightly", "v1")
    assert after.next_time.ToDatetime(UTC) > after.last_time.ToDatetime(UTC)
    assert [each.id for each in place.client.fetcher.list(schedule_id=schedule.id)] == [job.id]
    assert place.client.fetcher.schedules.get(schedule.id).last_job_state == pb.FETCH_JOB_STATE_COMPLETED


def test_an_only_time_comes_by_itself_and_names_the_version(place: Place) -> None:
    url = place.origin.serve("/once.onnx", models.classifier())
    later = datetime.now(UTC) + timedelta(days=1)
    schedule = place.client.fetcher.schedules.create("url", url, at=later, model="once", version="first")
    assert schedule.next_time.ToDatetime(UTC) == later
    with psycopg.connect(place.database_url) as connection:
        connection.execute("UPDATE fetcher.fetch_schedules SET at_time = clock_timestamp()")
    come_due(place, schedule, in_s=0.5)
    after = wait_until(lambda: _with_a_job(place, schedule.id))
    assert fetched(place, after).result.version == "first"
    assert not after.HasField("next_time")
    place.client.fetcher.schedules.disable(schedule.id)
    with pytest.raises(FailedPrecondition) as refused:
        place.client.fetcher.schedules.enable(schedule.id)
    assert refused.value.reason == "TIME_PASSED"


def test_what_updates_itself_fetches_what_is_new_into_candidate(place: Place) -> None:
    url = place.origin.serve("/moving.onnx", models.classifier())
    schedule = place.client.fetcher.schedules.create("url", url, cron=RARELY, auto_update=True, model="moving")
    first = turned(place, schedule)
    assert fetched(place, first).result.version == "v1"
    assert first.last_revision == '"one"'
    same = turned(place, first)
    assert (same.last_job_id, same.last_error.reason) == (first.last_job_id, "")
    assert same.last_check_time.ToDatetime() > first.last_check_time.ToDatetime()
    place.origin.serve("/moving.onnx", models.classifier(), etag='"two"')
    changed = turned(place, same)
    assert fetched(place, changed).result.version == "v2"
    stages = {each.version: each.stage for each in place.client.registry.list_versions("moving")}
    assert stages == {"v1": registry.STAGE_CANDIDATE, "v2": registry.STAGE_CANDIDATE}


def test_what_failed_is_fetched_again_although_nobody_kept_the_fetch_that_failed(place: Place) -> None:
    url = place.origin.serve("/damaged.onnx", b"no model")
    schedule = place.client.fetcher.schedules.create("url", url, cron=RARELY, auto_update=True, model="damaged")
    first = turned(place, schedule)
    assert place.end(place.client.fetcher.get(first.last_job_id)).state == pb.FETCH_JOB_STATE_FAILED
    place.client.fetcher.delete(first.last_job_id)
    place.origin.serve("/damaged.onnx", models.classifier())  # with the same ETag
    again = turned(place, first)
    assert again.last_job_id != first.last_job_id
    fetched(place, again)
    assert turned(place, again).last_job_id == again.last_job_id


def test_a_folder_updates_itself_by_what_its_files_have(place: Place) -> None:
    folder = place.root / "updating"
    folder.mkdir()
    (folder / "graph.onnx").write_bytes(models.classifier())
    schedule = place.client.fetcher.schedules.create("filesystem", str(folder), cron=RARELY, auto_update=True)
    first = turned(place, schedule)
    fetched(place, first)
    assert first.last_revision.startswith("files:")
    assert turned(place, first).last_job_id == first.last_job_id
    (folder / "notes.txt").write_text("of roses")
    changed = turned(place, place.client.fetcher.schedules.get(schedule.id))
    assert fetched(place, changed).result.version == "v2"


def test_a_source_that_is_away_shows_in_the_list_and_is_asked_again(place: Place) -> None:
    url = f"{place.origin.url}/later.onnx"
    schedule = place.client.fetcher.schedules.create("url", url, cron=RARELY, auto_update=True)
    failed = turned(place, schedule)
    (listed,) = place.client.fetcher.schedules.list()
    assert (listed.last_error.reason, listed.enabled, listed.last_job_id) == ("MODEL_NOT_FOUND", True, "")
    assert listed.last_error.HasField("time")
    place.origin.serve("/later.onnx", models.classifier())
    after = turned(place, failed)
    assert not after.HasField("last_error")
    fetched(place, after)


def test_a_source_that_hangs_holds_up_no_other_schedule_and_ends_with_the_process(place: Place) -> None:
    asked, gone = threading.Event(), threading.Event()

    def say(connection: socket.socket, _: str) -> None:
        asked.set()
        connection.recv(1)
        gone.set()

    client = place.client.fetcher.schedules
    with answering(say) as silent:
        hanging = client.create("url", f"{silent}/silent.onnx", cron=RARELY, auto_update=True)
        come_due(place, hanging)
        assert asked.wait(60)
        url = place.origin.serve("/beside.onnx", models.classifier())
        fetched(place, turned(place, client.create("url", url, cron=RARELY, auto_update=True)))
        assert not client.get(hanging.id).HasField("last_time")
        client.delete(hanging.id)
    assert gone.wait(60)


def test_the_end_of_each_fetch_is_told_to_whom_the_schedule_names(place: Place) -> None:
    told = threading.Event()

    def say(connection: socket.socket, head: str) -> None:
        if head.startswith("POST / "):
            told.set()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    url = place.origin.serve("/told.onnx", models.classifier())
    with answering(say) as receiver:
        schedule = place.client.fetcher.schedules.create("url", url, cron=RARELY, webhook=f"{receiver}/")
        assert schedule.webhook.url == f"{receiver}/"
        assert fetched(place, turned(place, schedule)).webhook.url == f"{receiver}/"
        assert told.wait(60)


def test_two_replicas_make_one_job(place: Place) -> None:
    url = place.origin.serve("/shared.onnx", models.classifier())
    schedule = place.client.fetcher.schedules.create("url", url, cron=RARELY, auto_update=True)
    with place.replica():
        for number in range(3):
            place.origin.serve("/shared.onnx", models.classifier(), etag=f'"{number}"')
            schedule = turned(place, place.client.fetcher.schedules.get(schedule.id))
            fetched(place, schedule)
    assert len(list(place.client.fetcher.list(schedule_id=schedule.id))) == 3


def test_what_is_switched_off_makes_nothing_and_is_not_made_up_for(place: Place) -> None:
    url = place.origin.serve("/off.onnx", models.classifier())
    client = place.client.fetcher.schedules
    schedule = client.create("url", url, cron=RARELY)
    off = client.disable(schedule.id)
    assert (off.enabled, off.HasField("next_time")) == (False, False)
    assert client.disable(schedule.id) == off, "what it is already, it stays"
    on = client.enable(schedule.id)
    assert on.next_time.seconds >= schedule.next_time.seconds
    assert not on.last_job_id
    assert [each.id for each in client.list(enabled=False)] == []
    assert [each.id for each in client.list(enabled=True)] == [schedule.id]


def test_a_deleted_schedule_leaves_its_jobs(place: Place) -> None:
    url = place.origin.serve("/left.onnx", models.classifier())
    schedule = place.client.fetcher.schedules.create("url", url, cron=RARELY)
    job = fetched(place, turned(place, schedule))
    place.client.fetcher.schedules.delete(schedule.id)
    assert place.client.fetcher.get(job.id).schedule_id == schedule.id
    assert [each.id for each in place.client.fetcher.list(schedule_id=schedule.id)] == [job.id]
    for call in (
        place.client.fetcher.schedules.get,
        place.client.fetcher.schedules.enable,
        place.client.fetcher.schedules.delete,
    ):
        for missing in (schedule.id, "nonsense"):
            with pytest.raises(NotFound) as refused:
                call(missing)
            assert refused.value.reason == "SCHEDULE_NOT_FOUND"


def test_schedules_are_listed_by_pages_and_filters(place: Place) -> None:
    client = place.client.fetcher.schedules
    url = place.origin.serve("/listed-often.onnx", models.classifier())
    made = [client.create("url", url, cron=RARELY, model=f"listed-{number % 2}").id for number in range(5)]
    assert [each.id for each in client.list(page_size=2)] == made[::-1]
    assert [each.id for each in client.list(model="listed-1")] == [made[3], made[1]]
    assert list(client.list(source="filesystem")) == []
    stub = client._connection.stub.ListFetchSchedules
    first = client._connection.unary(stub, schedules_pb2.ListFetchSchedulesRequest(page_size=2))
    for page_token, model in (("nonsense", ""), (first.next_page_token, "other")):
        request = schedules_pb2.ListFetchSchedulesRequest(page_token=page_token, model=model)
        with pytest.raises(InvalidArgument) as refused:
            client._connection.unary(stub, request)
        assert refused.value.reason == "INVALID_PAGE_TOKEN"


def test_the_same_request_makes_one_schedule_and_another_is_refused(place: Place) -> None:
    client, url = place.client.fetcher.schedules, place.origin.serve("/idem.onnx", models.classifier())
    request_id = uuid7()
    first = client.create("url", url, cron=RARELY, request_id=request_id)
    assert client.create("url", url, cron=RARELY, request_id=request_id).id == first.id
    with pytest.raises(FailedPrecondition) as refused:
        client.create("url", url, cron="0 4 29 2 *", request_id=request_id)
    assert refused.value.reason == "REQUEST_ID_REUSED"
    with psycopg.connect(place.database_url) as connection:
        connection.execute("UPDATE fetcher.fetch_schedules SET create_time = create_time - interval '8 days'")
    assert client.create("url", url, cron="0 4 29 2 *", request_id=request_id).id != first.id


def test_a_key_has_so_many_schedules_and_no_more(place: Place) -> None:
    client, url = place.client.fetcher.schedules, place.origin.serve("/many.onnx", models.classifier())
    for _ in range(MOST):
        client.create("url", url, cron=RARELY)
    with pytest.raises(ResourceExhausted) as refused:
        client._connection.unary(
            client._connection.stub.CreateFetchSchedule,
            schedules_pb2.CreateFetchScheduleRequest(source=SourceReference(source="url", reference=url), cron=RARELY),
        )
    assert refused.value.reason == "TOO_MANY_SCHEDULES"


@pytest.mark.parametrize(
    ("source", "reference", "more", "error", "reason"),
    [
        ("nowhere", "x", {}, InvalidArgument, "UNKNOWN_SOURCE"),
        ("url", "https://10.0.0.1/model.onnx", {}, FailedPrecondition, "SECURITY"),
        ("url", "https://example.org/m.onnx?token=abc", {}, InvalidArgument, "CREDENTIALS_IN_URL"),
        ("url", "https://example.org/m.onnx", {"at": -60}, InvalidArgument, "TIME_PASSED"),
        ("url", "https://example.org/m.onnx", {"at": 6 * 366 * 86_400}, InvalidArgument, "OUT_OF_BOUNDS"),
        ("url", "https://example.org/m.onnx", {"webhook": "http://169.254.1.1/"}, InvalidArgument, "URL_NOT_ALLOWED"),
    ],
)
def test_what_may_not_be_is_refused_at_once(
    place: Place, source: str, reference: str, more: dict[str, object], error: type[Exception], reason: str
) -> None:
    seconds = more.pop("at", None)
    when = {"at": datetime.now(UTC) + timedelta(seconds=seconds)} if isinstance(seconds, int) else {"cron": RARELY}
    with pytest.raises(error) as refused:
        place.client.fetcher.schedules.create(source, reference, **when, **more)  # type: ignore[arg-type] # as told
    assert refused.value.reason == reason  # type: ignore[attr-defined] # all of ours have one


def test_who_takes_requests_only_heeds_no_time(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    waiting = _waiting_threads()
    with fetching(postgres_server, tmp_path_factory.mktemp("idle"), fetcher_worker_enabled=False) as idle:
        url = idle.origin.serve("/idle.onnx", models.classifier())
        schedule = idle.client.fetcher.schedules.create("url", url, cron=RARELY)
        come_due(idle, schedule)
        assert _waiting_threads() == waiting
        with idle.replica(fetcher_worker_enabled=True):
            assert _waiting_threads() == waiting + 1
            fetched(idle, wait_until(lambda: _with_a_job(idle, schedule.id)))


def _waiting_threads() -> int:
    return sum(thread.name == "schedules" for thread in threading.enumerate())


def _with_a_job(place: Place, schedule_id: str) -> schedules_pb2.FetchSchedule | None:
    now = place.client.fetcher.schedules.get(schedule_id)
    return now if now.last_job_id else None
