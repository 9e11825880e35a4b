"""Secrets that sources are read with: planted, used and refused; then all that a fetcher kept and said is searched."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import psycopg
import pytest

import penstock
from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.cli.embedded.ports import free_port
from penstock.errors import PenstockError
from tests import hub, origins
from tests.held_fetches import ended
from tests.registry import RegistryProcess
from tests.services import running_registry
from tests.testdata import models

pytestmark = pytest.mark.slow
TOKEN, S3_KEY, S3_SECRET = "hf_planted-token", "planted-s3-access", "planted-s3-secret"
OCI_USER, OCI_PASSWORD, WEBHOOK = "planted-oci-user", "planted-oci-password", "planted-webhook-secret"
IN_URL = "planted-token-in-a-url"
OCI_AUTH = base64.b64encode(f"{OCI_USER}:{OCI_PASSWORD}".encode()).decode()
PLANTED = (TOKEN, S3_SECRET, OCI_PASSWORD, OCI_AUTH, WEBHOOK, IN_URL)


def tables(url: str) -> str:
    """Give all rows of all tables, and bytes among them as the text that they may be."""
    with psycopg.connect(url) as connection:
        named = connection.execute(
            "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        dumped = [repr(connection.execute(f"SELECT * FROM {name}".encode()).fetchall()) for (name,) in named]
    assert any("fetch_jobs" in name for (name,) in named)
    return "\n".join(dumped)


def test_no_secret_of_a_source_is_kept_or_said(clone_database: Callable[[str], str], tmp_path: Path) -> None:
    auth, keys = tmp_path / "auth.json", tmp_path / "keys"
    keys.write_text(base64.b64encode(os.urandom(32)).decode() + "\n")
    said: list[str] = []
    metrics_port = free_port()
    with (
        running_registry(clone_database("registry"), tmp_path) as registry,
        hub.serving() as server,
        origins.serving() as origin,
    ):
        server.token = TOKEN
        server.publish("org/private", {"model.onnx": models.classifier()}, private=True)
        server.publish("org/refused", {"model.onnx": models.classifier()}, gated=True, allowed=False)
        here = origin.url.removeprefix("http://")
        auth.write_text(json.dumps({"auths": {here: {"auth": OCI_AUTH}}}))
        refusing = {"/v2/org/model/manifests/v1": 401, "/m.onnx": 401}
        for path, status in refusing.items():
            origin.serve(path, b"", failures=[(status, {"WWW-Authenticate": "Basic"})] * 50)
        database = clone_database("fetcher")
        fetcher = RegistryProcess(
            database,
            tmp_path,
            module="services.fetcher",
            registry_address=registry.address,
            metrics_port=metrics_port,
            log_level="debug",
            secrets_key_file=keys,
            fetcher_allowed_hosts="127.0.0.1",
            fetcher_webhook_allowed_hosts="127.0.0.1",
            fetcher_backoff_ms=1,
            fetcher_hf_endpoint=server.url,
            fetcher_hf_token=TOKEN,
            fetcher_s3_endpoint=origin.url,
            fetcher_s3_access_key=S3_KEY,
            fetcher_s3_secret_key=S3_SECRET,
            fetcher_s3_buckets="bucket",
            fetcher_oci_auth_file=auth,
            fetcher_oci_plain_hosts=here,
        )
        try:
            with penstock.Client(fetcher=fetcher.address()) as client:
                asked = [
                    ("huggingface", "org/private"),
                    ("huggingface", "org/refused"),
                    ("oci", f"{here}/org/model:v1"),
                    ("s3", "s3://bucket/m.onnx"),
                    ("url", f"{origin.url}/m.onnx"),
                    ("url", f"{origin.url}/m.onnx?token={IN_URL}"),
                ]
                states = []
                for source, reference in asked:
                    try:
                        said.append(str(client.fetcher.inspect(source, reference)))
                    except PenstockError as error:
                        said.append(f"{error!r} {error.message}")
                    try:
                        hook = f"{origin.url}/hook"
                        job = client.fetcher.start(source, reference, webhook=hook, webhook_secret=WEBHOOK)
                        job = ended(client, job)
                        states.append(job.state)
                        said.append(str(job))
                    except PenstockError as error:
                        said.append(f"{error!r} {error.message}")
                said.append(str(list(client.fetcher.list())))
            with urlopen(f"http://127.0.0.1:{metrics_port}/metrics") as page:
                metrics = page.read().decode()
        finally:
            fetcher.end()
    failed = pb.FETCH_JOB_STATE_FAILED
    assert states == [pb.FETCH_JOB_STATE_COMPLETED, failed, failed, failed, failed], said
    sent = str([server.asked, origin.asked])
    assert [secret for secret in (TOKEN, OCI_AUTH) if secret not in sent] == [], "they were used"
    places = {"the database": tables(database), "the log": fetcher.log.read_text(), "answers": "\n".join(said),
              "metrics": metrics}  # fmt: skip
    found = [(secret, place) for secret in PLANTED for place, text in places.items() if secret in text]
    assert found == []
