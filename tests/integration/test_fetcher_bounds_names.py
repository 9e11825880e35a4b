"""Names, paths and archives that try to lead elsewhere; names that mean another address a moment later; torn lines."""

from __future__ import annotations

import io
import os
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.errors import FailedPrecondition, InvalidArgument, NotFound, PenstockError
from tests.fetching import Place, fetching
from tests.origins import answering
from tests.postgres import PostgresServer
from tests.testdata import models

pytestmark = pytest.mark.slow
COMPLETED, FAILED = pb.FETCH_JOB_STATE_COMPLETED, pb.FETCH_JOB_STATE_FAILED
REFUSED = (InvalidArgument, FailedPrecondition, NotFound)
TRICKS = (
    "..", "../x", "a/../../x", "/etc/passwd", "a/b", "a\\b", "..\\x", "%2e%2e%2fx", "%2e%2e", "a\0b", "a\nb",
    "a\x1b[2J", "\u2024\u2024/x", "\uff0e\uff0e\uff0fx", "\u202eevil", "\u0440odel", ".hidden", "-flag", " ", "a b",
    "a" * 129, "a;rm", "a:b", "~root", "$HOME", "C:",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("fetcher")
    with fetching(postgres_server, folder, fetcher_allowed_hosts="127.0.0.1,rebind.test") as running:
        (folder / "models" / "m.onnx").write_bytes(models.classifier())
        (folder / "outside").write_text("planted")
        yield running


@pytest.mark.parametrize("field", ["model", "version"])
@pytest.mark.parametrize("trick", TRICKS)
def test_a_model_and_a_version_have_plain_names(place: Place, field: str, trick: str) -> None:
    named: dict[str, Any] = {field: trick}
    with pytest.raises(InvalidArgument) as refused:
        place.client.fetcher.start("filesystem", str(place.root / "m.onnx"), **named)
    assert refused.value.reason in {"INVALID_NAME", "INVALID_REFERENCE"}
    assert refused.value.message.isprintable(), "nothing of it reaches a terminal as it is"


@pytest.mark.parametrize("field", ["revision", "variant"])
@pytest.mark.parametrize("trick", ["../x", "/etc/passwd", "a\0b", "a\nb", "%2e%2e", "main", "x" * 257])
def test_what_a_source_has_none_of_is_refused(place: Place, field: str, trick: str) -> None:
    named: dict[str, Any] = {field: trick}
    for source, reference in (("filesystem", str(place.root / "m.onnx")), ("url", f"{place.origin.url}/m.onnx")):
        with pytest.raises(InvalidArgument) as refused:
            place.client.fetcher.start(source, reference, **named)
        assert refused.value.reason == "INVALID_REFERENCE"


@pytest.mark.parametrize(
    "way",
    [
        "{root}/../outside", "{root}/./../outside", "{root}//../outside", "{root}/%2e%2e/outside",
        "file://{root}/../outside", "file://{root}/%2e%2e/outside", "file://{root}/%2E%2E%2Foutside",
        "file://localhost{root}/m.onnx", "file://evil.test{root}/m.onnx", "file:{root}/../outside",
        "{root}/..\\outside", "{root}/\u2024\u2024/outside",
        "{root}/m.onnx\0.txt", "file://{root}/m.onnx%00", "{root}/m.onnx\n",
        "~/outside", "{root}/" + "a/" * 900 + "x", "{root}/" + "a" * 300, "{root}evil/x",
        "/proc/self/environ", "/dev/zero", "{root}/m.onnx/x",
    ],
)  # fmt: skip
def test_no_way_of_writing_a_path_leads_out_of_a_root(place: Place, way: str) -> None:
    with pytest.raises(REFUSED) as refused:
        place.client.fetcher.inspect("filesystem", way.replace("{root}", str(place.root)))
    assert refused.value.reason in {"SECURITY", "INVALID_REFERENCE", "MODEL_NOT_FOUND"}


@pytest.mark.parametrize(
    ("path", "headers", "name"),
    [
        ("/%2e%2e%2f%2e%2e%2fescaped.onnx", {}, "escaped.onnx"),
        ("/a%5c..%5cback.onnx", {}, "back.onnx"),
        ("/nul%00.onnx", {}, "model.onnx"),
        ("/esc%1b%5b2J.onnx", {}, "model.onnx"),
        ("/%e2%80%ae.onnx", {}, "model.onnx"),  # turns the reading direction around
        ("/said", {"Content-Disposition": 'attachment; filename="../../root/.ssh/said.onnx"'}, "said.onnx"),
        ("/quoted", {"Content-Disposition": "attachment; filename=%2e%2e%2fx.onnx"}, "%2e%2e%2fx.onnx"),
    ],
)
def test_of_a_files_name_nothing_but_a_name_is_taken(
    place: Place, path: str, headers: dict[str, str], name: str
) -> None:
    url = place.origin.serve(path, models.classifier(), headers=headers)
    found = place.client.fetcher.inspect("url", url)
    assert [file.path for file in found.variants[0].files] == [name]


def zipped(members: dict[str, bytes], **more: Any) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, **more) as archive:
        for path, content in members.items():
            archive.writestr(path, content)
    return packed.getvalue()


def linked() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        graph = tarfile.TarInfo("graph.onnx")
        graph.size = len(models.classifier())
        archive.addfile(graph, io.BytesIO(models.classifier()))
        link = tarfile.TarInfo("weights.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return packed.getvalue()


def bomb() -> bytes:
    return zipped({"graph.onnx": models.classifier(), "weights.bin": bytes(256 * 1024 * 1024)})


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "bomb.zip": bomb,
    "upwards.zip": lambda: zipped({"graph.onnx": models.classifier(), "../../evil.onnx": b"x"}),
    "absolute.zip": lambda: zipped({"graph.onnx": models.classifier(), "/etc/cron.d/evil": b"x"}),
    "backslash.zip": lambda: zipped({"graph.onnx": models.classifier(), "..\\..\\evil.onnx": b"x"}),
    "linked.tar.gz": linked,
    "torn.zip": lambda: zipped({"graph.onnx": models.classifier()})[:-30],
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_would_do_harm_ends_the_fetch_and_leaves_nothing(place: Place, name: str) -> None:
    url = place.origin.serve(f"/{name}", ARCHIVES[name]())
    job = place.fetch("url", url, model=f"harm-{name[:4]}", framework="onnx")
    assert (job.state, job.error.reason, job.error.retryable) == (FAILED, "REGISTRATION_REFUSED", False)
    assert job.attempt_count == 1
    try:
        left = list(place.client.registry.list_versions(job.target.model))
    except NotFound:
        left = []
    assert left == [], job.error.message


def test_a_name_that_means_a_forbidden_address_a_moment_later_ends_the_fetch(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"rebind.test": ["127.0.0.1", "169.254.169.254"]}
    port, ask = int(place.origin.url.rpartition(":")[2]), socket.getaddrinfo

    def resolve(host: Any, *more: Any, **named: Any) -> Any:
        if host not in answers:
            return ask(host, *more, **named)
        address = answers[host].pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    place.origin.serve("/rebound.onnx", models.classifier(), etag=None)
    job = place.fetch("url", f"http://rebind.test:{port}/rebound.onnx")
    assert (job.state, job.error.reason, job.attempt_count) == (FAILED, "SECURITY", 1)
    assert answers == {"rebind.test": []}, "looked up for the look, and again for the download"


def test_a_connection_that_is_reset_in_mid_body_is_tried_again(place: Place) -> None:
    content, resets = models.classifier(), list[str]()

    def say(connection: socket.socket, head: str) -> None:
        whole = f'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: {len(content)}\r\n\r\n'.encode()
        if "bytes=0-0" in head or resets:
            connection.sendall(whole + content)
            return
        resets.append(head)
        connection.sendall(whole + content[: len(content) // 2])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends it by RST
        connection.close()

    with answering(say) as url:
        job = place.fetch("url", f"{url}/reset.onnx")
    assert (job.state, job.attempt_count) == (COMPLETED, 2), job.error


@pytest.mark.parametrize("length", ["7", "999999999", "-1", "0x10", "1e3", "nonsense"])
def test_a_length_that_is_wrong_registers_nothing(place: Place, length: str) -> None:
    def say(connection: socket.socket, _: str) -> None:
        head = f'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: {length}\r\n\r\n'
        connection.sendall(head.encode() + os.urandom(1_000))

    with answering(say) as url:
        try:
            job = place.fetch("url", f"{url}/wrong.onnx", model="wrong-length", max_attempts=1)
        except PenstockError:
            return
    assert job.state == FAILED
    assert job.error.reason in {"NETWORK_ERROR", "SOURCE_CHANGED", "REGISTRATION_REFUSED"}
    with pytest.raises(NotFound):
        place.client.registry.get_version("wrong-length", "v1")
