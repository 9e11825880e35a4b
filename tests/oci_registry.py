"""A real registry of OCI artifacts (the CNCF's distribution), and what pushes to it as `oras push` does."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import urllib3

from penstock.cli.embedded.ports import free_port
from tests.certificates import Pair
from tests.s3 import S3Bucket

READY_WITHIN_S = 60.0
START_ATTEMPTS = 3  # a free port may be taken before the registry binds it
USER, PASSWORD = "reader", "secret"
_HTPASSWD = "reader:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
TITLE = "org.opencontainers.image.title"
UNPACK = "io.deis.oras.content.unpack"


@dataclass(frozen=True)
class Layer:
    """Bytes of an artifact; a title is a file's name."""

    content: bytes
    title: str = ""
    media_type: str = "application/vnd.oci.image.layer.v1.tar"
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OciRegistry:
    """A running registry; `headers` are what a push is let in by."""

    host: str
    scheme: str = "http"
    headers: Mapping[str, str] = field(default_factory=dict)
    ca_file: Path | None = None

    def push(self, name: str, tag: str, layers: Sequence[Layer], **more: Any) -> str:
        """Push an artifact, with more of its manifest; gives its digest."""
        return self.push_manifest(name, tag, self.manifest(name, layers, **more))

    def manifest(self, name: str, layers: Sequence[Layer], **more: Any) -> dict[str, Any]:
        """Push what a manifest names; gives it."""
        config = self.push_blob(name, b"{}", "application/vnd.oci.empty.v1+json")
        pushed = [
            self.push_blob(name, layer.content, layer.media_type)
            | {"annotations": {**({TITLE: layer.title} if layer.title else {}), **layer.annotations}}
            for layer in layers
        ]
        said = {"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example.model"}
        return {**said, "config": config, "layers": pushed, **more}

    def push_manifest(self, name: str, tag: str, manifest: Mapping[str, Any] | bytes) -> str:
        """Push a manifest as it is; gives its digest."""
        body = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        kind = json.loads(body)["mediaType"]
        answer = self._ask("PUT", f"/v2/{name}/manifests/{tag}", body, {"Content-Type": kind})
        assert answer.status == 201, answer.data
        return str(answer.headers["Docker-Content-Digest"])

    def push_blob(self, name: str, content: bytes, media_type: str) -> dict[str, Any]:
        """Push bytes; gives their descriptor."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        begun = self._ask("POST", f"/v2/{name}/blobs/uploads/")
        assert begun.status == 202, begun.data
        place = begun.headers["Location"]
        ended = self._ask("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", content)
        assert ended.status == 201, ended.data
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def _ask(
        self, method: str, place: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> urllib3.BaseHTTPResponse:
        pool = urllib3.PoolManager(ca_certs=str(self.ca_file) if self.ca_file else None, retries=False)
        url = urljoin(f"{self.scheme}://{self.host}", place)
        kind = {"Content-Type": "application/octet-stream"}
        return pool.request(method, url, body=body, headers={**kind, **self.headers, **(headers or {})})


@contextmanager
def oci_registry(
    folder: Path,
    *,
    basic: bool = False,
    bearer: Mapping[str, str] | None = None,
    tls: Pair | None = None,
    ca_file: Path | None = None,
    bucket: S3Bucket | None = None,
    headers: Mapping[str, str] | None = None,
) -> Iterator[OciRegistry]:
    """Run one, which lets everybody in, or whom a password or a token lets in; it keeps its blobs in `folder`, or in a
    bucket, which it redirects to.

    Where there is no registry a laptop's test is skipped, with the reason, and CI's fails.
    """
    binary = shutil.which("docker-registry") or shutil.which("registry")
    if binary is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no docker-registry here; .ci/system installs it")
        pytest.skip("no docker-registry here: apt install docker-registry")
    for attempt in range(1, START_ATTEMPTS + 1):
        port, log = free_port(), folder / f"registry-{attempt}.log"
        host = f"localhost:{port}" if tls else f"127.0.0.1:{port}"
        said = _configuration(folder, host, basic=basic, bearer=bearer, tls=tls, bucket=bucket)
        (folder / "config.yml").write_text(json.dumps(said))  # JSON is YAML
        with log.open("wb") as output:
            process = subprocess.Popen(
                [binary, "serve", str(folder / "config.yml")], stdout=output, stderr=output, cwd=folder, env={}
            )
        try:
            registry = OciRegistry(host, "https" if tls else "http", headers or {}, ca_file)
            if _becomes_ready(process, registry):
                yield registry
                return
        finally:
            process.terminate()
            process.wait(timeout=READY_WITHIN_S)
    message = f"{binary} did not get ready; it said: {log.read_text(errors='replace')[-2000:]}"
    raise RuntimeError(message)


def _configuration(
    folder: Path,
    host: str,
    *,
    basic: bool,
    bearer: Mapping[str, str] | None,
    tls: Pair | None,
    bucket: S3Bucket | None,
) -> dict[str, Any]:
    http: dict[str, Any] = {"addr": f"127.0.0.1:{host.rpartition(':')[2]}", "secret": "of-this-test"}
    if tls is not None:
        http["tls"] = {"certificate": str(tls.cert_file), "key": str(tls.key_file)}
    storage: dict[str, Any] = {"filesystem": {"rootdirectory": str(folder / "blobs")}}
    if bucket is not None:
        server = bucket.server
        storage = {
            "s3": {
                "accesskey": server.access_key,
                "secretkey": server.secret_key,
                "region": server.region,
                "regionendpoint": server.endpoint,
                "bucket": bucket.name,
                "secure": False,
            }
        }
    said: dict[str, Any] = {"version": 0.1, "log": {"level": "error"}, "storage": storage, "http": http}
    if basic:
        (folder / "htpasswd").write_text(_HTPASSWD)
        said["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    if bearer is not None:
        said["auth"] = {"token": dict(bearer)}
    return said


def _becomes_ready(process: subprocess.Popen[bytes], registry: OciRegistry) -> bool:
    deadline = time.monotonic() + READY_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            registry._ask("GET", "/v2/")
        except urllib3.exceptions.HTTPError:
            time.sleep(0.05)  # not listening yet
        else:
            return True
    return False
