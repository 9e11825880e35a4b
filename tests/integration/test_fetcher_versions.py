"""What becomes of fetched files in the registry: which version, under which name, and what is refused."""

from __future__ import annotations

import io
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
