"""What becomes of fetched files in the registry: which version, under which name, and what is refused."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Iterator

import pytest

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.errors import InvalidArgument
from services.fetcher import registering
from tests.fetching import Place, fetching
from tests.postgres import PostgresServer
from tests.testdata import models

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with fetching(postgres_server, tmp_path_factory.mktemp("fetcher")) as running:
        yield running


def archived(note: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("model/graph.onnx", models.classifier())
        archive.writestr("model/note.txt", note)
    return packed.getvalue()


def tarred(compression: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=f"w:{compression}") as archive:  # type: ignore[call-overload] # a parameter
        for name, content in (("model/graph.onnx", models.classifier()), ("model/note.txt", b"any")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def test_an_archive_that_changed_is_the_next_version_and_the_same_is_the_same(place: Place) -> None:
    path = place.root / "packed.zip"
    results, one, other = [], archived("one"), archived("two, and longer")
    for content in (one, one, other):
        path.write_bytes(content)
        job = place.fetch("filesystem", str(path), framework="onnx")
        results.append((job.result.version, job.result.existed))
    assert results == [("v1", False), ("v1", True), ("v2", False)]
    url = place.origin.serve("/untold.zip", archived("one"), etag=None)
    assert place.fetch("url", url, framework="onnx").result.version == "v1"
    place.origin.serve("/untold.zip", archived("two"), etag=None)
    assert place.fetch("url", url, framework="onnx").result.version == "v2"


def test_a_retry_after_a_refusal_takes_what_the_source_has_by_then(place: Place) -> None:
    url = place.origin.serve("/mended.onnx", b"no model", etag='"one"')
    refused = place.fetch("url", url)
    assert (refused.error.reason, refused.error.retryable) == ("REGISTRATION_REFUSED", False)
    place.origin.serve("/mended.onnx", models.classifier(), etag='"two"')
    retried = place.client.fetcher.retry(refused.id)
    assert (retried.target.version, list(retried.files)) == ("", []), "both are chosen again"
    mended = place.end(retried)
    assert (mended.state, mended.result.version) == (pb.FETCH_JOB_STATE_COMPLETED, "v1"), mended.error
    asked = place.origin.serve("/asked.onnx", b"no model", etag='"one"')
    refused = place.fetch("url", asked, version="v7")
    place.origin.serve("/asked.onnx", models.classifier(), etag='"two"')
    assert place.end(place.client.fetcher.retry(refused.id)).result.version == "v7"


@pytest.mark.parametrize("taken", [["v99999999", "v100000000"], ["v1", "v2"]])
def test_names_that_are_taken_are_counted_on_from(
    place: Place, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = f"taken-{taken[0]}"
    for name in taken:
        place.client.registry.register_version(model, name, {"a.onnx": models.classifier()})
    monkeypatch.setattr(registering, "LOOKED_THROUGH", 0)  # the newest alone is seen
    for name in taken[1:] if taken[0] == "v1" else ():
        place.client.registry.delete_version(model, name)  # nobody sees it, and its name stays taken
    url = place.origin.serve(f"/{model}.onnx", models.classifier(), etag=f'"{model}"')
    job = place.fetch("url", url, model=model)
    assert job.result.version == f"v{int(taken[-1][1:]) + 1}", job.error


def test_the_search_for_a_name_ends(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registering, "MOST_TURNS", 2)
    for name in ("v1", "v2", "v3"):
        place.client.registry.register_version("full", name, {"a.onnx": models.classifier()})
        place.client.registry.delete_version("full", name)
    url = place.origin.serve("/full.onnx", models.classifier(), etag='"full"')
    job = place.fetch("url", url)
    assert (job.error.reason, "--version" in job.error.message) == ("REGISTRATION_REFUSED", True), job.error


def test_what_is_not_applied_to_a_version_that_was_there_is_said(place: Place) -> None:
    url = place.origin.serve("/there.onnx", models.classifier(), etag='"there"')
    assert not place.fetch("url", url, stage="candidate", labels={"a": "b"}).result.warnings
    assert not place.fetch("url", url, stage="candidate", labels={"a": "b"}).result.warnings
    again = place.fetch("url", url, stage="staging", labels={"a": "c"})
    (warning,) = again.result.warnings
    assert "in CANDIDATE; not applied: stage, labels" in warning
    assert place.client.registry.get_version("there", "v1").stage == registry.STAGE_CANDIDATE


@pytest.mark.parametrize("stage", ["production", "archived"])
def test_nothing_is_fetched_into_production_or_the_archive(place: Place, stage: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        place.client.fetcher.start("url", f"{place.origin.url}/x.onnx", stage=stage)
    assert refused.value.reason == "INVALID_STAGE"


def test_a_stage_is_reached_through_the_registrys_guards_with_who_approved_it(place: Place) -> None:
    url = place.origin.serve("/staged.onnx", models.classifier(), etag='"staged"')
    job = place.fetch("url", url, stage="staging", approved_by="ada", note="for the fair")
    assert (job.state, list(job.result.warnings)) == (pb.FETCH_JOB_STATE_COMPLETED, []), job.error
    assert place.client.registry.get_version("staged", "v1").stage == registry.STAGE_STAGING
    last = next(iter(place.client.registry.transitions("staged", "v1")))
    assert (last.to_stage, last.approved_by, last.note) == (registry.STAGE_STAGING, "ada", "for the fair")


def test_a_stage_that_the_guards_refuse_is_said_of_a_version_that_is_there(place: Place) -> None:
    place.client.registry.create_model("judged")
    at_least = registry.COMPARISON_AT_LEAST
    criterion = registry.SuccessCriterion(metric="accuracy", comparison=at_least, threshold=0.9)
    config = registry.TrainingConfig(success_criteria=[criterion])
    place.client.registry.update_model("judged", training_config=config)
    url = place.origin.serve("/judged.onnx", models.classifier(), etag='"judged"')
    job = place.fetch("url", url, stage="staging")
    assert job.state == pb.FETCH_JOB_STATE_COMPLETED, job.error
    assert place.client.registry.get_version("judged", "v1").stage == registry.STAGE_CANDIDATE
    (warning,) = job.result.warnings
    assert "judged v1 is in CANDIDATE and not in STAGING" in warning


def test_a_framework_that_was_asked_for_goes_before_the_files_and_a_wrong_one_leaves_nothing(place: Place) -> None:
    url = place.origin.serve("/overridden.onnx", models.classifier(), etag='"overridden"')
    refused = place.fetch("url", url, framework="tensorflow")
    assert refused.error.reason == "REGISTRATION_REFUSED"
    assert list(place.client.registry.list_versions("overridden")) == []
    named = place.origin.serve("/overridden.bin", models.classifier(), etag='"bin"')
    unknown = place.fetch("url", named, model="overridden")
    assert unknown.error.reason == "UNSUPPORTED_FRAMEWORK"
    done = place.fetch("url", url, framework="onnx")
    assert place.client.registry.get_version("overridden", done.result.version).framework == registry.FRAMEWORK_ONNX


def test_where_it_came_from_stands_in_the_version(place: Place) -> None:
    packed = archived("traced")
    url = place.origin.serve("/traced.zip", packed, etag='"traced"')
    asked_for = registry.Metadata(task_type="classification", tags=["fair"])
    asked_for.fields.update({"team": "search"})
    job = place.fetch("url", url, framework="onnx", metadata=asked_for)
    version = place.client.registry.get_version("traced", job.result.version)
    assert (version.source.origin, version.source.reference, version.source.revision) == ("url", url, '"traced"')
    sha256 = hashlib.sha256(packed).hexdigest()
    who = {"fetched_by": job.created_by, "fetch_id": job.id}
    assert dict(version.metadata.fields) == {"team": "search", "fetched_sha256": sha256, **who}
    assert (version.metadata.task_type, list(version.metadata.tags)) == ("classification", ["fair"])
    assert len(version.files) == 2, "each with its digest"


@pytest.mark.parametrize("pack", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_archives_of_every_kind_are_unpacked_and_their_digest_is_held_to(place: Place, pack: str) -> None:
    packed = archived("any") if pack == "zip" else tarred(pack.removeprefix("tar").removeprefix("."))
    url = place.origin.serve(f"/kind.{pack}", packed, etag=f'"{pack}"')
    said = {"model": f"kind-{pack}", "framework": "onnx"}
    wrong = place.fetch("url", url, sha256="0" * 64, **said)
    assert wrong.error.reason == "DIGEST_MISMATCH"
    right = place.fetch("url", url, sha256=hashlib.sha256(packed).hexdigest(), **said)
    assert right.state == pb.FETCH_JOB_STATE_COMPLETED, right.error
    files = place.client.registry.get_version(f"kind-{pack}", "v1").files
    assert [file.path for file in files] == ["graph.onnx", "note.txt"]
