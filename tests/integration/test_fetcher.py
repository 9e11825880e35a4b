"""Fetching as callers meet it: a real registry, fetcher, PostgreSQL and HTTP server, through the SDK."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import threading
import zipfile
from collections.abc import Iterator
from urllib.request import urlopen

import pytest

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.fetching import Place, fetching
from tests.origins import answering
from tests.postgres import PostgresServer
from tests.registry import wait_until
from tests.testdata import bundles, models

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    # A source may be silent for longer than any test waits, so that nothing but what is tested ends a transfer.
    patient = {"fetcher_silence_timeout_ms": 600_000}
    with fetching(postgres_server, tmp_path_factory.mktemp("fetcher"), **patient) as running:
        yield running


def test_a_url_becomes_a_version_that_is_ready(place: Place) -> None:
    content = models.classifier()
    url = place.origin.serve("/plants/flowers.onnx", content)
    job = place.end(place.client.fetcher.start("url", url))
    assert job.state == pb.FETCH_JOB_STATE_COMPLETED, job.error
    assert (job.result.model, job.result.version, job.result.deployment_number) == ("flowers", "v1", 1)
    assert (job.progress.done_bytes, job.progress.done_files, job.resolved_revision) == (len(content), 1, '"one"')
    version = place.client.registry.get_version("flowers", "v1")
    assert (version.files[0].path, version.files[0].sha256) == ("flowers.onnx", hashlib.sha256(content).hexdigest())
    assert (version.source.origin, version.source.reference, version.source.revision) == ("url", url, '"one"')


def test_the_same_fetched_again_is_the_same_version_and_no_byte_comes(place: Place) -> None:
    url = place.origin.serve("/same.onnx", models.classifier())
    first = place.end(place.client.fetcher.start("url", url))
    sent = place.origin.sent_bytes
    again = place.end(place.client.fetcher.start("url", url))
    assert (again.result.version, again.result.existed) == (first.result.version, True)
    assert again.result.downloaded_bytes == 0
    assert place.origin.sent_bytes == sent + 1, "the first byte says whether it is the same"


def test_a_file_that_changed_is_the_next_version(place: Place) -> None:
    url = place.origin.serve("/changing.onnx", models.classifier())
    assert place.end(place.client.fetcher.start("url", url)).result.version == "v1"
    place.origin.serve("/changing.onnx", models.classifier(), etag='"two"')
    assert place.end(place.client.fetcher.start("url", url)).result.version == "v2"


def test_a_folder_becomes_a_version_with_its_files(place: Place) -> None:
    folder = place.root / "bundle"
    folder.mkdir()
    (folder / "graph.onnx").write_bytes(models.classifier())
    (folder / "notes.txt").write_text("of roses")
    (folder / "elsewhere").symlink_to("/etc")
    inspected = place.client.fetcher.inspect("filesystem", str(folder))
    assert [file.path for file in inspected.variants[0].files] == ["graph.onnx", "notes.txt"]
    assert any("elsewhere is left out" in warning for warning in inspected.warnings)
    job = place.end(place.client.fetcher.start("filesystem", str(folder), version="2024-11"))
    assert job.state == pb.FETCH_JOB_STATE_COMPLETED, job.error
    version = place.client.registry.get_version("bundle", "2024-11")
    assert sorted(file.path for file in version.files) == ["graph.onnx", "notes.txt"]
    assert list(job.result.warnings) == list(inspected.warnings), "who fetches is told as well"
    otherwise = f"file://{place.root}/./bundle"
    assert place.client.fetcher.inspect("filesystem", otherwise).canonical_reference == version.source.reference
    again = place.fetch("filesystem", str(folder), version="2024-11", labels={"a": "b"}).result
    assert again.existed
    assert "elsewhere is left out" in again.warnings[0]
    assert "not applied: labels" in again.warnings[1]


def test_pickles_and_code_are_left_out_of_a_bundle(place: Place) -> None:
    folder = place.root / "unsafe"
    folder.mkdir()
    for path, content in bundles.bundle().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    safe = sorted(path.name for path in folder.iterdir())
    (folder / "pytorch_model.bin").write_bytes(bytes(1_000_000))
    (folder / "modeling.py").write_text("")
    inspected = place.client.fetcher.inspect("filesystem", str(folder))
    assert sorted(file.path for file in inspected.variants[0].files) == safe
    job = place.fetch("filesystem", str(folder))
    assert job.state == pb.FETCH_JOB_STATE_COMPLETED, job.error
    for warnings in (inspected.warnings, job.result.warnings):
        assert [warning.partition(" ")[0] for warning in warnings] == ["modeling.py", "pytorch_model.bin"]
    assert job.progress.done_bytes < 1_000_000


@pytest.mark.parametrize("names", [["one.onnx", "two.onnx"], ["a/model.onnx", "b/model.onnx"]])
def test_of_several_graphs_none_is_brought(place: Place, names: list[str]) -> None:
    folder = place.root / names[0].partition(".")[0].replace("/", "-")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(models.classifier())
    job = place.fetch("filesystem", str(folder), model="several")
    assert (job.error.reason, job.progress.done_bytes) == ("UNSUPPORTED_FRAMEWORK", 0)
    assert all(name in job.error.message for name in names)


def test_an_archive_is_unpacked(place: Place) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("model/graph.onnx", models.classifier())
    url = place.origin.serve("/packed.zip", packed.getvalue())
    job = place.end(place.client.fetcher.start("url", url, framework="onnx"))
    assert job.state == pb.FETCH_JOB_STATE_COMPLETED, job.error
    assert [file.path for file in place.client.registry.get_version("packed", "v1").files] == ["graph.onnx"]


def test_a_transfer_that_breaks_off_goes_on_where_it_broke(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    content = models.classifier()
    padding = os.urandom(20 * 1024 * 1024)
    url = place.origin.serve("/large.bin", content + padding, cut_after=[1024 * 1024])
    # Bytes that are no model: how they come is what counts here, and the registry refuses them in the end.
    job = place.end(place.client.fetcher.start("url", url, model="large", framework="onnx"))
    ranges = [headers["Range"] for path, headers in place.origin.asked if path == "/large.bin"][1:]
    begins = sorted(int(asked[6:].partition("-")[0]) // (8 * 1024 * 1024) for asked in ranges)
    assert (set(begins), max(map(begins.count, begins))) == ({0, 1, 2}, 2), "parts of 8 MiB, one of which broke off"
    assert job.attempt_count == 2
    assert job.error.reason == "REGISTRATION_REFUSED"
    assert job.progress.done_bytes == len(content + padding)
    assert not list(place.client.registry.list_versions("large")), "what cannot be served leaves no version behind"


@pytest.mark.parametrize(
    ("source", "reference", "error", "reason"),
    [
        ("nowhere", "x", InvalidArgument, "UNKNOWN_SOURCE"),
        ("url", "", InvalidArgument, "SOURCE_REQUIRED"),
        ("url", "http://10.0.0.1/model.onnx", FailedPrecondition, "SECURITY"),
        ("url", "https://169.254.169.254/latest", FailedPrecondition, "SECURITY"),
        ("url", "https://2130706433/model.onnx", FailedPrecondition, "SECURITY"),
        ("url", "file:///etc/passwd", FailedPrecondition, "SECURITY"),
        ("url", "https://example.org/m.onnx?X-Amz-Signature=abc", InvalidArgument, "CREDENTIALS_IN_URL"),
        ("filesystem", "/etc/passwd", FailedPrecondition, "SECURITY"),
        ("filesystem", "models/x.onnx", InvalidArgument, "INVALID_REFERENCE"),
    ],
)
def test_what_may_not_be_fetched_is_refused_at_once(
    place: Place, source: str, reference: str, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error) as refused:
        place.client.fetcher.start(source, reference)
    assert refused.value.reason == reason  # type: ignore[attr-defined]


def test_no_path_leads_out_of_a_root(place: Place) -> None:
    (place.root / "out").symlink_to("/etc")
    for reference in (f"{place.root}/../secret", f"{place.root}/out/passwd"):
        with pytest.raises((FailedPrecondition, NotFound)) as refused:
            place.client.fetcher.inspect("filesystem", reference)
        assert refused.value.reason == "SECURITY", reference


def test_a_redirect_to_a_private_address_is_not_followed(place: Place) -> None:
    url = place.origin.serve("/away.onnx", b"", failures=[(302, {"Location": "http://10.1.2.3/x"})])
    with pytest.raises(FailedPrecondition) as refused:
        place.client.fetcher.inspect("url", url)
    assert refused.value.reason == "SECURITY"


def test_what_nothing_shows_to_be_the_same_is_brought_anew(place: Place) -> None:
    url = place.origin.serve("/bare.onnx", models.classifier(), etag=None)
    first = place.end(place.client.fetcher.start("url", url))
    second = place.end(place.client.fetcher.start("url", url))
    assert first.result.downloaded_bytes == second.result.downloaded_bytes == len(models.classifier())
    padding = os.urandom(20 * 1024 * 1024)
    broken = place.origin.serve("/bare.bin", padding, etag=None, cut_after=[17 * 1024 * 1024])
    place.end(place.client.fetcher.start("url", broken, framework="onnx"))
    ranges = [headers.get("Range") for path, headers in place.origin.asked if path == "/bare.bin"]
    assert ranges[-2:] == [None, None], "who says nothing of the file is asked for all of it"


def test_a_wrong_digest_fails_at_once_and_nothing_is_registered(place: Place) -> None:
    url = place.origin.serve("/false.onnx", models.classifier())
    job = place.end(place.client.fetcher.start("url", url, sha256="0" * 64))
    assert (job.state, job.error.reason, job.error.retryable) == (pb.FETCH_JOB_STATE_FAILED, "DIGEST_MISMATCH", False)
    with pytest.raises(NotFound):
        place.client.registry.get_model("false")


def test_a_source_that_asks_for_patience_is_asked_again(place: Place) -> None:
    failures: list[tuple[int, dict[str, str]]] = [(429, {"Retry-After": "0"}), (503, {}), (500, {})]
    url = place.origin.serve("/busy.onnx", models.classifier(), failures=failures)
    job = place.end(place.client.fetcher.start("url", url, max_attempts=5))
    assert (job.state, job.attempt_count) == (pb.FETCH_JOB_STATE_COMPLETED, 4)


def test_cancelling_ends_a_transfer_that_hangs(place: Place) -> None:
    content, arrived, left = models.classifier(), threading.Event(), threading.Event()

    def begin_and_hold(connection: socket.socket, head: str) -> None:
        looks = "bytes=0-0" in head
        length = 1 if looks else len(content)
        said = f'HTTP/1.1 {206 if looks else 200} X\r\nETag: "x"\r\nContent-Length: {length}\r\n'
        ranges = f"Content-Range: bytes 0-0/{len(content)}\r\n" if looks else ""
        connection.sendall(f"{said}{ranges}\r\n".encode() + content[:1])
        if not looks and not arrived.is_set():
            arrived.set()
            assert not connection.recv(1)  # it waits until the fetcher has gone
            left.set()
        else:
            connection.sendall(content[1:length])

    with answering(begin_and_hold) as url:
        job = place.client.fetcher.start("url", f"{url}/hangs.onnx")
        assert arrived.wait(30)
        place.client.fetcher.cancel(job.id)
        assert left.wait(60), "the connection ended although the source did not go on"
        assert place.end(job).state == pb.FETCH_JOB_STATE_CANCELLED
        retried = place.end(place.client.fetcher.retry(job.id))
    assert retried.state == pb.FETCH_JOB_STATE_COMPLETED, retried.error


def test_a_hundred_ask_for_the_same_and_it_comes_once(place: Place) -> None:
    content, wanted = models.classifier(), threading.Event()
    # The file is held until every one of them has looked at it.
    url = place.origin.serve("/wanted.onnx", content, hold=lambda _: wanted.wait(60))
    sent = place.origin.sent_bytes
    jobs = [place.client.fetcher.start("url", url) for _ in range(100)]
    wait_until(lambda: sum(path == "/wanted.onnx" for path, _ in place.origin.asked) > 100 or None)
    wanted.set()
    ended = [place.end(job) for job in jobs]
    assert {(job.result.version, job.attempt_count) for job in ended} == {("v1", 1)}
    assert place.origin.sent_bytes - sent == len(content) + 100, "the first byte of each look, and the file once"


def test_fetches_are_listed_by_model_source_and_state(place: Place) -> None:
    url = place.origin.serve("/listed.onnx", models.classifier())
    job = place.end(place.client.fetcher.start("url", url, model="listed"))
    found = list(place.client.fetcher.list(states=["completed"], model="listed", source="url"))
    assert [each.id for each in found] == [job.id]
    place.client.fetcher.delete(job.id)
    assert not list(place.client.fetcher.list(model="listed"))
    with pytest.raises(NotFound):
        place.client.fetcher.get(job.id)


def test_what_runs_is_listed_by_what_it_is_at(place: Place) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        arrived.set()
        go_on.wait(60)

    url = place.origin.serve("/held.onnx", models.classifier(), hold=hold)
    job = place.client.fetcher.start("url", url)
    assert arrived.wait(60)

    def listed(*states: str) -> list[str]:
        return [each.id for each in place.client.fetcher.list(states=states, model="held")]

    wait_until(lambda: listed("downloading") or None)
    assert listed("downloading", "failed") == listed("downloading", "processing") == [job.id]
    assert listed("processing") == listed("processing", "completed") == []
    go_on.set()
    assert place.end(job).state == pb.FETCH_JOB_STATE_COMPLETED
    assert listed("processing", "completed") == [job.id]


def test_prometheus_is_told_of_fetches_by_state(place: Place) -> None:
    url = place.origin.serve("/counted.onnx", models.classifier())
    place.end(place.client.fetcher.start("url", url))
    with urlopen(f"http://127.0.0.1:{place.metrics_port}/metrics") as page:
        lines = page.read().decode().splitlines()
    told = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
    assert told['penstock_fetches{state="completed"}'] >= 1
    assert told["penstock_fetch_queue_age_seconds"] == 0
    assert told["penstock_fetch_runs"] == 0
