"""The registry's main path through the SDK, and its process, on a real PostgreSQL and a real blob store."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

import penstock
from penstock import errors
from penstock.api.registry.v1 import registry_pb2 as pb
from tests import registry
from tests.testdata import models

Running = tuple[penstock.Client, Path]
COLUMNS = ["sepal length", "sepal width", "petal length", "petal width"]


@pytest.fixture
def running(clone_database: Callable[[str], str], tmp_path: Path) -> Iterator[Running]:
    """A client of a registry of this test's own, and the folder of its blobs."""
    settings = registry.settings_for(clone_database("registry"), tmp_path)
    with registry.served(settings) as address, penstock.Client(registry=address) as client:
        yield client, tmp_path / "blobs"


def test_a_model_goes_from_upload_to_production_and_back_to_the_client(running: Running, tmp_path: Path) -> None:
    client, _ = running
    content = models.linear()
    version = client.registry.register_version("iris", "1", content, framework="onnx", columns=COLUMNS)
    assert (version.state, version.deployment_number) == (pb.VERSION_STATE_READY, 1)
    assert list(version.signature.inputs[0].columns) == COLUMNS
    assert version.validation.rows_independent

    for stage in ("candidate", "staging", "production"):
        client.registry.promote("iris", "1", stage, approved_by="ada", note="it was tried")
    live = client.registry.resolve("iris")
    assert (live.version, live.stage, live.promoted_by) == ("1", pb.STAGE_PRODUCTION, "anonymous")
    assert client.registry.download("iris", "1", tmp_path / "back.onnx").read_bytes() == content


def test_a_pipe_is_uploaded_with_its_digest_behind_it(running: Running) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    client, _ = running
    version = client.registry.register_version("iris", "1", {"model.onnx": Pipe(models.linear())}, framework="onnx")
    assert version.state == pb.VERSION_STATE_READY


def test_a_watcher_gets_a_snapshot_and_then_each_change(running: Running) -> None:
    client, _ = running
    client.registry.register_version("iris", "1", models.linear(), framework="onnx")
    watch = client.registry.watch()
    snapshot = next(watch)
    assert snapshot.snapshot.complete
    assert [version.version for version in snapshot.snapshot.versions] == ["1"]
    client.registry.promote("iris", "1")
    change = next(event for event in watch if event.WhichOneof("event") == "change")
    assert change.revision == snapshot.revision + 1
    assert [version.stage for version in change.change.versions] == [pb.STAGE_CANDIDATE]


def test_stored_bytes_that_are_damaged_or_gone_are_never_given_as_good(running: Running, tmp_path: Path) -> None:
    client, blobs = running
    with pytest.raises(errors.ValidationFailed):
        client.registry.register_version("iris", "1", b"not a model", framework="onnx")
    version = client.registry.get_version("iris", "1")
    with pytest.raises(errors.NotFound) as missing:
        client.registry.download("iris", "1", tmp_path / "back", path="another.onnx")
    assert missing.value.reason == "FILE_NOT_FOUND"

    (stored,) = blobs.rglob(version.files[0].sha256)
    stored.write_bytes(b"not a madel")
    with pytest.raises(errors.DataLoss):
        client.registry.download("iris", "1", tmp_path / "back")
    stored.unlink()
    with pytest.raises(errors.DataLoss) as lost:
        client.registry.download("iris", "1", tmp_path / "back")
    assert lost.value.reason == "BLOB_LOST"
    assert not (tmp_path / "back").exists()

    client.registry.revalidate("iris", "1")
    with pytest.raises(errors.ValidationFailed) as failed:
        client.registry.wait_until_ready("iris", "1")
    assert failed.value.reason == "INVALID_MODEL"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.registry", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.slow
def test_the_migrate_command_brings_an_empty_database_up_to_date_and_ends(empty_database: str) -> None:
    done = run("migrate", PENSTOCK_DATABASE_URL=empty_database, PENSTOCK_BLOB_URL="file:///nowhere")
    assert done.returncode == 0, done.stderr
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT revision FROM registry.revisions").fetchone() == (0,)


@pytest.mark.slow
def test_its_log_has_one_json_line_for_each_request_and_no_key(
    clone_database: Callable[[str], str], tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    digest = hashlib.sha256(b"hush-known").hexdigest()
    keys.write_text(json.dumps({"keys": [{"name": "ada", "role": "viewer", "sha256": digest}]}))
    process = registry.RegistryProcess(clone_database("registry"), tmp_path, keys_file=keys)
    try:
        address = process.address()
        for token in ("hush-known", "hush-unknown"):
            with penstock.Client(registry=address, token=token) as client, pytest.raises(errors.PenstockError):
                client.registry.get_model("iris")
    finally:
        assert process.end() == 0
    log = process.log.read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert all(line["service"] == "registry" and line["timestamp"] and line["level"] for line in lines)
    seen = [(line["rpc"], line["code"], line["caller"]) for line in lines if line["event"] == "rpc"]
    rpc = "penstock.api.registry.v1.RegistryService/GetModel"
    assert seen == [(rpc, "NOT_FOUND", "ada"), (rpc, "UNAUTHENTICATED", "anonymous")]
    assert "hush" not in log


@pytest.mark.slow
def test_a_wrong_call_and_missing_settings_end_with_a_sentence() -> None:
    for done in (run("serve"), run()):
        assert done.returncode == 2
        assert done.stderr
        assert "Traceback" not in done.stderr
