"""What docs/deployment.md says of a deployment's data, done for real: the bucket, the roles, a backup, a restore.

The commands are the documented ones, on the servers that the tests stand on: `psql`, `pg_dump` and `pg_restore` beside
a real PostgreSQL, and a copy of a bucket's objects, which is what rclone and its like do.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from minio import Minio
from minio.commonconfig import CopySource
from pydantic import SecretStr

import penstock
from penstock.api.registry.v1 import registry_pb2 as pb
from services.common.migrate import migrate
from services.registry import bucket
from services.registry.__main__ import build
from services.registry.epochs import begin_epoch
from services.registry.settings import RegistrySettings
from tests.deployment import DEPLOY, ROOT
from tests.embedded import eventually
from tests.postgres import PostgresServer, binaries_under_test, start_server
from tests.s3 import S3Server, find_minio
from tests.services import running
from tests.testdata import models

PASSWORDS = {"registry": "a password's quote", "monitoring": "another", "jobs": "a third", "fetcher": "a fourth"}


@contextmanager
def other_server() -> Iterator[PostgresServer]:
    server, folder = start_server()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def tool(name: str, *arguments: str | Path, url: str) -> None:
    """Run one of PostgreSQL's own commands as the superuser."""
    command = [binaries_under_test() / name, "--dbname", url, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def make_database(server: PostgresServer, folder: Path) -> None:
    """Make the database and its roles as the first start of the compose file does."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE penstock")
    for name, password in PASSWORDS.items():
        (folder / f"{name}_database_password").write_text(password + "\n")
    roles = folder / "roles.sql"
    roles.write_text((DEPLOY / "postgres/roles.sql").read_text().replace("/run/secrets/", f"{folder}/"))
    tool("psql", "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--file={roles}", url=server.url("penstock"))


def url_of(server: PostgresServer, role: str) -> str:
    return psycopg.conninfo.make_conninfo(
        host="127.0.0.1", port=server.port, dbname="penstock", user=role, password=PASSWORDS[role]
    )


def run_bucket(monkeypatch: pytest.MonkeyPatch, s3: S3Server, name: str, **more: str) -> int:
    given = {"URL": blob_url(s3, name), "ACCESS_KEY": s3.access_key, "SECRET_KEY": s3.secret_key}
    for key, value in given.items():
        monkeypatch.setenv(f"PENSTOCK_BLOB_{key}", more.get(key.lower(), value))
    return bucket.main()


def blob_url(s3: S3Server, name: str) -> str:
    return f"s3://{name}?endpoint={s3.endpoint}&region={s3.region}"


def settings_for(server: PostgresServer, s3: S3Server, name: str) -> RegistrySettings:
    return RegistrySettings(
        port=0,
        metrics_port=0,
        database_url=SecretStr(url_of(server, "registry")),
        blob_url=blob_url(s3, name),
        blob_access_key=SecretStr(s3.access_key),
        blob_secret_key=SecretStr(s3.secret_key),
    )


@contextmanager
def running_registry(settings: RegistrySettings) -> Iterator[penstock.Client]:
    """Run a registry, and give a client of it."""
    with running(build, settings) as registry, penstock.Client(registry=registry.address) as client:
        yield client


class Uploads:
    """Registers one version after another, until told to stop."""

    def __init__(self, client: penstock.Client) -> None:
        self._client = client
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._register)
        self.sha256s: dict[str, str] = {}
        """What was READY when its registration returned: version → the file's digest."""

    def __enter__(self) -> Uploads:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def wait_for(self, more_count: int) -> None:
        enough = len(self.sha256s) + more_count
        eventually(lambda: len(self.sha256s) >= enough)

    def _register(self) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            content = models.linear(seed=number)
            self._client.registry.register_version("steady", f"{number}.0.0", content, framework="onnx")
            self.sha256s[f"{number}.0.0"] = hashlib.sha256(content).hexdigest()


def copy_objects(client: Minio, source: str, target: str) -> None:
    """Copy what the target lacks, as `rclone copy` does; what is still arriving is nobody's yet."""
    there = {found.object_name for found in client.list_objects(target, recursive=True)}
    for found in client.list_objects(source, recursive=True):
        key = str(found.object_name)
        if key not in there and "/incoming/" not in key:
            client.copy_object(target, key, CopySource(source, key))


def ready_versions(client: penstock.Client) -> dict[str, Any]:
    return {
        version.version: version
        for version in client.registry.list_versions("steady")
        if version.state == pb.VERSION_STATE_READY
    }


@pytest.mark.slow
def test_a_backup_made_under_uploads_is_restored_whole_elsewhere(
    own_postgres_server: PostgresServer, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("live", "backup", "restored"):
        assert run_bucket(monkeypatch, s3, name) == 0
    make_database(own_postgres_server, tmp_path)
    migrate(url_of(own_postgres_server, "registry"), "registry", ROOT / "services/registry/migrations")
    dump = tmp_path / "penstock.dump"
    with running_registry(settings_for(own_postgres_server, s3, "live")) as client, Uploads(client) as uploads:
        uploads.wait_for(2)
        before = dict(uploads.sha256s)
        # The database first: what its rows name was stored before them, and is still there when the files follow.
        tool("pg_dump", "--format=custom", f"--file={dump}", url=own_postgres_server.url("penstock"))
        uploads.wait_for(2)
        copy_objects(s3.client(), "live", "backup")
        seen = last_heard(client)

    with other_server() as elsewhere:
        make_database(elsewhere, tmp_path)
        copy_objects(s3.client(), "backup", "restored")
        tool("pg_restore", "--exit-on-error", dump, url=elsewhere.url("penstock"))
        # The day that garbage is left alone for would be a long test.
        settings = settings_for(elsewhere, s3, "restored").model_copy(update={"blob_grace_ms": 0})
        begin_epoch(settings)
        with running_registry(settings) as client:
            restored = ready_versions(client)
            assert before.keys() <= restored.keys() < uploads.sha256s.keys()
            with pytest.raises(penstock.OutOfRange) as told:
                next(client.registry.watch(seen.revision, epoch=seen.epoch))
            assert told.value.reason == "EPOCH_CHANGED"
            made = client.registry.register_version("steady", "99.0.0", models.linear(seed=99), framework="onnx")
            assert made.state == pb.VERSION_STATE_READY, "life goes on"
            # The rows are the truth: files of versions that are gone are garbage, and nobody else's are.
            # Rows of versions that the validator had yet to open are rows as well.
            known = {version.version for version in client.registry.list_versions("steady")}
            gone = {sha256 for number, sha256 in uploads.sha256s.items() if number not in known}
            garbage = gone & stored(s3.client(), "restored")
            assert {blob.sha256 for blob in client.registry.collect_garbage(scan_store=True).blobs} == garbage != set()
            client.registry.collect_garbage()
            assert not stored(s3.client(), "restored") & gone
            for number, version in restored.items():
                path = client.registry.download("steady", number, tmp_path / number)
                (file,) = version.files
                assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256 == uploads.sha256s[number]


def last_heard(client: penstock.Client) -> pb.WatchModelsResponse:
    """What a watcher of the live registry has heard last: more than the backup knows."""
    return next(event for event in client.registry.watch() if event.HasField("snapshot") and event.snapshot.complete)


def stored(client: Minio, name: str) -> set[str]:
    return {str(found.object_name).rpartition("/")[2] for found in client.list_objects(name, recursive=True)}


@pytest.mark.slow
def test_each_service_owns_its_schema_and_can_read_no_other(
    own_postgres_server: PostgresServer, tmp_path: Path
) -> None:
    make_database(own_postgres_server, tmp_path)
    for name in PASSWORDS:
        schema = "inference" if name == "jobs" else name
        assert migrate(url_of(own_postgres_server, name), schema, ROOT / f"services/{schema}/migrations")
    with psycopg.connect(url_of(own_postgres_server, "monitoring"), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM registry.schema_migrations")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE TABLE public.mine (n integer)")


def test_the_bucket_is_made_once(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_bucket(monkeypatch, s3, "made-once") == 0
    assert run_bucket(monkeypatch, s3, "made-once") == 0
    assert capsys.readouterr().err == "bucket made-once made\nbucket made-once is there\n"
    assert s3.client().bucket_exists("made-once")


@pytest.mark.parametrize(
    ("more", "code", "sentence"),
    [
        ({"url": "file:///var/lib/models"}, 0, "kept in a folder"),
        ({"url": "/var/lib/models"}, 2, "is neither"),
        ({"url": "s3://x?endpoint=http://127.0.0.1:1"}, 2, "bucket x: "),
        ({"url": "s3://any?endpoint=http://127.0.0.1:1"}, 1, "the server does not answer"),
    ],
)
def test_a_bucket_that_cannot_be_made_says_why(
    more: dict[str, str],
    code: int,
    sentence: str,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PENSTOCK_BUCKET_WAIT_MS", "0")
    assert run_bucket(monkeypatch, s3, "any", **more) == code
    said = capsys.readouterr().err
    assert sentence in said
    assert s3.secret_key not in said


def test_a_key_that_may_not_make_buckets_ends_it_at_once(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if s3.access_key == "penstock-test" and find_minio() is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
            "moto, which stands in for a MinIO that is not there, checks no keys; .ci/minio builds one where Go is"
        )
    assert run_bucket(monkeypatch, s3, "forbidden", secret_key="wrong") == 1
    assert re.search(r"bucket forbidden: \w+", capsys.readouterr().err)
