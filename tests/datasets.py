"""The trainer's datasets, in this process: PostgreSQL, a folder or a bucket for blobs, and a socket."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import SecretStr

import penstock
from penstock.api.trainer.v1 import datasets_pb2 as pb
from penstock.ids import uuid7
from services.common.blobs import BlobStore, open_blobs
from services.common.keys import KeyRing
from services.common.metrics import MetricsServer
from services.common.postgres import Database
from services.common.server import Server
from services.trainer.datasets.assembly import open_datasets
from services.trainer.datasets.materialising import Datasets
from services.trainer.parts import Parts
from services.trainer.settings import TrainerSettings
from services.trainer.task import Part, RunFolder
from tests.postgres import LOCK_TIMEOUT_MS
from tests.services import running


class Going:
    """A run that nobody asks to end."""

    def check(self) -> None:
        """Go on."""

    def wait(self, seconds: float) -> None:
        """Wait."""
        time.sleep(min(seconds, 0.05))

    def on_stop(self, callback: Any) -> None:
        """Nobody stops it."""

    def forget(self, callback: Any) -> None:
        """Nobody stops it."""


@dataclass(frozen=True)
class Shelf:
    """Datasets that are served, and what runs call."""

    client: penstock.Client
    datasets: Datasets
    database: Database
    blobs: BlobStore
    database_url: str
    address: str

    def upload(self, name: str, text: str, **more: Any) -> pb.Dataset:
        """Upload CSV."""
        return self.put(name, text.encode(), "csv", **more).dataset

    def put(self, name: str, data: bytes, form: str, **more: Any) -> pb.UploadDatasetResponse:
        """Upload bytes as a file of a form."""
        with ExitStack() as stack:
            path = _file(stack, data, form)
            return self.client.datasets.upload(name, path, **more)

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the database."""
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(query.encode(), values).fetchall()

    def release(self, run_id: UUID) -> None:
        """End a run."""
        with self.database.transaction() as connection:
            self.datasets.release(connection, run_id)


@contextmanager
def shelf(database_url: str, folder: Path, *, blobs: Mapping[str, Any] | None = None, **more: Any) -> Iterator[Shelf]:
    """Serve datasets, the blobs in a folder unless others are named."""
    kept = {"blob_url": f"file://{folder}/blobs", **(blobs or {})}
    given = {"database_lock_timeout_ms": LOCK_TIMEOUT_MS, "poll_interval_ms": 100, **kept, **more}
    settings = TrainerSettings(port=0, metrics_port=0, database_url=SecretStr(database_url), **given)
    found: list[tuple[Datasets, Database, BlobStore]] = []

    def build(settings: TrainerSettings, stack: ExitStack) -> Server:
        keys = KeyRing(settings.keys_file)
        keys.open()
        database = stack.enter_context(Database.from_settings(settings, name="penstock-datasets"))
        store = _opened(settings)
        stack.callback(store.close)
        metrics = MetricsServer(settings.host, settings.metrics_port)

        def open_client() -> penstock.Client:
            return penstock.Client(
                registry=settings.registry_address, monitoring=settings.monitoring_address or "127.0.0.1:1"
            )

        datasets, services, checks = open_datasets(
            Parts(settings, database, store, open_client, metrics.registry, stack, folder)
        )
        found.append((datasets, database, store))
        return Server(settings, tuple(services), keys=keys, metrics=metrics, checks=tuple(checks))

    with running(build, settings) as service, penstock.Client(trainer=service.address) as client:
        ((datasets, database, store),) = found
        yield Shelf(client, datasets, database, store, database_url, service.address)


def folder_of(path: Path) -> RunFolder:
    """Make a run's folder."""
    folder = RunFolder(path / uuid7())
    folder.make()
    return folder


def parts_in(folder: RunFolder) -> dict[Part, list[dict[str, Any]]]:
    """Read what lies in a run's folder."""
    return {part: pq.read_table(folder.rows(part)).to_pylist() for part in Part if folder.rows(part).exists()}


def as_parquet(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """Write columns as Parquet."""
    out = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), out)
    return out.getvalue()


def _file(stack: ExitStack, data: bytes, form: str) -> Path:
    path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / f"rows.{form}"
    path.write_bytes(data)
    return path


def _opened(settings: TrainerSettings) -> BlobStore:
    access_key, secret_key = settings.blob_access_key, settings.blob_secret_key
    return open_blobs(
        settings.blob_url,
        prefix="trainer",
        access_key=access_key.get_secret_value() if access_key else None,
        secret_key=secret_key.get_secret_value() if secret_key else None,
    )
