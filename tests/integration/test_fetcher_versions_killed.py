"""Fetchers that die while they register: whoever takes over ends with one version, or with none.

A worker's thread dies at a step, as with its process: nothing after it is done, its lease runs out, and another takes
the job over.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock.registry
from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.channels import Connection
from penstock.errors import NotFound
from services.common.jobs import JobStore
from services.fetcher.downloading.reading import DownloadReader
from services.registry.servicer import RegistryServicer
from tests.fetching import Place, fetching
from tests.postgres import PostgresServer
from tests.registry import wait_until
from tests.testdata import models

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")]


class Killed(BaseException):
    """The end of a worker."""


class Fate:
    """Kills the first worker that comes to a step, and no other."""

    def __init__(self) -> None:
        self.met = threading.Event()

    def strike(self) -> None:
        if not self.met.is_set():
            self.met.set()
            raise Killed

    def around(self, done: Callable[..., Any], *, at: Callable[..., bool], after: bool) -> Callable[..., Any]:
        """Kill who does something, before or after it, where `at` says that this is the step."""

        def doing(*arguments: Any, **named: Any) -> Any:
            mine = threading.current_thread().name.startswith(("job-", "penstock-part")) and at(*arguments)
            if mine and not after:
                self.strike()
            answer = done(*arguments, **named)
            if mine and after:
                self.strike()
            return answer

        return doing


@pytest.fixture
def place(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Place]:
    with fetching(postgres_server, tmp_path, fetcher_lease_ms=1_000, fetcher_housekeeping_interval_ms=200) as running:
        yield running


def listed(place: Place, model: str) -> list[registry.ModelVersion]:
    try:
        return list(place.client.registry.list_versions(model, show_deleted=True))
    except NotFound:
        return []


def kill_at(monkeypatch: pytest.MonkeyPatch, how: str, rpc: str, *, after: bool) -> Fate:
    """Kill who makes a call to the registry; `how` is what makes such calls of the SDK's."""
    fate = Fate()

    def at(_: object, method: Any, *__: object) -> bool:
        return bool(method._method.decode().endswith(f"/{rpc}"))

    monkeypatch.setattr(Connection, how, fate.around(getattr(Connection, how), at=at, after=after))
    return fate


def check_one_version(place: Place, fate: Fate, job: pb.FetchJob) -> None:
    assert fate.met.is_set(), "nobody came to that step"
    assert job.state == pb.FETCH_JOB_STATE_COMPLETED, job.error
    assert (job.attempt_count, job.result.version, job.result.existed) == (2, "v1", False)
    (version,) = listed(place, job.result.model)
    assert (version.version, version.state) == ("v1", registry.VERSION_STATE_READY)


@pytest.mark.parametrize(
    ("how", "rpc", "after"),
    [
        ("upload", "RegisterVersion", False),
        ("upload", "RegisterVersion", True),
        ("unary", "GetVersion", False),
        ("unary", "GetVersion", True),
    ],
)
def test_a_kill_around_a_step_of_registering_leaves_one_version(
    place: Place, monkeypatch: pytest.MonkeyPatch, how: str, rpc: str, *, after: bool
) -> None:
    fate = kill_at(monkeypatch, how, rpc, after=after)
    url = place.origin.serve("/killed.onnx", models.classifier(), etag='"killed"')
    check_one_version(place, fate, place.fetch("url", url))


@pytest.mark.parametrize(
    ("how", "rpc", "after"),
    [
        ("unary", "CreateUpload", True),
        ("upload", "UploadPart", False),
        ("upload", "UploadPart", True),
        ("stream", "FinishUpload", True),
        ("upload", "RegisterVersion", True),
    ],
)
def test_so_does_a_kill_of_an_upload_in_parts(
    place: Place, monkeypatch: pytest.MonkeyPatch, how: str, rpc: str, *, after: bool
) -> None:
    monkeypatch.setattr(penstock.registry, "HUGE_BYTES", 0)
    fate = kill_at(monkeypatch, how, rpc, after=after)
    url = place.origin.serve("/parts.onnx", models.classifier(), etag='"parts"')
    check_one_version(place, fate, place.fetch("url", url))


def test_so_does_one_in_the_middle_of_a_files_bytes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    fate, read, count = Fate(), DownloadReader.read, itertools.count()

    def dying(*given: Any) -> bytes:
        if next(count) == 1:
            fate.strike()  # which whoever sends the bytes passes on to the worker
        return read(*given)

    monkeypatch.setattr(DownloadReader, "read", dying)
    url = place.origin.serve("/half.onnx", models.classifier(), etag='"half"')
    check_one_version(place, fate, place.fetch("url", url))


def test_so_does_one_before_the_end_is_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    fate = Fate()
    completed = fate.around(JobStore.complete, at=lambda *_: True, after=False)
    monkeypatch.setattr(JobStore, "complete", completed)
    url = place.origin.serve("/end.onnx", models.classifier(), etag='"end"')
    check_one_version(place, fate, place.fetch("url", url))


def test_one_before_the_end_of_a_version_that_was_asked_for_by_name(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    fate = Fate()
    monkeypatch.setattr(JobStore, "complete", fate.around(JobStore.complete, at=lambda *_: True, after=False))
    url = place.origin.serve("/named.onnx", models.classifier(), etag='"named"')
    check_one_version(place, fate, place.fetch("url", url, version="v1"))


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_while_what_was_refused_is_cleared_away_leaves_no_version(
    place: Place, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    fate = kill_at(monkeypatch, "unary", "DeleteVersion", after=after)
    url = place.origin.serve("/refused.onnx", b"no model", etag='"refused"')
    job = place.fetch("url", url)
    assert (fate.met.is_set(), job.error.reason, job.attempt_count) == (True, "REGISTRATION_REFUSED", 2)
    assert [version for version in listed(place, "refused") if not version.HasField("delete_time")] == []


def test_what_was_refused_is_cleared_away_although_no_attempt_was_left(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    fate = kill_at(monkeypatch, "unary", "DeleteVersion", after=False)
    url = place.origin.serve("/lost.onnx", b"no model", etag='"lost"')
    job = place.fetch("url", url, max_attempts=1)
    assert (fate.met.is_set(), job.error.reason) == (True, "WORKER_LOST")
    wait_until(lambda: all(version.HasField("delete_time") for version in listed(place, "lost")) or None)
    wait_until(lambda: place.rows("SELECT phase FROM fetcher.fetch_jobs") == [("DOWNLOADING",)] or None)


def test_what_became_ready_after_its_fetch_had_failed_is_what_the_next_one_finds(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    fate = kill_at(monkeypatch, "upload", "RegisterVersion", after=True)
    url = place.origin.serve("/late.onnx", models.classifier(), etag='"late"')
    job = place.fetch("url", url, max_attempts=1)
    assert (fate.met.is_set(), job.error.reason) == (True, "WORKER_LOST")
    wait_until(lambda: place.rows("SELECT phase FROM fetcher.fetch_jobs") == [("DOWNLOADING",)] or None)
    again = place.end(place.client.fetcher.retry(job.id))
    assert (again.result.version, again.result.existed) == ("v1", True), again.error
    (version,) = listed(place, "late")
    assert version.state == registry.VERSION_STATE_READY


@pytest.mark.parametrize("how", ["cancelled", "lost"])
def test_a_run_that_is_to_end_leaves_a_registry_that_does_not_answer(
    postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    begun, gone, seen = threading.Event(), threading.Event(), list[bool]()
    register = RegistryServicer.RegisterVersion

    def slow(servicer: Any, requests: Any, context: Any) -> Any:
        if not begun.is_set():
            context.add_callback(gone.set)
            begun.set()
            seen.append(gone.wait(20))  # else it answers at last, before the run is given up and its process with it
        return register(servicer, requests, context)

    monkeypatch.setattr(RegistryServicer, "RegisterVersion", slow)
    with fetching(postgres_server, tmp_path) as place:
        held = place.client.fetcher.start("url", place.origin.serve("/held.onnx", models.classifier(), etag='"held"'))
        assert begun.wait(60)
        if how == "cancelled":
            place.client.fetcher.cancel(held.id)
        else:
            place.rows("UPDATE fetcher.fetch_jobs SET lease_expire_time = clock_timestamp() RETURNING 1")
        job = place.end(held)
        wait_until(lambda: seen or None)
        assert seen == [True]
        ended = (pb.FETCH_JOB_STATE_CANCELLED, 1) if how == "cancelled" else (pb.FETCH_JOB_STATE_COMPLETED, 2)
        assert (job.state, job.attempt_count) == ended, job.error
        other = place.fetch("url", place.origin.serve("/next.onnx", models.classifier(seed=1), etag='"next"'))
        assert other.result.version == "v1", other.error
