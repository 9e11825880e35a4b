"""The S3 server that tests speak to: one that is given, else a MinIO started here, else moto's.

`PENSTOCK_TEST_S3_URL` (s3://any?endpoint=…; keys in PENSTOCK_TEST_S3_ACCESS_KEY and _SECRET_KEY) names one;
`PENSTOCK_TEST_MINIO` names a MinIO binary, looked for on PATH, in .tools/bin and in Go's bin otherwise.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3
from minio import Minio
from minio.error import MinioException
from moto.server import ThreadedMotoServer

from penstock.cli.embedded.ports import free_port

READY_WITHIN_S = 60.0
START_ATTEMPTS = 3  # a free port may be taken before MinIO binds it
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class S3Server:
    """Where it listens, and the keys that may do everything there."""

    endpoint: str  # http://host:port
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    def client(self) -> Minio:
        """A plain client, for what a test does behind the store's back."""
        parts = urlsplit(self.endpoint)
        return Minio(
            parts.netloc,
            access_key=self.access_key,
            secret_key=self.secret_key,
            secure=parts.scheme == "https",
            region=self.region,
        )

    def make_bucket(self) -> S3Bucket:
        """Make a bucket that nobody else has."""
        name = f"penstock-test-{uuid.uuid4().hex[:12]}"
        self.client().make_bucket(name)
        return S3Bucket(self, name)


@dataclass(frozen=True, slots=True)
class S3Bucket:
    """A bucket of the tests' own."""

    server: S3Server
    name: str

    @property
    def url(self) -> str:
        """The URL for `open_blobs`; the keys are the server's."""
        endpoint = self.server.endpoint
        return f"s3://{self.name}?endpoint={endpoint}&public_endpoint={endpoint}&region={self.server.region}"

    def list_keys(self) -> list[str]:
        """Every key in the bucket, those of unfinished multipart uploads too."""
        client = self.server.client()
        whole = [str(found.object_name) for found in client.list_objects(self.name, recursive=True)]
        unfinished = client._list_multipart_uploads(self.name).uploads
        return sorted(whole + [f"{found.object_name} (unfinished)" for found in unfinished])

    def remove(self) -> None:
        """Remove the bucket and all that is in it."""
        client = self.server.client()
        for found in client.list_objects(self.name, recursive=True):
            client.remove_object(self.name, str(found.object_name))
        for upload in client._list_multipart_uploads(self.name).uploads:
            client._abort_multipart_upload(self.name, str(upload.object_name), str(upload.upload_id))
        client.remove_bucket(self.name)


def pytest_report_header() -> str:
    """Say in a line which server the tests use; starts nothing."""
    if url := os.environ.get("PENSTOCK_TEST_S3_URL"):
        return f"S3: the server at {_option(url, 'endpoint')} (PENSTOCK_TEST_S3_URL)"
    if binary := find_minio():
        return f"S3: MinIO ({binary})"
    return "S3: moto, since no MinIO was found (.ci/minio builds one where Go is)"


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Give the server that the header names; one started here keeps its data in `folder`."""
    if url := os.environ.get("PENSTOCK_TEST_S3_URL"):
        keys = os.environ["PENSTOCK_TEST_S3_ACCESS_KEY"], os.environ["PENSTOCK_TEST_S3_SECRET_KEY"]
        yield S3Server(_option(url, "endpoint"), *keys, region=_option(url, "region", "us-east-1"))
    elif binary := find_minio():
        with _minio(binary, folder) as server:
            yield server
    else:
        with _moto() as server:
            yield server


def find_minio() -> str | None:
    """The MinIO binary to use, if there is one."""
    if named := os.environ.get("PENSTOCK_TEST_MINIO"):
        return named
    go = Path(os.environ.get("GOPATH", Path.home() / "go"))
    places = [os.environ.get("PATH", os.defpath), str(_ROOT / ".tools" / "bin"), str(go / "bin")]
    return shutil.which("minio", path=os.pathsep.join(places))


@contextmanager
def _minio(binary: str, folder: Path) -> Iterator[S3Server]:
    for attempt in range(1, START_ATTEMPTS + 1):
        port, log = free_port(), folder / f"minio-{attempt}.log"
        server = S3Server(f"http://127.0.0.1:{port}", "penstock-test", uuid.uuid4().hex)
        environment = {
            "HOME": str(folder),
            "PATH": os.environ.get("PATH", os.defpath),
            "MINIO_ROOT_USER": server.access_key,
            "MINIO_ROOT_PASSWORD": server.secret_key,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        }
        command = [binary, "server", "--quiet", "--address", f"127.0.0.1:{port}", str(folder / "data")]
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=folder)
        try:
            if _becomes_ready(process, server):
                yield server
                return
        finally:
            process.terminate()
            process.wait(timeout=READY_WITHIN_S)
    message = f"{binary} did not get ready; it said: {log.read_text(errors='replace')[-2000:]}"
    raise RuntimeError(message)


def _becomes_ready(process: subprocess.Popen[bytes], server: S3Server) -> bool:
    """Wait until it takes a request: it calls itself ready before, and whoever asks then is told to wait a minute."""
    deadline = time.monotonic() + READY_WITHIN_S
    client = server.client()
    client._http = urllib3.PoolManager(retries=False, timeout=1.0)
    while process.poll() is None and time.monotonic() < deadline:
        try:
            client.list_buckets()
        except (MinioException, urllib3.exceptions.HTTPError):
            time.sleep(0.05)  # not listening yet, or not more than that
        else:
            return True
    return False


@contextmanager
def _moto() -> Iterator[S3Server]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(f"http://{host}:{port}", "penstock-test", "penstock-test-secret")
    finally:
        server.stop()


def _option(url: str, name: str, default: str = "") -> str:
    return parse_qs(urlsplit(url).query).get(name, [default])[0]


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server named in the test header, for all tests of this process: each makes buckets of its own."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server) -> Iterator[S3Bucket]:
    """An empty bucket, removed with its content afterwards."""
    made = s3.make_bucket()
    yield made
    made.remove()
