"""What outside workers hand in that cannot be used, each refused in its own words; and files that lie at URLs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from penstock import errors
from penstock.api.trainer.v1 import worker_pb2 as pb
from penstock.api.trainer.v1.worker_pb2_grpc import TrainingWorkerServiceStub
from services.common.addresses import AddressRules, AllowedHosts
from services.common.jobs import JobState
from services.trainer.task import Event, Outcome, RunFolder, Stopping, Task
from services.trainer.worker.attempt import Attempts
from services.trainer.workers.artifact_urls import ArtifactUrls
from services.trainer.workers.models import RemoteFile
from tests import executing
from tests.kit import bearing, write_keys
from tests.origins import Origin, serving
from tests.outside_workers import ONNX, Elsewhere, elsewhere, finish, hand_in, refused
from tests.postgres import PostgresServer

MAX_BYTES = 1_000


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    settings: dict[str, Any] = {
        "trainer_artifact_allowed_hosts": "127.0.0.1",
        "trainer_max_artifact_bytes": MAX_BYTES,
    }
    folder = tmp_path_factory.mktemp("elsewhere")
    with elsewhere(postgres_server.clone("trainer"), folder, **settings) as found:
        yield found


@pytest.fixture(scope="module")
def stub(place: Elsewhere) -> Iterator[TrainingWorkerServiceStub]:
    with grpc.insecure_channel(place.address) as channel:
        yield TrainingWorkerServiceStub(channel)  # type: ignore[no-untyped-call, unused-ignore]


@pytest.fixture
def token(place: Elsewhere, tmp_path: Path) -> Iterator[str]:
    """The token of a run that goes on, and that is completed in the end whatever was refused before."""
    run_id, found = place.begun()
    yield found
    finish(place, found, tmp_path)
    assert place.ended(run_id).state is JobState.COMPLETED
    assert place.told[run_id].artifact == {"model.onnx": b"a model"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def file(path: str, content: bytes = b"a", **more: object) -> pb.UploadTrainingOutputRequest:
    fields = {"path": path, "sha256": sha256(content), "size_bytes": len(content), **more}
    return pb.UploadTrainingOutputRequest(file=pb.OutputFile(**fields))  # type: ignore[arg-type]


def chunk(content: bytes = b"a") -> pb.UploadTrainingOutputRequest:
    return pb.UploadTrainingOutputRequest(chunk=content)


def header(token: str, count: int = 1, **more: object) -> pb.UploadTrainingOutputRequest:
    fields = {"run_token": token, "kind": pb.OUTPUT_KIND_ARTIFACT, "file_count": count, **more}
    return pb.UploadTrainingOutputRequest(header=pb.OutputHeader(**fields))  # type: ignore[arg-type]


def reason_of(stub: TrainingWorkerServiceStub, *messages: pb.UploadTrainingOutputRequest) -> str:
    """Upload messages that are refused; gives the reason."""
    with pytest.raises(grpc.RpcError) as raised:
        stub.UploadTrainingOutput(iter(messages), timeout=60)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return errors.from_rpc(raised.value, rpc="UploadTrainingOutput", target="").reason


def test_uploads_that_cannot_be_used_are_refused(stub: TrainingWorkerServiceStub, token: str) -> None:
    assert reason_of(stub) == "HEADER_REQUIRED"
    assert reason_of(stub, file("a")) == "HEADER_REQUIRED"
    assert reason_of(stub, header(token), chunk()) == "HEADER_REQUIRED"
    assert reason_of(stub, header(token), header(token)) == "HEADER_REQUIRED"
    assert reason_of(stub, header(token, kind=0)) == "INVALID_ENUM"
    assert reason_of(stub, header(token, 0)) == "OUT_OF_BOUNDS"
    assert reason_of(stub, header(token, 1_001)) == "OUT_OF_BOUNDS"
    assert reason_of(stub, header(token, epoch=-1)) == "OUT_OF_BOUNDS"
    for path in ("../a", "/a", "a//b", "a\\b", "", "a" * 256, "./a"):
        assert reason_of(stub, header(token), file(path), chunk()) == "INVALID_PATH", path
    assert reason_of(stub, header(token, 2), file("a"), chunk(), file("A"), chunk()) == "INVALID_PATH"
    assert reason_of(stub, header(token, 2), file("a"), chunk(), file("a/b"), chunk()) == "INVALID_PATH"
    assert reason_of(stub, header(token), file("a", sha256=""), chunk()) == "DIGEST_MALFORMED"
    assert reason_of(stub, header(token), file("a"), chunk(b"b")) == "DIGEST_MISMATCH"
    assert reason_of(stub, header(token), file("a"), chunk(b"ab")) == "SIZE_MISMATCH"
    assert reason_of(stub, header(token), file("a", size_bytes=2), chunk()) == "SIZE_MISMATCH"
    assert reason_of(stub, header(token, 2), file("a"), chunk()) == "FILES_MISSING"
    assert reason_of(stub, header(token), file("a"), chunk(), file("b"), chunk()) == "TOO_MANY_FILES"
    large = b"l" * (MAX_BYTES + 1)
    assert reason_of(stub, header(token), file("a", large), chunk(large)) == "TOO_LARGE"
    half = b"h" * (MAX_BYTES // 2 + 1)
    assert reason_of(stub, header(token, 2), file("a", half), chunk(half), file("b", half), chunk(half)) == "TOO_LARGE"


def test_reports_that_cannot_be_used_are_refused(place: Elsewhere, token: str) -> None:
    worker = place.client.training_worker
    for sequence in (0, -1):
        with refused("OUT_OF_BOUNDS", errors.InvalidArgument):
            worker.report(token, sequence)
    with refused("TOO_LARGE", errors.InvalidArgument):
        worker.report(token, 1, log=b"l" * (256 * 1024 + 1))
    with refused("TOO_LARGE", errors.InvalidArgument):
        worker.report(token, 1, epochs=[pb.TaskEpoch(number=1)] * 1_001)
    for metrics in ({"loss": math.nan}, {"loss": math.inf}, {"": 1.0}, {"l" * 129: 1.0}, {"a\0": 1.0}):
        with refused("INVALID_METRICS", errors.InvalidArgument):
            worker.report(token, 1, epochs=[pb.TaskEpoch(number=1, metrics=metrics)])
    with refused("INVALID_METRICS", errors.InvalidArgument):
        worker.report(token, 1, epochs=[pb.TaskEpoch(metrics={str(number): 1.0 for number in range(257)})])


def test_completions_that_cannot_be_used_are_refused(place: Elsewhere, token: str, tmp_path: Path) -> None:
    worker = place.client.training_worker
    with refused("NO_ARTIFACT", errors.InvalidArgument):
        worker.complete(token, ONNX)
    hand_in(place.client, token, tmp_path, {"model.onnx": b"a model"})
    for outcome in (
        pb.TrainingOutcome(),
        pb.TrainingOutcome(framework="PICKLE"),
        pb.TrainingOutcome(framework="ONNX", task_type="guessing"),
        pb.TrainingOutcome(framework="ONNX", test_metrics={"accuracy": math.nan}),
        pb.TrainingOutcome(framework="ONNX", classes=["a\0"]),
        pb.TrainingOutcome(framework="ONNX", code_sha256="none"),
        pb.TrainingOutcome(framework="ONNX", features=[pb.OutcomeColumn(name="a", datatype="FP32")] * 2),
    ):
        with refused("INVALID_OUTCOME", errors.InvalidArgument):
            worker.complete(token, outcome)
    nul = pb.TrainingOutcome(framework="ONNX")
    nul.metadata["note"] = "a\0"
    with refused("INVALID_FIELDS", errors.InvalidArgument):
        worker.complete(token, nul)


def test_only_files_of_the_task_can_be_brought(place: Elsewhere, token: str, tmp_path: Path) -> None:
    worker = place.client.training_worker
    for path in ("data/none.parquet", "../blobs", "artifact/model.onnx", ""):
        with refused("INPUT_NOT_FOUND", errors.NotFound):
            worker.download_input(token, pb.TrainingInput(path=path, sha256="0" * 64), tmp_path / "run")
    stub = place.client.training_worker._connection.stub
    request = pb.DownloadTrainingInputRequest(run_token=token, path="data/train.parquet", offset=1_000_000)
    with refused("OFFSET_OUT_OF_RANGE", errors.OutOfRange):
        list(place.client.training_worker._connection.stream(stub.DownloadTrainingInput, request))


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data", "http://10.0.0.1/a", "https://10.0.0.1/a", "file:///etc/passwd",
        "https://user:password@example.org/a", "https://[::1]/a", "http://example.org/a", "ftp://example.org/a",
        "https://example.org:22/a", "no url",
    ],
)  # fmt: skip
def test_a_url_that_leads_into_our_own_network_is_refused_at_once(place: Elsewhere, token: str, url: str) -> None:
    artifact = pb.RemoteArtifact(path="model.onnx", url=url, sha256="0" * 64)
    with refused("URL_NOT_ALLOWED", errors.InvalidArgument):
        place.client.training_worker.complete(token, ONNX, artifacts=[artifact])


def test_files_at_urls_are_brought_where_they_are_whole(place: Elsewhere, origin: Origin) -> None:
    origin.serve("/real/a", b"a")
    origin.serve("/a", b"", failures=[(302, {"Location": "/real/a"})])
    origin.serve("/b?signature=secret", b"bb")
    run_id, token = place.begun()
    artifacts = [
        pb.RemoteArtifact(path="model.onnx", url=f"{origin.url}/a", sha256=sha256(b"a")),
        pb.RemoteArtifact(
            path="words/b.txt", url=f"{origin.url}/b?signature=secret", sha256=sha256(b"bb"), size_bytes=2
        ),
    ]
    place.client.training_worker.complete(token, ONNX, artifacts=artifacts)
    assert place.ended(run_id).state is JobState.COMPLETED
    assert place.told[run_id].artifact == {"model.onnx": b"a", "words/b.txt": b"bb"}
    with place.database.transaction() as connection:
        kept = connection.execute("SELECT artifacts FROM trainer.outside_tasks WHERE run_id = %s", [run_id]).fetchall()
    assert kept == [{"artifacts": []}]


@pytest.mark.parametrize("path", ["model.onnx", "Model.onnx", "model.onnx/a"])
def test_a_url_for_a_file_that_was_uploaded_is_refused(place: Elsewhere, token: str, tmp_path: Path, path: str) -> None:
    hand_in(place.client, token, tmp_path, {"model.onnx": b"a model"})
    artifact = pb.RemoteArtifact(path=path, url="http://127.0.0.1:9/a", sha256="0" * 64)
    with refused("INVALID_PATH", errors.InvalidArgument):
        place.client.training_worker.complete(token, ONNX, artifacts=[artifact])


def test_what_goes_wrong_with_a_file_here_is_not_blamed_on_the_host(origin: Origin, tmp_path: Path) -> None:
    origin.serve("/a", b"a")
    (tmp_path / "model.onnx").write_bytes(b"it is there")
    urls = ArtifactUrls(AddressRules(AllowedHosts.parse("127.0.0.1"), setting="hosts"))
    file = RemoteFile("model.onnx", f"{origin.url}/a", sha256(b"a"), 1)
    with pytest.raises(FileExistsError):
        urls.bring(file, tmp_path / "model.onnx", 10, executing.Stopping())


@pytest.mark.parametrize(
    ("path", "declared", "said"),
    [
        ("/none", sha256(b"a"), "answered 404"),
        ("/changed", sha256(b"a"), "its SHA-256 is"),
        ("/large", sha256(b"l" * (MAX_BYTES + 1)), "it has more than the 1,000 bytes"),
        ("/inward", sha256(b"a"), "lies where it must not"),
        ("/circle", sha256(b"a"), "more than 5 redirects"),
        ("/nonsense", sha256(b"a"), "redirects to what is no URL"),
    ],
)
def test_files_at_urls_that_cannot_be_used_fail_the_run(
    place: Elsewhere, origin: Origin, path: str, declared: str, said: str
) -> None:
    origin.serve("/changed", b"another")
    origin.serve("/large", b"l" * (MAX_BYTES + 1))
    origin.serve("/inward", b"", failures=[(302, {"Location": "http://192.168.0.1/secret"})])
    origin.serve("/nonsense", b"", failures=[(302, {"Location": "http://[no-address/a"})])
    origin.serve("/circle", b"", failures=[(302, {"Location": "/circle"})] * 6)
    run_id, token = place.begun()
    artifact = pb.RemoteArtifact(path="model.onnx", url=origin.url + path, sha256=declared)
    place.client.training_worker.complete(token, ONNX, artifacts=[artifact])
    job = place.ended(run_id)
    assert (job.state, job.error.reason) == (JobState.FAILED, "INVALID_OUTCOME")
    assert said in job.error.message


def test_a_url_whose_host_breaks_off_is_asked_again_and_nothing_is_trained_again(
    place: Elsewhere, origin: Origin
) -> None:
    origin.serve("/broken", b"abc", cut_after=[1])
    run_id, token = place.begun()
    artifact = pb.RemoteArtifact(path="model.onnx", url=f"{origin.url}/broken", sha256=sha256(b"abc"), size_bytes=3)
    place.client.training_worker.complete(token, ONNX, artifacts=[artifact])
    job = place.ended(run_id)
    assert (job.state, job.attempt) == (JobState.COMPLETED, 2)
    assert place.told[run_id].artifact == {"model.onnx": b"abc"}


class Leaves:
    """An executor of a worker's that leaves a file of so many bytes, in place of a recipe's process."""

    name = "LOCAL"

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes

    def execute(self, task: Task, folder: RunFolder, tell: Callable[[Event], None], stopping: Stopping) -> Outcome:
        (folder.artifact / "model.onnx").write_bytes(b"m" * self._size_bytes)
        return Outcome("ONNX")


@pytest.mark.parametrize(("size_bytes", "reason"), [(MAX_BYTES, ""), (MAX_BYTES + 1, "INVALID_OUTCOME")])
def test_what_the_trainer_does_not_take_of_a_worker_fails_the_run_at_once(
    place: Elsewhere, size_bytes: int, reason: str
) -> None:
    run_id, token = place.begun()
    attempt = Attempts(place.client.training_worker, lambda _: Leaves(size_bytes), lambda _: None)
    assert attempt(token) is True
    job = place.ended(run_id)
    assert (job.attempt, job.error.reason) == (1, reason)


def test_runs_are_asked_for_with_an_operators_key_and_trained_with_none(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    write_keys(tmp_path / "keys.json", viewer="viewer", operator="operator")
    with elsewhere(postgres_server.clone("trainer"), tmp_path, keys=tmp_path / "keys.json") as place:
        run_id = place.start()
        with grpc.insecure_channel(place.address) as channel:
            stub = TrainingWorkerServiceStub(channel)  # type: ignore[no-untyped-call, unused-ignore]
            for metadata, code in (
                ((), grpc.StatusCode.UNAUTHENTICATED),
                (bearing("viewer"), grpc.StatusCode.PERMISSION_DENIED),
            ):
                with pytest.raises(grpc.RpcError) as raised:
                    stub.ClaimTrainingTask(pb.ClaimTrainingTaskRequest(worker="w"), metadata=metadata, timeout=60)
                assert raised.value.code() is code
            token = place.claimed().run_token
            assert stub.GetTrainingTask(pb.GetTrainingTaskRequest(run_token=token), timeout=60).task.run_id == str(
                run_id
            )
        place.client.training_worker.fail(token, "INVALID_DATA", "none")
        place.ended(run_id)
