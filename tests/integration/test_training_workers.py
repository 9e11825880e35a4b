"""What outside workers ask for and tell: by the run's token, and by nothing else; what is said twice counts once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest

from penstock import errors
from penstock.api.trainer.v1 import worker_pb2 as pb
from services.common.blobs import open_blobs
from services.common.blobs.file import FileBlobStore
from services.common.errors import Unavailable
from services.common.jobs import JobState
from services.trainer.store import ledger_of
from services.trainer.workers.tokens import new_token
from tests.outside_workers import INPUTS, ONNX, Elsewhere, elsewhere, finish, hand_in, refused, state_of, wait_for
from tests.postgres import PostgresServer


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    with elsewhere(postgres_server.clone("trainer"), tmp_path_factory.mktemp("elsewhere")) as found:
        yield found


def test_a_worker_brings_what_belongs_to_a_run_tells_how_it_goes_and_hands_in_a_version(
    place: Elsewhere, tmp_path: Path
) -> None:
    run_id, token = place.begun()
    worker = place.client.training_worker
    task = worker.get_task(token)
    assert (task.model, task.recipe, task.attempt) == ("iris", "script", 1)
    for file in task.inputs:
        worker.download_input(token, file, tmp_path / "run")
    assert {name: (tmp_path / "run" / name).read_bytes() for name in INPUTS} == INPUTS
    assert {file.path for file in task.inputs} == set(INPUTS)
    worker.report(token, 1, epochs=[pb.TaskEpoch(number=1, metrics={"loss": 0.5}, total=2)], log=b"one\n")
    hand_in(place.client, token, tmp_path, {"deep/state": b"two"}, kind="CHECKPOINT", epoch=1)
    worker.report(token, 2, epochs=[pb.TaskEpoch(number=2, metrics={"loss": 0.25}, total=2)], log=b"two\n")
    assert hand_in(place.client, token, tmp_path, {"model.onnx": b"a model", "words/a.txt": b"a"}) == 8
    worker.complete(token, ONNX)
    assert place.ended(run_id).state is JobState.COMPLETED
    told = place.told[run_id]
    assert [(epoch.number, dict(epoch.metrics), epoch.total) for epoch in told.epochs] == [
        (1, {"loss": 0.5}, 2),
        (2, {"loss": 0.25}, 2),
    ]
    assert bytes(told.log) == b"one\ntwo\n"
    assert told.checkpoints == [(1, {"deep/state": b"two"})]
    assert told.artifact == {"model.onnx": b"a model", "words/a.txt": b"a"}
    assert told.outcome is not None
    assert (told.outcome.framework, told.outcome.label, told.outcome.metrics) == (
        "ONNX", "label", {"test": {"accuracy": 0.75}}
    )  # fmt: skip
    with place.database.transaction() as connection:
        kept = connection.execute("SELECT name FROM trainer.named_blobs WHERE owner_id = %s", [run_id]).fetchall()
    assert kept == []


def test_an_upload_does_not_wait_once_a_file_for_a_store_that_takes_no_deletions(
    place: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, token = place.begun()
    asked: list[str] = []

    def refuse(self: FileBlobStore, sha256: str) -> None:
        del self
        asked.append(sha256)
        raise Unavailable("the store does not answer", reason="BLOB_STORE_UNAVAILABLE")

    monkeypatch.setattr(FileBlobStore, "delete", refuse)
    for epoch in (b"1", b"2"):
        checkpoint = {f"shard/{number}": epoch * number for number in range(1, 5)}
        assert hand_in(place.client, token, tmp_path, checkpoint, kind="CHECKPOINT", epoch=int(epoch)) == 10
    assert len(asked) == 1
    finish(place, token, tmp_path)
    assert place.ended(run_id).state is JobState.COMPLETED
    monkeypatch.undo()
    assert ledger_of(place.database).collect(open_blobs(f"file://{place.folder}/blobs", prefix="trainer"), 3_600) == 4


def test_a_wrong_token_opens_nothing(place: Elsewhere, tmp_path: Path) -> None:
    run_id, token = place.begun()
    worker = place.client.training_worker
    for wrong in ("", "short", new_token(), token[:-1] + ("A" if token[-1] != "A" else "B"), "ä" * 43):
        with refused("INVALID_RUN_TOKEN", errors.Unauthenticated):
            worker.get_task(wrong)
        with refused("INVALID_RUN_TOKEN", errors.Unauthenticated):
            worker.report(wrong, 1)
        with refused("INVALID_RUN_TOKEN", errors.Unauthenticated):
            hand_in(place.client, wrong, tmp_path, {"model.onnx": b"other"})
        with refused("INVALID_RUN_TOKEN", errors.Unauthenticated):
            worker.complete(wrong, ONNX)
        with refused("INVALID_RUN_TOKEN", errors.Unauthenticated):
            worker.fail(wrong, "TRAINING_FAILED", "")
        with refused("INVALID_RUN_TOKEN", errors.Unauthenticated):
            worker.download_input(wrong, pb.TrainingInput(path="data/train.parquet"), tmp_path)
    finish(place, token, tmp_path)
    assert place.ended(run_id).state is JobState.COMPLETED


def test_a_token_is_kept_as_its_digest_alone(place: Elsewhere, tmp_path: Path) -> None:
    run_id, token = place.begun()
    with place.database.transaction() as connection:
        rows = connection.execute(
            "SELECT row_to_json(tasks)::text || (SELECT row_to_json(runs)::text FROM trainer.training_runs AS runs"
            " WHERE job_id = run_id) AS row FROM trainer.outside_tasks AS tasks WHERE run_id = %s",
            [run_id],
        ).fetchall()
    assert token not in rows[0]["row"]
    finish(place, token, tmp_path)
    place.ended(run_id)


def every_callback(place: Elsewhere, token: str, folder: Path) -> dict[str, Callable[[], object]]:
    worker = place.client.training_worker
    return {
        "get": lambda: worker.get_task(token),
        "download": lambda: worker.download_input(token, pb.TrainingInput(path="data/train.parquet"), folder),
        "report": lambda: worker.report(token, 1_000, log=b"late"),
        "checkpoint": lambda: hand_in(place.client, token, folder, {"state": b"late"}, kind="CHECKPOINT", epoch=9),
        "artifact": lambda: hand_in(place.client, token, folder, {"model.onnx": b"late"}),
        "complete": lambda: worker.complete(token, ONNX),
        "fail": lambda: worker.fail(token, "TRAINING_FAILED", "late"),
    }


def void_by(place: Elsewhere, how: str, folder: Path) -> tuple[UUID, str, str]:
    """Have a run whose token is void; gives the token that is good in its place, or ''."""
    run_id, token = place.begun()
    worker = place.client.training_worker
    match how:
        case "another worker":
            worker.fail(token, "WORKER_LOST", "it was told to end")
            return run_id, token, place.claimed().run_token
        case "completion":
            finish(place, token, folder)
        case "failure":
            worker.fail(token, "INVALID_DATA", "one class only")
        case "cancellation":
            place.jobs.cancel(run_id)
    place.ended(run_id)
    return run_id, token, ""


@pytest.mark.parametrize("how", ["another worker", "completion", "failure", "cancellation"])
def test_by_a_token_that_is_void_nothing_can_be_asked_told_or_handed_in(
    place: Elsewhere, tmp_path: Path, how: str
) -> None:
    run_id, token, good = void_by(place, how, tmp_path)
    before = place.jobs.get(run_id)
    for name, callback in every_callback(place, token, tmp_path).items():
        with pytest.raises(errors.PermissionDenied) as raised:
            callback()
        assert raised.value.reason == "RUN_TOKEN_VOID", name
    assert place.jobs.get(run_id).state is before.state
    if good:
        finish(place, good, tmp_path)
        assert place.ended(run_id).state is JobState.COMPLETED
        assert place.told[run_id].artifact == {"model.onnx": b"a model"}
    assert (place.told[run_id].checkpoints, b"late" in place.told[run_id].log) == ([], False)


def test_a_deleted_runs_token_is_nobodys(place: Elsewhere, tmp_path: Path) -> None:
    run_id, token, _ = void_by(place, "failure", tmp_path)
    place.jobs.delete(run_id)
    for callback in every_callback(place, token, tmp_path).values():
        with refused("INVALID_RUN_TOKEN", errors.Unauthenticated):
            callback()


def test_a_used_token_is_void_and_the_same_completion_again_is_answered_as_before(
    place: Elsewhere, tmp_path: Path
) -> None:
    run_id, token = place.begun()
    worker = place.client.training_worker
    with place.database.transaction() as connection:  # its trainer does not come to read the end
        connection.execute("SELECT FROM trainer.training_runs WHERE job_id = %s FOR UPDATE", [run_id])
        finish(place, token, tmp_path)
        worker.complete(token, ONNX)
        for again in (
            lambda: worker.complete(token, pb.TrainingOutcome(framework="TENSORFLOW")),
            lambda: worker.fail(token, "TRAINING_FAILED", "after all"),
            lambda: worker.report(token, 1, log=b"late"),
            lambda: worker.get_task(token),
            lambda: hand_in(place.client, token, tmp_path, {"model.onnx": b"another"}),
        ):
            with refused("RUN_TOKEN_VOID"):
                again()
    assert place.ended(run_id).state is JobState.COMPLETED
    assert place.told[run_id].artifact == {"model.onnx": b"a model"}
    with refused("RUN_TOKEN_VOID"):
        worker.complete(token, ONNX)


def test_a_failure_said_twice_is_one_and_a_completion_after_it_is_refused(place: Elsewhere) -> None:
    run_id, token = place.begun()
    worker = place.client.training_worker
    with place.database.transaction() as connection:
        connection.execute("SELECT FROM trainer.training_runs WHERE job_id = %s FOR UPDATE", [run_id])
        worker.fail(token, "INVALID_DATA", "one class only")
        worker.fail(token, "INVALID_DATA", "one class only")
        with refused("RUN_TOKEN_VOID"):
            worker.fail(token, "INVALID_DATA", "two classes")
        with refused("RUN_TOKEN_VOID"):
            worker.complete(token, ONNX)
    job = place.ended(run_id)
    assert (job.state, job.error.reason, job.error.message) == (JobState.FAILED, "INVALID_DATA", "one class only")


def test_a_reason_that_nobody_knows_is_training_failed(place: Elsewhere) -> None:
    run_id, token = place.begun()
    place.client.training_worker.fail(token, "ON_STRIKE", "")
    assert place.ended(run_id).error.reason == "TRAINING_FAILED"


def test_a_report_that_was_heard_is_not_heard_again(place: Elsewhere, tmp_path: Path) -> None:
    run_id, token = place.begun()
    worker = place.client.training_worker
    for sequence, log in ((1, b"one "), (1, b"one "), (2, b"two "), (1, b"one "), (3, b"three")):
        worker.report(token, sequence, log=log)
    finish(place, token, tmp_path)
    place.ended(run_id)
    assert bytes(place.told[run_id].log) == b"one two three"


def test_a_cancelled_runs_worker_hears_it_and_its_token_is_void(place: Elsewhere, tmp_path: Path) -> None:
    run_id, token = place.begun()
    worker = place.client.training_worker
    with place.database.transaction() as connection:  # its trainer does not come to write the end
        connection.execute("UPDATE trainer.training_runs SET cancel_time = now() WHERE job_id = %s", [run_id])
    with suppress(errors.PermissionDenied):  # or the trainer was quicker, and nothing of the run is left
        assert worker.report(token, 1) is True
    with refused("RUN_TOKEN_VOID"):
        worker.complete(token, ONNX)
    assert place.ended(run_id).state is JobState.CANCELLED
    with refused("RUN_TOKEN_VOID"):
        worker.report(token, 2)


def test_a_worker_that_gives_up_is_followed_by_another_with_a_token_of_its_own(
    place: Elsewhere, tmp_path: Path
) -> None:
    run_id, token = place.begun()
    worker = place.client.training_worker
    hand_in(place.client, token, tmp_path, {"state": b"five"}, kind="CHECKPOINT", epoch=5)
    worker.fail(token, "WORKER_LOST", "it was told to end")
    second = place.claimed()
    assert (second.task.run_id, second.task.attempt) == (str(run_id), 2)
    assert second.run_token != token
    assert place.told[run_id].checkpoints == [(5, {"state": b"five"})]
    with refused("RUN_TOKEN_VOID"):
        worker.report(token, 1)
    finish(place, second.run_token, tmp_path)
    assert place.ended(run_id).state is JobState.COMPLETED


def test_a_worker_is_given_what_asks_for_no_more_than_it_has(place: Elsewhere, tmp_path: Path) -> None:
    run_id = place.start(resources={"labels": ["gpu", "fast"]})
    wait_for(lambda: state_of(place, run_id) is JobState.RUNNING)
    for labels in ((), ("gpu",), ("slow", "fast")):
        assert not place.client.training_worker.claim("worker", labels).run_token
    claimed = place.claimed("fast", "gpu", "new")
    assert claimed.task.run_id == str(run_id)
    assert not place.client.training_worker.claim("worker", ("fast", "gpu")).run_token
    finish(place, claimed.run_token, tmp_path)
    place.ended(run_id)


def test_resources_that_cannot_be_meant_fail_the_run(place: Elsewhere) -> None:
    job = place.ended(place.start(resources={"gpus": "many"}))
    assert (job.state, job.error.reason) == (JobState.FAILED, "INVALID_PARAMETERS")
    assert job.error.message.startswith("resources.gpus: ")
