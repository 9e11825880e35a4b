"""Checkpoints take each other's place: one is kept, and nothing that anybody needs goes with those before it."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import grpc
import pytest

from penstock.api.trainer.v1 import worker_pb2 as pb
from services.common.blobs import open_blobs
from services.common.errors import Unavailable
from services.common.jobs import Concurrency, JobRun, JobState, LeaseLost
from services.trainer.runs.folders import CHECKPOINT, Folders
from services.trainer.store import NamedBlobs, PassingBlobs, RunFiles, ledger_of
from services.trainer.workers.files import OutsideFiles
from services.trainer.workers.models import HandedFile
from tests.outside_workers import (
    INPUTS,
    LONG_S,
    Elsewhere,
    elsewhere,
    files_of,
    finish,
    hand_in,
    in_background,
    wait_for,
)
from tests.postgres import PostgresServer


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    """Who follows runs follows what outside workers do; local runs are the tests' own."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with elsewhere(postgres_server.clone("trainer"), folder, trains=False) as found:
        yield found


@pytest.fixture(autouse=True)
def _clean(place: Elsewhere) -> Iterator[None]:
    """Nothing of a test is left for the next one to count."""
    yield
    tidy(place)
    assert blobs_of(place) == set()


def tidy(place: Elsewhere) -> None:
    """Do what the housekeeping does, without its patience."""
    files = RunFiles(place.database)
    with place.database.transaction() as connection:
        connection.execute("DELETE FROM trainer.training_runs WHERE end_time IS NOT NULL")
    files.expire(0)
    blobs = open_blobs(f"file://{place.folder}/blobs", prefix="trainer")
    files.ledger.collect(blobs, 0)


def blobs_of(place: Elsewhere) -> set[str]:
    """Give the blobs that take room, by digest; what the table knows is what is there."""
    blobs = open_blobs(f"file://{place.folder}/blobs", prefix="trainer")
    stored = {blob.sha256 for blob, _ in blobs.list()}
    with place.database.transaction() as connection:
        known = {row["sha256"] for row in connection.execute("SELECT sha256 FROM trainer.blobs").fetchall()}
    assert stored == known
    return stored


def folders_of(place: Elsewhere) -> Folders:
    blobs = open_blobs(f"file://{place.folder}/blobs", prefix="trainer")
    return Folders(PassingBlobs(place.database, blobs), 10_000)


def local_run(place: Elsewhere) -> JobRun:
    """Have an attempt at a run that this test is the work of."""
    claimed = place.jobs.claim("test", LONG_S, Concurrency())
    assert claimed is not None
    return JobRun(place.jobs, *claimed, LONG_S)


def end(place: Elsewhere, run: JobRun) -> None:
    with run.holding() as connection:
        place.jobs.complete(connection, run.lease, {})


def checkpoint(folder: Path, content: str) -> Path:
    made = folder / "checkpoint"
    made.mkdir(exist_ok=True)
    (made / "state").write_text(content)
    return made


def restored(folders: Folders, run: JobRun, folder: Path) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(dir=folder) as path:
        target = Path(path, "restored")
        target.mkdir()
        assert folders.restore(run, CHECKPOINT, target)
        return files_of(target)


def test_of_many_checkpoints_of_a_run_one_is_kept(place: Elsewhere, tmp_path: Path) -> None:
    place.start()
    run, folders = local_run(place), folders_of(place)
    for number in range(20):
        folders.keep(run, CHECKPOINT, checkpoint(tmp_path, f"{number}"))
        assert len(blobs_of(place)) == 1
    folders.keep(run, CHECKPOINT, tmp_path / "checkpoint")
    assert len(blobs_of(place)) == 1
    assert restored(folders, run, tmp_path) == {"state": b"19"}
    end(place, run)


def test_who_has_lost_a_run_replaces_no_checkpoint_that_a_rescue_reads(place: Elsewhere, tmp_path: Path) -> None:
    run_id = place.start()
    lost, folders = local_run(place), folders_of(place)
    folders.keep(lost, CHECKPOINT, checkpoint(tmp_path, "before"))
    with place.database.transaction() as connection:
        connection.execute(
            "UPDATE trainer.training_runs SET lease_expire_time = now() - interval '1 s' WHERE job_id = %s", [run_id]
        )
    assert place.jobs.sweep() == 1
    rescue = local_run(place)
    with pytest.raises(LeaseLost):
        folders.keep(lost, CHECKPOINT, checkpoint(tmp_path, "of nobody"))
    assert restored(folders, rescue, tmp_path) == {"state": b"before"}
    folders.keep(rescue, CHECKPOINT, checkpoint(tmp_path, "after"))
    assert restored(folders, rescue, tmp_path) == {"state": b"after"}
    assert len(blobs_of(place)) == 2, "and that of nobody goes with the run"
    end(place, rescue)


def test_of_many_checkpoints_of_an_outside_worker_one_is_kept(place: Elsewhere, tmp_path: Path) -> None:
    with place.trainer():
        run_id, token = place.begun()
        before = len(blobs_of(place))
        assert before == len(INPUTS)
        for number in range(1, 13):
            files = {"state": f"{number}".encode(), "words": b"always the same", f"only/{number}": b""}
            hand_in(place.client, token, tmp_path, files, kind="CHECKPOINT", epoch=number)
            assert len(blobs_of(place)) == before + 3
        wait_for(lambda: bool(place.told[run_id].checkpoints) and place.told[run_id].checkpoints[-1] == (12, files))
        for model in (b"a draft", b"a model"):
            hand_in(place.client, token, tmp_path, {"model.onnx": model})
            assert len(blobs_of(place)) == before + 4
        finish(place, token, tmp_path)
        assert place.ended(run_id).state is JobState.COMPLETED


def test_a_checkpoint_that_is_replaced_while_it_is_brought_is_passed_over_for_the_next(
    place: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring, newer = OutsideFiles._bring, [{"a": b"newer a", "b": b"newer b"}]

    def replaced_and_brought(self: OutsideFiles, file: HandedFile, folder: Path) -> None:
        if file.path == "b" and newer:
            hand_in(place.client, token, tmp_path, newer.pop(), kind="CHECKPOINT", epoch=2)
        bring(self, file, folder)

    with place.trainer():
        run_id, token = place.begun()
        monkeypatch.setattr(OutsideFiles, "_bring", replaced_and_brought)
        hand_in(place.client, token, tmp_path, {"a": b"older a", "b": b"older b"}, kind="CHECKPOINT", epoch=1)
        wait_for(lambda: bool(place.told[run_id].checkpoints))
        finish(place, token, tmp_path)
        place.ended(run_id)
    assert place.told[run_id].checkpoints == [(2, {"a": b"newer a", "b": b"newer b"})]


def names_of(place: Elsewhere, run_id: UUID) -> list[str]:
    with place.database.transaction() as connection:
        rows = connection.execute("SELECT name FROM trainer.named_blobs WHERE owner_id = %s", [run_id]).fetchall()
    return [row["name"] for row in rows]


def slow_upload(
    place: Elsewhere, run_id: UUID, token: str, files: dict[str, bytes], go_on: threading.Event
) -> grpc.Future[pb.UploadTrainingOutputResponse]:
    """Begin to hand in a checkpoint of several files, of which the last ends when it may; the others are stored."""

    def messages() -> Iterator[pb.UploadTrainingOutputRequest]:
        header = pb.OutputHeader(
            run_token=token, kind=pb.OUTPUT_KIND_CHECKPOINT, epoch=3, file_count=len(files)
        )  # fmt: skip
        yield pb.UploadTrainingOutputRequest(header=header)
        for path, content in files.items():
            file = pb.OutputFile(path=path, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
            yield pb.UploadTrainingOutputRequest(file=file)
            yield pb.UploadTrainingOutputRequest(chunk=content)
        assert go_on.wait(LONG_S)

    upload: grpc.Future[pb.UploadTrainingOutputResponse] = (
        place.client.training_worker._connection.stub.UploadTrainingOutput.future(messages(), timeout=LONG_S)
    )
    wait_for(lambda: any("/coming/" in name for name in names_of(place, run_id)))
    return upload


def test_bytes_that_are_on_their_way_into_another_run_are_not_deleted_with_what_is_replaced(
    place: Elsewhere, tmp_path: Path
) -> None:
    replaced = threading.Event()
    with place.trainer():
        first, token = place.begun()
        second, other = place.begun()
        hand_in(place.client, token, tmp_path, {"epoch": b"3"}, kind="CHECKPOINT", epoch=3)
        upload = slow_upload(place, second, other, {"epoch": b"3", "more": b"of it"}, replaced)
        hand_in(place.client, token, tmp_path, {"epoch": b"4"}, kind="CHECKPOINT", epoch=4)
        replaced.set()
        upload.result(LONG_S)
        wait_for(lambda: place.told[second].checkpoints == [(3, {"epoch": b"3", "more": b"of it"})])
        assert not [name for name in names_of(place, second) if "/coming/" in name]
        for run_id, run_token in ((first, token), (second, other)):
            finish(place, run_token, tmp_path)
            place.ended(run_id)


def waits(place: Elsewhere) -> bool:
    """Whether somebody waits for a blob's row."""
    with place.database.transaction() as connection:
        row = connection.execute(
            "SELECT count(*) AS count FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND query LIKE '%%trainer%%blobs%%'"
        ).fetchone()
    return row is not None and row["count"] == 1


def test_who_deletes_waits_for_whoever_is_naming_the_same_bytes(place: Elsewhere) -> None:
    ledger, named, digest = ledger_of(place.database), NamedBlobs(), "ab" * 32
    ledger.keep(digest)
    gone: list[list[str]] = []

    def discard() -> None:
        with place.database.transaction() as connection:
            gone.append(ledger.discard(connection, digest))

    owner_id = uuid4()
    with place.database.transaction() as connection:
        ledger.keep_with(connection, digest)
        named.name(connection, owner_id, "coming/1", digest, 1)
        other = in_background(discard)
        wait_for(lambda: waits(place))
    other.join(LONG_S)
    assert gone == [[]]
    with place.database.transaction() as connection:
        assert named.forget(connection, owner_id) == [digest]
        assert ledger.discard(connection, digest) == [digest]
    with pytest.raises(Unavailable, match="being deleted"):
        ledger.keep(digest)


def test_of_two_who_delete_the_same_bytes_none_deletes_those_that_came_back(place: Elsewhere) -> None:
    slow = open_blobs(f"file://{place.folder}/blobs", prefix="trainer")
    quick = open_blobs(f"file://{place.folder}/blobs", prefix="trainer")
    kept = PassingBlobs(place.database, slow)
    blob = kept.put(uuid4(), "checkpoint/x", [b"the same"], max_bytes=100)
    at, go = threading.Event(), threading.Event()
    delete = slow.delete

    def slowly(sha256: str) -> None:
        at.set()
        assert go.wait(60)
        delete(sha256)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(slow, "delete", slowly)
        with place.database.transaction() as connection:
            connection.execute("DELETE FROM trainer.named_blobs WHERE sha256 = %s", (blob.sha256,))
            gone = kept.discard(connection, [blob.sha256])
        first = pool.submit(kept.delete, gone)
        assert at.wait(60)
        ledger_of(place.database).collect(quick, 0)
        owner_id = uuid4()
        again = pool.submit(PassingBlobs(place.database, quick).put, owner_id, "c", [b"the same"], max_bytes=100)
        wait_for(lambda: again.done() or waits(place))
        go.set()
        first.result(60)
        assert again.result(60).sha256 == blob.sha256
    assert quick.exists(blob.sha256)
    with place.database.transaction() as connection:
        kept.named.forget(connection, owner_id)


def test_an_upload_under_way_when_its_run_is_cancelled_is_refused_and_leaves_no_name(place: Elsewhere) -> None:
    ended = threading.Event()
    with place.trainer():
        run_id, token = place.begun()
        upload = slow_upload(place, run_id, token, {"epoch": b"3", "more": b"of it"}, ended)
        place.jobs.cancel(run_id)
        assert place.ended(run_id).state is JobState.CANCELLED
        ended.set()
        with pytest.raises(grpc.RpcError, match="this token is void"):
            upload.result(LONG_S)
    assert names_of(place, run_id) == []


def test_an_upload_that_breaks_off_replaces_nothing_and_holds_nothing(place: Elsewhere, tmp_path: Path) -> None:
    with place.trainer():
        run_id, token = place.begun()
        hand_in(place.client, token, tmp_path, {"state": b"1"}, kind="CHECKPOINT", epoch=1)
        kept = names_of(place, run_id)
        stub = place.client.training_worker._connection.stub
        header = pb.OutputHeader(run_token=token, kind=pb.OUTPUT_KIND_CHECKPOINT, epoch=2, file_count=2)
        file = pb.OutputFile(path="state", sha256=hashlib.sha256(b"2").hexdigest(), size_bytes=1)
        broken = [
            pb.UploadTrainingOutputRequest(header=header),
            pb.UploadTrainingOutputRequest(file=file),
            pb.UploadTrainingOutputRequest(chunk=b"2"),
        ]
        with pytest.raises(grpc.RpcError, match="1 files came of the 2"):
            stub.UploadTrainingOutput(iter(broken), timeout=LONG_S)
        assert sorted(names_of(place, run_id)) == sorted(kept)
        wait_for(lambda: place.told[run_id].checkpoints == [(1, {"state": b"1"})])
        finish(place, token, tmp_path)
        place.ended(run_id)
