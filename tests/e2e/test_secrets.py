"""Secrets stay where they belong: distinctive ones are planted, the suite works and fails with them, then all that it
wrote, said and showed is searched for them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import psutil
import psycopg
import pytest

import penstock
from penstock.api.registry.v1.registry_pb2 import VERSION_STATE_READY, Source
from penstock.cli.embedded.postgres import PostgresCluster
from penstock.cli.embedded.suite import SERVICES
from tests.embedded import eventually
from tests.registry import RegistryProcess
from tests.s3 import s3_server
from tests.services import CloneDatabase
from tests.suite import FLOWER, RunningSuite
from tests.testdata import models

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PLANTED = {
    "PENSTOCK_BLOB_ACCESS_KEY": "planted-access-key",
    "PENSTOCK_BLOB_SECRET_KEY": "planted-secret-key",
    "PENSTOCK_TOKEN": "planted-token-of-the-shell",
}
WRONG_KEY = "planted-wrong-key"
WRONG_PASSWORD = "planted-wrong-password"
IN_URL = "planted-token-in-a-url"


class Seen:
    """All that was written, said and shown, with where it was."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []

    def add(self, where: str, text: str | bytes) -> None:
        self.texts.append((where, text if isinstance(text, str) else text.decode(errors="replace")))

    def places_of(self, secret: str) -> list[str]:
        return [where for where, text in self.texts if secret in text]


@contextmanager
def command_lines(root: psutil.Process, seen: Seen) -> Iterator[None]:
    """Note what the process list shows of the suite all the while, however short a child lives."""
    stopping = threading.Event()

    def look() -> None:
        while not stopping.wait(0.1):
            with suppress(psutil.Error):
                for process in (root, *root.children(recursive=True)):
                    seen.add(f"command line of {process.pid}", " ".join(process.cmdline()))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        stopping.set()
        watcher.join()


def refusals(suite: RunningSuite, token: str, seen: Seen) -> None:
    """Fail in many ways, and note what is said of it."""
    broken = suite.folder.path.parent / "broken.onnx"
    broken.write_bytes(b"no model")
    for bearer in (token, WRONG_KEY, ""):
        with suite.client(token=bearer, retry=penstock.NO_RETRIES) as client:
            for call in (
                lambda: client.registry.get_model("none"),
                lambda: client.registry.register_version("tiny", "bad", broken, framework="onnx"),
                lambda: client.registry.register_version(
                    "tiny",
                    "3",
                    broken,
                    framework="onnx",
                    origin=Source(reference=f"https://ada:{IN_URL}@models.example/"),
                ),
                lambda: client.registry.promote("tiny", "7", to_stage="production"),
                lambda: client.monitoring.get_inference("none"),
                lambda: client.inference.predict("none", FLOWER),
                lambda: client.inference.predict("tiny", {"X": [1.0]}),
            ):
                with pytest.raises(penstock.PenstockError) as refused:
                    call()
                seen.add("error", f"{refused.value!r} {refused.value} {vars(refused.value)}")


def failing_process(seen: Seen, folder: Path, *arguments: str, **environment: str) -> None:
    """Start a registry that cannot begin, and note what it says."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    done = subprocess.run(
        [sys.executable, "-m", "services.registry", *arguments],
        env={**clean, "PYTHONPATH": str(ROOT), "PENSTOCK_METRICS_PORT": "0", "PENSTOCK_PORT": "0", **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode != 0
    seen.add(f"output of a registry with {sorted(environment)}", done.stdout + done.stderr)


def everything_kept(suite: RunningSuite, seen: Seen) -> None:
    """Note every row of every table, every metrics page, and every file but those that hold the secrets themselves."""
    tables = suite.query(
        "select table_schema, table_name from information_schema.tables where table_type = 'BASE TABLE' and "
        "table_schema not in ('pg_catalog', 'information_schema')"
    )
    assert len(tables) > 5
    for schema, table in tables:
        for (row,) in suite.query(f'select t::text from "{schema}"."{table}" t'):
            seen.add(f"table {schema}.{table}", row)
    for name, address in suite.state.metrics_addresses.items():
        with urlopen(f"http://{address}/metrics", timeout=60) as page:
            seen.add(f"metrics of {name}", page.read())
    holders = (suite.folder.tokens, suite.folder.postgres)
    for path in suite.folder.path.rglob("*"):
        if path.is_file() and not any(path.is_relative_to(each) for each in holders) and path.suffix != ".password":
            seen.add(str(path), path.read_bytes())


def test_no_secret_is_in_logs_errors_process_lists_metrics_files_or_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen()
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    suite = RunningSuite(tmp_path / "data")
    suite.up()
    try:
        token = suite.json("key", "create", "ada", "--role", "admin")["token"]
        revoked = suite.json("key", "create", "vic", "--role", "viewer")["token"]
        with command_lines(psutil.Process(suite.state.supervisor.pid), seen):
            with suite.client(token=token) as client:
                eventually(lambda: registers(client))
                eventually(lambda: predicts(client))
                inference_id = client.inference.predict("tiny", FLOWER, user_id="ada").inference_id
                client.monitoring.record_feedback(inference_id, actual_outcome="0")
            refusals(suite, token, seen)
            seen.add("output", suite.run_process("key", "revoke", "vic").stdout)
            for key in (token, revoked):  # `refusals` has the wrong one; each command takes a second
                done = suite.run_process("model", "get", "none", PENSTOCK_TOKEN=key, PENSTOCK_DEBUG="1")
                seen.add("output of the command", done.stdout + done.stderr)
            for command in (["key", "list", "--json"], ["status", "--json"]):
                done = suite.run_process(*command)
                seen.add(f"output of {command}", done.stdout + done.stderr)
            with suite.client(token=token, retry=penstock.NO_RETRIES) as client:
                with suite.unsupervised():  # back before the call, it would not be missed
                    suite.kill("postgres")
                    eventually(lambda: fails(client, seen))
                eventually(lambda: registers(client, "2"))
        dsn = PostgresCluster(suite.folder.postgres).url(postgres_port(suite))
        password = (suite.folder.path / "postgres.password").read_text()
        assert password in dsn
        blobs = {"PENSTOCK_BLOB_URL": f"file://{tmp_path}/blobs"}
        wrong = dsn.replace(password, WRONG_PASSWORD)
        failing: list[tuple[tuple[str, ...], dict[str, str]]] = [
            ((), {"PENSTOCK_DATABASE_URL": wrong, **blobs}),
            ((), {"PENSTOCK_DATABASE_URL": dsn.replace("127.0.0.1", "127.0.0.2"), **blobs}),
            ((), {"PENSTOCK_DATABASE_URL": f"nonsense {password}", **blobs}),
            ((), {"PENSTOCK_DATABASE_URL": dsn, "PENSTOCK_BLOB_URL": f"s3://a:{WRONG_PASSWORD}@b"}),
            (("--database-url", WRONG_PASSWORD), blobs),
            ((), {"PENSTOCK_DATABASE_URL": dsn, "PENSTOCK_MAX_STREAMS": WRONG_PASSWORD, **blobs}),
        ]
        with ThreadPoolExecutor(len(failing)) as pool:
            for each in [pool.submit(failing_process, seen, tmp_path, *words, **said) for words, said in failing]:
                each.result()
        everything_kept(suite, seen)
        for name in SERVICES:
            assert not {*PLANTED.values()} & {*suite.process(name).environ().values()}, "it has no use for them"
        tokens = {path.name: path.read_text() for path in suite.folder.tokens.iterdir()}
    finally:
        suite.close()
    logs = [path for path in suite.folder.logs.iterdir() if path.is_file()]
    assert {"registry.log", "monitoring.log", "inference.log", "postgres.log"} <= {path.name for path in logs}
    for path in logs:
        seen.add(str(path), path.read_bytes())

    # What the search must find, lest it search nothing.
    assert seen.places_of("rpc")
    assert seen.places_of("UNKNOWN_KEY")
    assert seen.places_of("CREDENTIALS_IN_URL")
    assert any(place.startswith("table registry.") for place in seen.places_of("tiny"))
    assert any(place.startswith("command line") for place in seen.places_of("services.registry"))
    assert set(tokens) == {"registry", "monitoring", "inference", "jobs", "fetcher", "trainer"}
    secrets = {*PLANTED.values(), WRONG_KEY, WRONG_PASSWORD, IN_URL, token, revoked, password, *tokens.values()}
    assert {secret: seen.places_of(secret) for secret in secrets} == {secret: [] for secret in secrets}
    kept = json.loads(suite.folder.keys_file.read_text())["keys"]
    assert {"ada", "service.registry"} <= {entry["name"] for entry in kept}
    assert all(len(entry["sha256"]) == 64 for entry in kept)
    for private in (suite.folder.keys_file, *suite.folder.tokens.iterdir()):
        assert private.stat().st_mode & 0o077 == 0


def test_the_keys_of_an_s3_server_are_nowhere_either(clone_database: CloneDatabase, tmp_path: Path) -> None:
    """A registry and a validator with the right keys, and a registry with others, which the server refuses."""
    seen, database_url = Seen(), clone_database("registry")
    with s3_server(tmp_path) as server, ExitStack() as stack:
        url = server.make_bucket().url
        right = {"blob_url": url, "blob_access_key": server.access_key, "blob_secret_key": server.secret_key}
        planted = {name.removeprefix("PENSTOCK_").lower(): PLANTED[name] for name in PLANTED if "BLOB" in name}
        registry, validator, refused = started = [
            RegistryProcess(database_url, tmp_path, **right, validation_threads=0),
            RegistryProcess(database_url, tmp_path, **right, module="services.registry.validation"),
            RegistryProcess(database_url, tmp_path, **{**right, **planted}, validation_threads=0),
        ]
        for each in started:
            stack.callback(each.end, signal.SIGKILL)
        # Not the S3 server, whose keys these are: it is a child of ours too.
        for each in started:
            stack.enter_context(command_lines(psutil.Process(each.process.pid), seen))
        with penstock.Client(registry=registry.address(), retry=penstock.NO_RETRIES) as client:
            eventually(lambda: registers(client))
            validator.address()
            eventually(lambda: client.registry.get_version("tiny", "1").state == VERSION_STATE_READY)
            seen.add("download URL", client.registry.download_url("tiny", "1").url)
        with penstock.Client(registry=refused.address(), retry=penstock.NO_RETRIES) as client:
            for call in (
                lambda: client.registry.register_version("other", "1", b"bytes", framework="onnx"),
                lambda: list(client.registry.download_chunks("tiny", "1")),
            ):
                with pytest.raises(penstock.PenstockError) as error:
                    call()
                seen.add("error", f"{error.value!r} {error.value} {vars(error.value)}")
        with psycopg.connect(database_url) as database:
            for table in ("versions", "files", "validations", "requests", "audit"):
                for (row,) in database.execute(f"SELECT t::text FROM registry.{table} t"):
                    seen.add(f"table {table}", row)
        for each in started:
            each.end()
            seen.add(each.log.name, each.log.read_bytes())
    assert seen.places_of("BLOB_STORE")
    assert seen.places_of("X-Amz-Signature")
    assert any(place.startswith("command line") for place in seen.places_of("services.registry.validation"))
    for secret in (server.secret_key, *planted.values()):
        assert seen.places_of(secret) == []


def postgres_port(suite: RunningSuite) -> int:
    return int((suite.folder.postgres / "postmaster.pid").read_text().splitlines()[3])


def registers(client: penstock.Client, version: str = "1") -> bool:
    try:
        client.registry.register_version("tiny", version, models.classifier(), framework="onnx")
    except (penstock.Unavailable, penstock.Unauthenticated):  # the key is known to the services within a second
        return False
    except penstock.AlreadyExists:
        return True
    return True


def predicts(client: penstock.Client) -> bool:
    try:
        client.inference.predict("tiny", FLOWER)
    except (penstock.NotFound, penstock.Unavailable, penstock.Unauthenticated):
        return False
    return True


def fails(client: penstock.Client, seen: Seen) -> bool:
    try:
        client.registry.get_model("tiny")
    except penstock.PenstockError as error:
        seen.add("error without a database", f"{error!r} {vars(error)}")
        return True
    return False
