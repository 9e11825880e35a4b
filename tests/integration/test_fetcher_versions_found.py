"""Versions that are there already: found again by name and without, before anything is brought; others are refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import penstock
from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.errors import DataLoss, FailedPrecondition, PenstockError, ResourceExhausted
from penstock.registry import RegistryClient
from services.common.jobs import JobStore
from services.common.postgres import Database
from services.fetcher import registering, work
from services.fetcher.leftovers import Leftovers
from services.fetcher.store.fetches import FetchStore
from services.registry.validation.validator import Validator
from tests.fetching import Place, fetching
from tests.integration.test_fetcher_versions import archived
from tests.kit import write_keys
from tests.postgres import PostgresServer
from tests.registry import wait_until
from tests.services import running_registry
from tests.testdata import models

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with fetching(postgres_server, tmp_path_factory.mktemp("fetcher")) as running:
        yield running


def versions(place: Place, model: str) -> list[str]:
    return [version.version for version in place.client.registry.list_versions(model, show_deleted=True)]


def forget_downloads(place: Place) -> None:
    """As if they were older than they are kept."""
    place.rows("DELETE FROM fetcher.downloads RETURNING 1")


def sent_by(place: Place, reference: str, **more: str) -> tuple[pb.FetchJob, int]:
    """Fetch a URL; gives how many bytes that took, too."""
    before = place.origin.sent_bytes
    job = place.fetch("url", reference, **more)
    return job, place.origin.sent_bytes - before


@pytest.mark.parametrize("version", ["", "2026-11"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_same_again_is_found_with_a_name_and_without_and_not_brought(
    place: Place, version: str, *, packed: bool
) -> None:
    model = f"again-{'named' if version else 'unnamed'}{'-packed' if packed else ''}"
    content = archived(model) if packed else models.classifier()
    url = place.origin.serve(f"/{model}.{'zip' if packed else 'onnx'}", content, etag=f'"{model}"')
    said = {"model": model, "version": version, "framework": "onnx"}
    first, _ = sent_by(place, url, **said)
    assert first.state == pb.FETCH_JOB_STATE_COMPLETED, first.error
    forget_downloads(place)
    second, sent_bytes = sent_by(place, url, **said)
    assert (second.result.existed, second.result.version) == (True, first.result.version), second.error
    assert (second.result.downloaded_bytes, sent_bytes) == (0, 1), "one byte tells what is there"
    assert (second.progress.done_bytes, second.progress.done_files) == (len(content), 1)
    assert versions(place, model) == [first.result.version]


def test_a_name_that_is_of_another_source_is_refused_before_anything_is_brought(place: Place) -> None:
    one = place.origin.serve("/one.onnx", models.classifier(), etag='"one"')
    other = place.origin.serve("/other.onnx", models.classifier(seed=1), etag='"other"')
    sent_by(place, one, model="taken", version="v7")
    refused, sent_bytes = sent_by(place, other, model="taken", version="v7")
    assert (refused.error.reason, refused.error.retryable) == ("REGISTRATION_REFUSED", False)
    assert "VERSION_EXISTS" in refused.error.message
    assert one in refused.error.message, "what the version was made of"
    assert sent_bytes == 1
    assert versions(place, "taken") == ["v7"]


def test_a_name_whose_source_has_changed_since_is_refused_before_anything_is_brought(place: Place) -> None:
    url = place.origin.serve("/changed.onnx", models.classifier(), etag='"before"')
    sent_by(place, url, version="v1")
    place.origin.serve("/changed.onnx", models.classifier(seed=1), etag='"after"')
    refused, sent_bytes = sent_by(place, url, version="v1")
    assert ("VERSION_EXISTS" in refused.error.message, sent_bytes) == (True, 1), refused.error
    unnamed, _ = sent_by(place, url)
    assert (unnamed.result.version, unnamed.result.existed) == ("v2", False)


def test_where_the_source_says_nothing_the_bytes_decide(place: Place) -> None:
    url = place.origin.serve("/untold.onnx", models.classifier(), etag=None)
    made, _ = sent_by(place, url, version="v1")
    assert not made.result.existed
    same, _ = sent_by(place, url, version="v1")
    assert same.result.existed, same.error
    place.origin.serve("/untold.onnx", models.classifier(seed=1), etag=None)
    refused, _ = sent_by(place, url, version="v1")
    assert (refused.error.reason, versions(place, "untold")) == ("REGISTRATION_REFUSED", ["v1"])


def test_a_digest_that_was_asked_for_is_met_by_the_version_that_is_found(place: Place) -> None:
    url = place.origin.serve("/digest.onnx", models.classifier(), etag='"digest"')
    sent_by(place, url)
    sha256 = place.client.registry.get_version("digest", "v1").files[0].sha256
    assert sent_by(place, url, sha256=sha256)[0].result.existed
    wrong, _ = sent_by(place, url, sha256="0" * 64)
    assert wrong.error.reason == "DIGEST_MISMATCH"


def test_a_name_whose_version_was_deleted_is_refused(place: Place) -> None:
    url = place.origin.serve("/deleted.onnx", models.classifier(), etag='"deleted"')
    sent_by(place, url, version="v1")
    place.client.registry.delete_version("deleted", "v1")
    refused, _ = sent_by(place, url, version="v1")
    assert (refused.error.reason, "VERSION_EXISTS" in refused.error.message) == ("REGISTRATION_REFUSED", True)
    assert sent_by(place, url)[0].result.version == "v2"


def test_one_left_behind_that_cannot_be_looked_at_keeps_no_other_waiting(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [place.fetch("url", place.origin.serve(f"/left-{name}.onnx", b"no model")) for name in ("older", "newer")]
    assert {job.error.reason for job in jobs} == {"REGISTRATION_REFUSED"}
    get_version = RegistryClient.get_version

    def odd(self: RegistryClient, model: str, version: str) -> registry.ModelVersion:
        if model == "left-newer":
            raise FailedPrecondition("not this one")
        return get_version(self, model, version)

    monkeypatch.setattr(RegistryClient, "get_version", odd)
    with Database.from_settings(place.settings, name="leftovers") as database:
        Leftovers(JobStore(database, "fetcher", "fetch_jobs"), FetchStore(), place.client).clear()
    phases = dict(place.rows("SELECT model, phase FROM fetcher.fetch_jobs WHERE model LIKE 'left-%%'"))
    assert phases == {"left-older": "DOWNLOADING", "left-newer": "PROCESSING"}, "the newer is asked for again"


def test_a_key_that_may_not_register_is_told_before_anything_is_brought(
    place: Place, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    keys, empty = tmp_path / "keys.json", tmp_path / "fetcher_token"
    write_keys(keys, fetcher="operator", watcher="viewer", admin="admin")
    empty.touch()
    given: list[dict[str, Any]] = [
        {},
        {"service_token": SecretStr("stranger")},
        {"service_token": SecretStr("watcher")},
        {"service_token_file": empty},
        {"service_token": SecretStr("fetcher")},
    ]
    url = place.origin.serve("/keyed.onnx", models.classifier(), etag='"keyed"')
    ended: list[tuple[str, int, bool, int]] = []
    with running_registry(postgres_server.clone("registry"), tmp_path, keys_file=keys) as registry:
        for number, said in enumerate(given):
            own = {
                "database_url": SecretStr(postgres_server.clone("fetcher")),
                "blob_url": f"file://{tmp_path}/downloads-{number}",
                "registry_address": registry.address,
            }
            with place.replica(**own, **said) as fetcher, penstock.Client(fetcher=fetcher.address) as client:
                before = place.origin.sent_bytes
                with closing(client.fetcher.watch(client.fetcher.start("url", url).id)) as watched:
                    *_, job = watched
                sent_bytes = place.origin.sent_bytes - before
                named = "PENSTOCK_SERVICE_TOKEN" in job.error.message
                ended.append((job.error.reason, job.attempt_count, named, sent_bytes))
    refused = ("REGISTRY_UNAUTHORIZED", 1, True, 1)
    assert ended == [refused] * 4 + [("", 1, False, len(models.classifier()) + 1)]


@pytest.mark.parametrize(
    "error", [ResourceExhausted("the disk is full", reason="BLOB_STORE_FULL"), DataLoss("gone", reason="BLOB_LOST")]
)
def test_a_full_store_of_the_registrys_is_called_so(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: PenstockError
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(RegistryClient, "register_version", full)
    job = place.fetch("url", place.origin.serve("/full.onnx", models.classifier(), etag='"full"'), max_attempts=1)
    assert (job.error.reason, job.error.retryable) == ("STORAGE_ERROR", True)
    assert all(said in job.error.message for said in ("the registry's store", error.reason)), job.error


def test_who_waits_for_the_validator_leaves_its_place_to_others(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, validate = threading.Event(), Validator.validate

    def slow(*given: Any, **more: Any) -> Any:
        judge.wait(120)
        return validate(*given, **more)

    monkeypatch.setattr(Validator, "validate", slow)
    monkeypatch.setattr(registering, "PATIENCE_S", 0.0)
    monkeypatch.setattr(work, "AWAIT_S", 0.1)
    monkeypatch.setattr(work, "MOST_AWAIT_S", 0.1)
    url = place.origin.serve("/slow.onnx", models.classifier(), etag='"slow"')
    job = place.client.fetcher.start("url", url)
    wait_until(lambda: place.client.fetcher.get(job.id).state == pb.FETCH_JOB_STATE_PENDING or None)
    (token,) = place.rows("SELECT token FROM fetcher.fetch_jobs WHERE model = 'slow'")
    wait_until(lambda: place.rows("SELECT token FROM fetcher.fetch_jobs WHERE model = 'slow'") > [token] or None)
    sent_bytes = place.origin.sent_bytes
    judge.set()
    done = place.end(job)
    assert (done.state, done.attempt_count) == (pb.FETCH_JOB_STATE_COMPLETED, 1), done.error
    assert (done.result.version, done.result.existed) == ("v1", False)
    assert done.result.downloaded_bytes == len(models.classifier())
    assert place.origin.sent_bytes == sent_bytes
    assert versions(place, "slow") == ["v1"]


def test_what_the_validator_refuses_in_the_end_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registering, "PATIENCE_S", 0.0)
    monkeypatch.setattr(work, "AWAIT_S", 0.1)
    job = place.fetch("url", place.origin.serve("/late.onnx", b"no model", etag='"late"'))
    assert (job.error.reason, job.attempt_count) == ("REGISTRATION_REFUSED", 1)
    assert list(place.client.registry.list_versions("late")) == []


def test_a_path_is_one_however_it_is_written(place: Place) -> None:
    file = place.root / "spelled.onnx"
    file.write_bytes(models.classifier())
    spelled = (f"file://{file}", str(file), f"{place.root}//spelled.onnx")
    made = [(each.result.version, each.result.existed) for each in (place.fetch("filesystem", way) for way in spelled)]
    assert made == [("v1", False), ("v1", True), ("v1", True)]
    assert place.client.registry.get_version("spelled", "v1").source.reference == str(file)
