"""Runs that are trained elsewhere go on while trainers come and go, and are given to others where workers do."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

import penstock
from penstock import errors
from services.common.jobs import Concurrency, JobRun, JobState, LeaseLost, Stopped, StopReason
from services.trainer.executing.outside import OutsideExecutor, Submission
from services.trainer.executing.remote import RemotePlace
from services.trainer.runs.models import ExecutorName
from services.trainer.task import Event, RunFolder
from services.trainer.workers.files import OutsideFiles
from services.trainer.workers.models import OutsideTask, TaskState
from services.trainer.workers.store import OutsideStore
from services.trainer.workers.tokens import digest_of
from tests.outside_workers import (
    LONG_S,
    SCRIPT,
    Elsewhere,
    elsewhere,
    finish,
    hand_in,
    in_background,
    refused,
    state_of,
    wait_for,
)
from tests.postgres import PostgresServer


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    """Nobody follows runs but who is started."""
    with elsewhere(postgres_server.clone("trainer"), tmp_path_factory.mktemp("elsewhere"), trains=False) as found:
        yield found


def test_a_trainer_that_drains_leaves_the_worker_at_work_and_the_next_one_follows_it(
    place: Elsewhere, tmp_path: Path
) -> None:
    worker = place.client.training_worker
    with place.trainer():
        run_id, token = place.begun()
        worker.report(token, 1, log=b"one ")
        wait_for(lambda: bytes(place.told[run_id].log) == b"one ")
    assert state_of(place, run_id) is JobState.QUEUED
    assert worker.report(token, 2, log=b"two ") is False
    with place.trainer():
        worker.report(token, 3, log=b"three")
        finish(place, token, tmp_path)
        job = place.ended(run_id)
    assert (job.state, bytes(place.told[run_id].log)) == (JobState.COMPLETED, b"one two three")
    assert place.told[run_id].artifact == {"model.onnx": b"a model"}


def test_a_worker_that_is_done_before_anybody_follows_again_is_done(place: Elsewhere, tmp_path: Path) -> None:
    with place.trainer():
        run_id, token = place.begun()
    finish(place, token, tmp_path)
    with place.trainer():
        job = place.ended(run_id)
    assert (job.state, place.told[run_id].artifact) == (JobState.COMPLETED, {"model.onnx": b"a model"})


def test_a_run_waits_for_a_worker_no_longer_than_it_was_said_however_many_trainers_follow_it(
    place: Elsewhere, tmp_path: Path
) -> None:
    store = OutsideStore(place.database)

    def waits_as(run_id: UUID, number: int) -> bool:
        task = store.latest(run_id)
        return task is not None and (task.number, task.state) == (number, TaskState.WAITING)

    with place.trainer():
        run_id = place.start()
        wait_for(lambda: waits_as(run_id, 1))
    place.fall_silent(run_id)
    with place.trainer():
        wait_for(lambda: waits_as(run_id, 2))
        finish(place, place.claimed().run_token, tmp_path)
        assert place.ended(run_id).state is JobState.COMPLETED


def test_a_run_that_is_cancelled_while_nobody_follows_it_leaves_nothing_told_and_no_token(place: Elsewhere) -> None:
    worker = place.client.training_worker
    with place.trainer():
        run_id, token = place.begun()
    worker.report(token, 1, log=b"to nobody")
    assert place.jobs.cancel(run_id).state is JobState.CANCELLED
    with place.database.transaction() as connection:
        for table in (
            "outside_events JOIN trainer.outside_tasks USING (task_id) WHERE run_id",
            "named_blobs WHERE owner_id",
        ):
            left = connection.execute(f"SELECT FROM trainer.{table} = %s", [run_id]).fetchall()
            assert left == [], table
    with refused("RUN_TOKEN_VOID"):
        worker.report(token, 2)


def test_what_is_told_between_two_looks_just_before_the_end_is_heard(
    place: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, store = place.client.training_worker, OutsideStore
    told, ending = store.told, list[str]()

    def told_and_ended(self: OutsideStore, task_id: UUID) -> list[tuple[int, list[Event]]]:
        found = told(self, task_id)
        if ending:
            token = ending.pop()
            worker.report(token, 1, log=b"last words")
            worker.fail(token, "TRAINING_FAILED", "it raised")
        return found

    monkeypatch.setattr(store, "told", told_and_ended)
    with place.trainer():
        run_id, token = place.begun()
        ending.append(token)
        assert place.ended(run_id).state is JobState.FAILED
    assert bytes(place.told[run_id].log) == b"last words"


def test_a_silent_workers_run_is_given_to_another_and_its_token_is_void(place: Elsewhere, tmp_path: Path) -> None:
    worker = place.client.training_worker
    with place.trainer():
        run_id, token = place.begun()
        hand_in(place.client, token, tmp_path, {"state": b"five"}, kind="CHECKPOINT", epoch=5)
        place.fall_silent(run_id)
        second = place.claimed()
        assert (second.task.run_id, second.task.attempt) == (str(run_id), 2)
        with refused("RUN_TOKEN_VOID"):
            finish(place, token, tmp_path)
        finish(place, second.run_token, tmp_path)
        assert place.ended(run_id).state is JobState.COMPLETED
    assert place.told[run_id].checkpoints == [(5, {"state": b"five"})]
    with refused("RUN_TOKEN_VOID"):
        worker.get_task(token)


def attempt(place: Elsewhere) -> JobRun:
    """Have an attempt at the run that is next, which this test is the work of."""
    claimed = place.jobs.claim("test", LONG_S, Concurrency())
    assert claimed is not None
    return JobRun(place.jobs, *claimed, LONG_S)


def lose(place: Elsewhere, run_id: UUID) -> JobRun:
    """Have an attempt lose its run without knowing; gives the next one."""
    with place.database.transaction() as connection:
        ago = "UPDATE trainer.training_runs SET lease_expire_time = now() - interval '1 s' WHERE job_id = %s"
        connection.execute(ago, [run_id])
    assert place.jobs.sweep() == 1
    return attempt(place)


def following(place: Elsewhere, run: JobRun) -> threading.Thread:
    """Follow a run from a thread, until it has ended there or is stopped."""

    def follow() -> None:
        with suppress(Stopped):
            place.work(run)

    return in_background(follow)


class Cluster(RemotePlace):
    """A place that notes what is submitted to it."""

    submits = True

    def __init__(self) -> None:
        self.submitted: list[str] = []

    def submit(self, submission: Submission) -> None:
        self.submitted.append(submission.name)


@pytest.mark.parametrize("submits", [False, True])
def test_a_trainer_that_loses_a_run_while_it_offers_its_files_has_no_worker_begin(
    place: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, submits: bool
) -> None:
    cluster, remote = Cluster(), place.outside.executors[ExecutorName.REMOTE]
    assert isinstance(remote, OutsideExecutor)
    executors = {ExecutorName.REMOTE: OutsideExecutor(cluster, remote._parts)} if submits else place.outside.executors
    monkeypatch.setattr(place, "outside", replace(place.outside, executors=executors))
    offer, rescues = OutsideFiles.offer, list[JobRun]()

    def offered_and_lost(self: OutsideFiles, task: OutsideTask, folder: RunFolder, check: Callable[[], None]) -> None:
        offer(self, task, folder, check)
        if not rescues:
            rescues.append(lose(place, run_id))

    monkeypatch.setattr(OutsideFiles, "offer", offered_and_lost)
    run_id = place.start()
    with pytest.raises(LeaseLost):
        place.work(attempt(place))
    assert not place.client.training_worker.claim("worker").run_token
    assert cluster.submitted == []
    rescue = following(place, rescues[0])
    if submits:
        wait_for(lambda: cluster.submitted == [f"penstock-{run_id}-2"])
        rescues[0].stop(StopReason.CANCELLED)
    else:
        finish(place, place.claimed().run_token, tmp_path)
    rescue.join(LONG_S)
    with rescues[0].holding() as connection:
        place.jobs.complete(connection, rescues[0].lease, {})


def test_a_trainer_that_has_lost_a_run_gives_no_worker_up_whom_another_follows(
    place: Elsewhere, tmp_path: Path
) -> None:
    run_id = place.start()
    lost = attempt(place)
    follows = following(place, lost)
    token = place.claimed().run_token
    rescue = lose(place, run_id)
    with pytest.raises(LeaseLost):
        OutsideStore(place.database).give_up(run_id, lost.job.attempt)
    assert place.client.training_worker.report(token, 1) is False
    lost.stop(StopReason.LEASE_LOST)
    follows.join(LONG_S)
    adopts = following(place, rescue)
    finish(place, token, tmp_path)
    adopts.join(LONG_S)
    assert place.told[run_id].artifact == {"model.onnx": b"a model"}
    with rescue.holding() as connection:
        place.jobs.complete(connection, rescue.lease, {})


def test_runs_whose_workers_are_all_lost_fail_and_say_that_trying_again_may_help(place: Elsewhere) -> None:
    with place.trainer():
        run_id, token = place.begun()
        for _ in range(2):
            place.client.training_worker.fail(token, "WORKER_LOST", "it was told to end")
            token = place.claimed().run_token
        place.client.training_worker.fail(token, "WORKER_LOST", "it was told to end")
        job = place.ended(run_id)
    assert (job.state, job.attempt, job.error.reason) == (JobState.FAILED, 3, "WORKER_LOST")


@pytest.mark.slow
def test_a_worker_of_its_own_process_asks_for_a_run_and_does_it(place: Elsewhere) -> None:
    process = place.worker(PENSTOCK_WORKER_ONCE="true")
    with place.trainer():
        run_id = place.start(code=SCRIPT)
        assert process.wait(LONG_S) == 0, place.logs()
        job = place.ended(run_id)
    told = place.told[run_id]
    assert job.state is JobState.COMPLETED, (job.error, bytes(told.log), place.logs())
    assert [epoch.number for epoch in told.epochs] == [1, 2]
    assert b"from nothing" in told.log
    assert told.checkpoints == [(2, {"begun": b"yes", "state": b"one"})]
    assert told.artifact == {"model.onnx": b"a model"}
    assert told.outcome is not None
    assert told.outcome.metrics == {"test": {"accuracy": 0.5}}
    assert [column.name for column in told.outcome.features] == ["x"]


@pytest.mark.slow
def test_a_recipe_that_raises_elsewhere_fails_the_run_with_its_own_words(place: Elsewhere) -> None:
    process = place.worker(PENSTOCK_WORKER_ONCE="true")
    with place.trainer():
        run_id = place.start(code=SCRIPT, sour=True)
        assert process.wait(LONG_S) == 0, place.logs()
        job = place.ended(run_id)
    assert (job.state, job.error.reason) == (JobState.FAILED, "TRAINING_FAILED"), place.logs()
    assert b"these rows taste bad" in place.told[run_id].log


@pytest.mark.slow
def test_a_worker_that_is_killed_is_followed_by_another_from_the_last_checkpoint(place: Elsewhere) -> None:
    first = place.worker(PENSTOCK_WORKER_NAME="first")
    with place.trainer():
        run_id = place.start(code=SCRIPT, hang=True)
        wait_for(lambda: bool(place.told[run_id].checkpoints))
        os.kill(first.pid, signal.SIGKILL)
        first.wait(LONG_S)
        place.fall_silent(run_id)
        second = place.worker(PENSTOCK_WORKER_NAME="second", PENSTOCK_WORKER_ONCE="true")
        wait_for(lambda: b"from a checkpoint" in place.told[run_id].log)
        place.jobs.cancel(run_id)
        assert place.ended(run_id).state is JobState.CANCELLED
        assert second.wait(LONG_S) == 0, place.logs()


@pytest.mark.slow
def test_a_worker_that_is_told_to_end_gives_its_run_up_at_once(place: Elsewhere) -> None:
    first = place.worker()
    with place.trainer():
        run_id = place.start(code=SCRIPT, hang=True)
        wait_for(lambda: bool(place.told[run_id].checkpoints))
        first.send_signal(signal.SIGTERM)
        assert first.wait(LONG_S) == 0, place.logs()
        wait_for(lambda: place.jobs.get(run_id).attempt == 2)
        place.jobs.cancel(run_id)
        assert place.ended(run_id).state is JobState.CANCELLED


@pytest.mark.slow
def test_a_worker_with_a_runs_token_does_that_run_and_one_with_none_that_is_good_says_so(place: Elsewhere) -> None:
    with place.trainer():
        run_id, token = place.begun(code=SCRIPT)
        assert place.worker(PENSTOCK_RUN_TOKEN=token).wait(LONG_S) == 0, place.logs()
        assert place.ended(run_id).state is JobState.COMPLETED
    void, wrong = place.worker(PENSTOCK_RUN_TOKEN=token), place.worker(PENSTOCK_RUN_TOKEN="nobody's")
    assert (void.wait(LONG_S), wrong.wait(LONG_S)) == (1, 1)
    said = place.logs()
    assert "RUN_TOKEN_VOID" in said
    assert "INVALID_RUN_TOKEN" in said
    assert token not in said
    assert digest_of(token) not in said


def test_a_token_is_not_sent_to_another_machine_in_plain_text(place: Elsewhere) -> None:

    with penstock.Client(trainer="192.0.2.1:50055", token="") as client:
        with refused("TOKEN_OVER_INSECURE_CHANNEL", errors.InvalidArgument):
            client.training_worker.get_task("a token")
        with refused("TOKEN_OVER_INSECURE_CHANNEL", errors.InvalidArgument):
            client.training_worker.complete("a token", None)  # type: ignore[arg-type] # refused before it is looked at
