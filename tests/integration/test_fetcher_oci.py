"""Fetching artifacts as callers meet it: a real OCI registry, model registry, fetcher and PostgreSQL."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.errors import FailedPrecondition, InvalidArgument, NotFound
from services.fetcher import __main__ as fetcher
from services.fetcher.models import RemoteFile
from services.fetcher.sources.oci import OciSource
from tests.commands import run_penstock
from tests.faults.proxy import Proxy
from tests.fetching import Place, fetching
from tests.oci_registry import INDEX, MANIFEST, UNPACK, Layer, OciRegistry, oci_registry
from tests.postgres import PostgresServer
from tests.registry import wait_until
from tests.testdata import models

pytestmark = pytest.mark.slow
PART = 64 * 1024


@dataclass(frozen=True)
class Shop:
    """A fetcher, and a registry behind a proxy: references name the proxy."""

    place: Place
    registry: OciRegistry
    proxy: Proxy

    def push(self, name: str, *layers: Layer, tag: str = "v1", **more: object) -> str:
        """Push an artifact; gives its reference, without tag."""
        self.registry.push(name, tag, layers, **more)
        return f"{self.proxy.address}/{name}"


@pytest.fixture(scope="module")
def shop(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with oci_registry(tmp_path_factory.mktemp("oci")) as served, pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetcher, "FILE_PART_BYTES", PART)
        with Proxy(int(served.host.rpartition(":")[2])) as proxy:
            settings = {"fetcher_oci_plain_hosts": frozenset({proxy.address})}
            with fetching(postgres_server, tmp_path_factory.mktemp("fetcher"), **settings) as place:
                yield Shop(place, served, proxy)


def packed(mode: str) -> bytes:
    """A folder with a graph, as tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        entry = tarfile.TarInfo("model/graph.onnx")
        entry.size = len(models.classifier())
        archive.addfile(entry, io.BytesIO(models.classifier()))
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("model/graph.onnx", models.classifier())
    return out.getvalue()


def test_an_artifact_becomes_a_version_that_is_ready(shop: Shop) -> None:
    content = models.classifier()
    said = {
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.version": "2026.11",
        "org.opencontainers.image.description": "roses",
    }
    reference = shop.push("plants/iris", Layer(content, "iris.onnx"), Layer(b"of", "docs/notes.txt"), annotations=said)
    inspected = shop.place.client.fetcher.inspect("oci", f"{reference}:v1")
    assert (inspected.suggested_model, inspected.licence) == ("iris", "Apache-2.0")
    assert [file.path for file in inspected.variants[0].files] == ["iris.onnx", "docs/notes.txt"]
    job = shop.place.fetch("oci", f"{reference}:v1")
    assert job.state == pb.FETCH_JOB_STATE_COMPLETED, job.error
    version = shop.place.client.registry.get_version("iris", "v1")
    assert {file.path: file.sha256 for file in version.files} == {
        "iris.onnx": hashlib.sha256(content).hexdigest(),
        "docs/notes.txt": hashlib.sha256(b"of").hexdigest(),
    }
    assert version.source.revision == job.resolved_revision == inspected.resolved_revision
    told = {"licence": "Apache-2.0", "source_version": "2026.11", "description": "roses"}
    assert told.items() <= dict(version.metadata.fields).items()


def test_a_digest_is_fetched_whatever_its_tag_became(shop: Shop) -> None:
    first = shop.registry.push("moving", "latest", [Layer(models.classifier(), "moving.onnx")])
    reference = f"{shop.proxy.address}/moving"
    assert shop.place.fetch("oci", f"oci://{reference}").result.version == "v1", "latest by default"
    second = shop.registry.push("moving", "latest", [Layer(models.classifier(seed=1), "moving.onnx")])
    latest = shop.place.fetch("oci", f"{reference}:latest")
    assert (latest.result.version, latest.resolved_revision) == ("v2", second)
    one = shop.place.fetch("oci", f"{reference}@{first}")
    assert (one.result.version, one.result.existed) == ("v1", True), "its tag was written in another way"
    assert shop.place.client.registry.get_version("moving", "v1").source.reference == reference
    for found in (
        shop.place.fetch("oci", f"{reference}@{first}", model="pinned"),
        shop.place.fetch("oci", f"{reference}:latest@{first}", model="pinned"),
        shop.place.fetch("oci", reference, revision=first, model="pinned"),
    ):
        assert found.resolved_revision == first, found.error
        assert found.result.downloaded_bytes == 0, "its bytes are known by their digest"


@pytest.mark.parametrize(
    "layer",
    [
        Layer(packed("w:gz"), media_type="application/vnd.oci.image.layer.v1.tar+gzip"),
        Layer(packed("w"), media_type="application/vnd.oci.image.layer.v1.tar"),
        Layer(packed("w"), media_type="application/vnd.cncf.model.weight.v1.tar"),
        Layer(zipped(), media_type="application/zip"),
        Layer(packed("w:gz"), "bundle", annotations={UNPACK: "true"}),  # a folder, as oras pushes it
        Layer(packed("w:gz"), "bundle.tgz"),
    ],
    ids=["tar+gzip", "tar", "ModelPack", "zip", "folder", "name"],
)
def test_a_single_archive_is_unpacked(shop: Shop, layer: Layer, request: pytest.FixtureRequest) -> None:
    name = f"packed-{hashlib.sha256(request.node.name.encode()).hexdigest()[:8]}"
    job = shop.place.fetch("oci", f"{shop.push(name, layer)}:v1", framework="onnx")
    assert job.state == pb.FETCH_JOB_STATE_COMPLETED, job.error
    files = shop.place.client.registry.get_version(name, "v1").files
    assert [file.path for file in files] == ["graph.onnx"]


def test_an_index_gives_the_manifest_that_fits(shop: Shop) -> None:
    served = shop.registry
    entries = []
    for seed, platform in enumerate(({"os": "windows", "architecture": "amd64"}, None)):
        manifest = served.manifest("indexed", [Layer(models.classifier(seed=seed), "indexed.onnx")])
        digest = served.push_manifest("indexed", f"m{seed}", manifest)
        entry = {"mediaType": MANIFEST, "digest": digest, "size": len(json.dumps(manifest))}
        entries.append({**entry, **({"platform": platform} if platform else {})})
    built = {**entries[1], "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    index = {"schemaVersion": 2, "mediaType": INDEX}
    served.push_manifest("indexed", "one", {**index, "manifests": [*entries, built]})
    reference = f"{shop.proxy.address}/indexed"
    found = shop.place.client.fetcher.inspect("oci", f"{reference}:one")
    assert found.resolved_revision == entries[1]["digest"]
    served.push_manifest("indexed", "two", {**index, "manifests": [entries[1], entries[1]]})
    with pytest.raises(FailedPrecondition, match="by its digest") as refused:
        shop.place.client.fetcher.inspect("oci", f"{reference}:two")
    assert refused.value.reason == "UNSUPPORTED_FRAMEWORK"


def test_a_transfer_that_breaks_off_goes_on_where_it_broke(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    offsets: list[int] = []
    known = [row[0] for row in shop.place.rows("SELECT download_id FROM fetcher.downloads")]
    query = "SELECT part_number FROM fetcher.download_parts WHERE download_id <> ALL(%s)"

    def noted() -> set[int]:
        return {row[0] for row in shop.place.rows(query, known)}

    asked = OciSource.open

    def seen(self: OciSource, file: RemoteFile, offset: int, *more: object, **rest: object) -> object:
        offsets.append(offset)
        return asked(self, file, offset, *more, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(OciSource, "open", seen)
    reference = shop.push("large", Layer(os.urandom(60 * PART), "large.onnx"))
    shop.proxy.slow_down(0.5)
    try:
        job = shop.place.client.fetcher.start("oci", f"{reference}:v1", max_attempts=20)
        wait_until(lambda: len(noted()) > 2 or None)
        safe = noted()
        asked_before = len(offsets)
        shop.proxy.cut()
    finally:
        shop.proxy.heal()
    ended = shop.place.end(job)
    # Bytes that are no model: how they come is what counts here, and the registry refuses them in the end.
    assert ended.error.reason == "REGISTRATION_REFUSED"
    assert ended.progress.done_bytes == 60 * PART
    assert offsets[asked_before:]
    assert safe.isdisjoint(offset // PART for offset in offsets[asked_before:]), "what was safe is not asked for again"


def test_a_layer_that_is_not_its_digest_is_not_taken(shop: Shop) -> None:
    right = b"\0" * 40 + b"right" + os.urandom(64)
    reference = shop.push("damaged", Layer(right, "damaged.onnx"))
    shop.proxy.damage(b"right", b"wrong")
    try:
        job = shop.place.fetch("oci", f"{reference}:v1")
    finally:
        shop.proxy.heal()
    assert (job.error.reason, job.error.retryable) == ("DIGEST_MISMATCH", False)


def test_a_manifest_that_is_not_its_digest_is_not_taken(shop: Shop) -> None:
    reference = shop.push("sworn", Layer(models.classifier(), "sworn.onnx"))
    shop.proxy.damage(b"sworn.onnx", b"other.onnx")
    try:
        with pytest.raises(FailedPrecondition) as refused:
            shop.place.client.fetcher.inspect("oci", f"{reference}:v1")
    finally:
        shop.proxy.heal()
    assert refused.value.reason == "DIGEST_MISMATCH"


def test_the_command_fetches_from_a_registry(shop: Shop, tmp_path: Path) -> None:
    reference = shop.push("commanded", Layer(models.classifier(), "commanded.onnx"))
    command = ["fetch", "start", "oci", f"{reference}:v1", "--name", "iris-of-oci", "--watch"]
    ended = run_penstock(command, folder=tmp_path, environment={**os.environ, **shop.place.addresses}, timeout_s=60)
    assert ended.returncode == 0, ended.stderr
    version = shop.place.client.registry.get_version("iris-of-oci", "v1")
    assert version.state == registry.VERSION_STATE_READY


@pytest.mark.parametrize(
    ("layers", "reason", "said"),
    [
        ([Layer(b"x", media_type="application/vnd.docker.ai.gguf.v3")], "UNSUPPORTED_FRAMEWORK", "docker.ai.gguf"),
        ([Layer(packed("w")), Layer(packed("w:gz"))], "UNSUPPORTED_FRAMEWORK", "2 layers"),
        ([Layer(b"x", "m.onnx"), Layer(b"x", "d", annotations={UNPACK: "true"})], "UNSUPPORTED_FRAMEWORK", "archive"),
        ([Layer(b"x", "../m.onnx")], "SECURITY", ".."),
        ([Layer(b"x", "/etc/m.onnx")], "SECURITY", "/etc"),
        ([Layer(b"x", "a\\m.onnx")], "SECURITY", "backslash"),
        ([Layer(b"x", "m\x1b[2J.onnx")], "SECURITY", "\\x1b"),
        ([Layer(b"x", "m.onnx"), Layer(b"y", "M.onnx")], "REGISTRATION_REFUSED", "M.onnx"),
        ([], "MODEL_NOT_FOUND", "no files"),
    ],
    ids=range(9),
)
def test_layers_that_are_no_files_of_a_model_are_refused(
    shop: Shop, layers: list[Layer], reason: str, said: str, request: pytest.FixtureRequest
) -> None:
    reference = shop.push(f"refused/{request.node.callspec.id}", *layers)
    with pytest.raises((FailedPrecondition, NotFound)) as refused:
        shop.place.client.fetcher.inspect("oci", f"{reference}:v1")
    assert refused.value.reason == reason, refused.value
    assert said in refused.value.message


def test_weights_that_no_runtime_serves_are_refused(shop: Shop) -> None:
    job = shop.place.fetch("oci", f"{shop.push('tensors', Layer(b'x', 'model.safetensors'))}:v1")
    assert job.error.reason == "UNSUPPORTED_FRAMEWORK"
    assert "exported to ONNX" in job.error.message


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("{host}/nothing:v1", "MODEL_NOT_FOUND"),
        ("{host}/plants/iris@sha256:" + "0" * 64, "MODEL_NOT_FOUND"),
        ("10.0.0.1/a/b:v1", "SECURITY"),
        ("127.0.0.1:22/a/b", "NETWORK_ERROR"),
        ("2130706433:5000/a/b", "SECURITY"),
        ("registry.example:22/a/b", "SECURITY"),
        ("iris:v1", "INVALID_REFERENCE"),
        ("library/iris:v1", "INVALID_REFERENCE"),
        ("https://registry.example/a/b:v1", "INVALID_REFERENCE"),
        ("registry.example/A/b", "INVALID_REFERENCE"),
        ("registry.example/a/../b", "INVALID_REFERENCE"),
        ("registry.example/a//b", "INVALID_REFERENCE"),
        ("registry.example/a:v1:v2", "INVALID_REFERENCE"),
        ("registry.example/a@sha512:" + "0" * 128, "INVALID_REFERENCE"),
        ("registry.example/a@sha256:0", "INVALID_REFERENCE"),
        ("user:password@registry.example/a", "INVALID_REFERENCE"),
        ("registry.example/" + "a" * 256, "INVALID_REFERENCE"),
    ],
)
def test_what_may_not_or_cannot_be_fetched_is_refused(shop: Shop, reference: str, reason: str) -> None:
    with pytest.raises(Exception) as refused:  # noqa: PT011 - its reason says which it is
        shop.place.client.fetcher.inspect("oci", reference.format(host=shop.proxy.address))
    assert getattr(refused.value, "reason", refused.value) == reason, refused.value


def test_a_revision_is_a_digest_and_there_are_no_variants(shop: Shop) -> None:
    digests = ["sha256:" + digit * 64 for digit in "ab"]
    for reference, more in (
        ("registry.example/a", {"revision": "v2"}),
        (f"registry.example/a@{digests[0]}", {"revision": digests[1]}),
        ("registry.example/a", {"variant": "fp16"}),
    ):
        with pytest.raises(InvalidArgument) as refused:
            shop.place.client.fetcher.inspect("oci", reference, **more)
        assert refused.value.reason == "INVALID_REFERENCE"


def test_another_digest_than_was_asked_for_is_refused_at_once(shop: Shop) -> None:
    reference = shop.push("asked", Layer(models.classifier(), "asked.onnx"))
    with pytest.raises(FailedPrecondition) as refused:
        shop.place.client.fetcher.inspect("oci", f"{reference}:v1", sha256="0" * 64)
    assert refused.value.reason == "DIGEST_MISMATCH"
