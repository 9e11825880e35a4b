"""The real services, in this process: PostgreSQL behind them, files for blobs, ports of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import penstock
from services.common.server import Server
from services.inference.__main__ import build as build_inference
from services.inference.settings import InferenceSettings
from services.monitoring.__main__ import build as build_monitoring
from services.monitoring.settings import MonitoringSettings
from services.registry.__main__ import build as build_registry
from services.registry.settings import RegistrySettings
from tests.postgres import LOCK_TIMEOUT_MS

CloneDatabase = Callable[[str], str]


@dataclass(frozen=True)
class Running:
    """A service that runs here."""

    address: str
    server: Server
    metrics_port: int


@contextmanager
def running(build: Callable[[Any, ExitStack], Server], settings: Any) -> Iterator[Running]:
    """Run a service as its `__main__` does, without the signals."""
    with ExitStack() as stack:
        server = build(settings, stack)
        port = server.open()
        stack.callback(server.close)
        yield Running(f"127.0.0.1:{port}", server, server.metrics_port)


@contextmanager
def running_registry(database_url: str, folder: Path, *, port: int = 0, **more: Any) -> Iterator[Running]:
    """Run a registry on a database and a folder."""
    settings = RegistrySettings(
        port=port,
        metrics_port=0,
        database_url=SecretStr(database_url),
        blob_url=f"file://{folder}/blobs",
        **{"database_lock_timeout_ms": LOCK_TIMEOUT_MS, **more},
    )
    with running(build_registry, settings) as registry:
        yield registry


@contextmanager
def running_monitoring(database_url: str, **more: Any) -> Iterator[Running]:
    """Run monitoring on a database."""
    # No registry, unless one is given, also where somebody's own suite runs on the usual port.
    given = {"database_lock_timeout_ms": LOCK_TIMEOUT_MS, "registry_address": "127.0.0.1:1", **more}
    settings = MonitoringSettings(port=0, metrics_port=0, database_url=SecretStr(database_url), **given)
    with running(build_monitoring, settings) as monitoring:
        yield monitoring


@contextmanager
def running_inference(folder: Path, *, registry: str, monitoring: str, **more: Any) -> Iterator[Running]:
    """Run inference beside a registry and monitoring."""
    settings = InferenceSettings(
        port=0,
        metrics_port=0,
        registry_address=registry,
        monitoring_address=monitoring,
        cache_dir=folder / "cache",
        spool_dir=folder / "spool",
        **more,
    )
    with running(build_inference, settings) as inference:
        yield inference


@pytest.fixture
def registry(clone_database: CloneDatabase, tmp_path: Path) -> Iterator[Running]:
    """A registry of the test's own."""
    with running_registry(clone_database("registry"), tmp_path) as service:
        yield service


@pytest.fixture
def monitoring(clone_database: CloneDatabase) -> Iterator[Running]:
    """A monitoring service of the test's own."""
    with running_monitoring(clone_database("monitoring")) as service:
        yield service


@pytest.fixture
def inference(registry: Running, monitoring: Running, tmp_path: Path) -> Iterator[Running]:
    """An inference service that follows the registry and reports to monitoring."""
    with running_inference(tmp_path, registry=registry.address, monitoring=monitoring.address) as service:
        yield service


@pytest.fixture
def client(registry: Running, monitoring: Running, inference: Running) -> Iterator[penstock.Client]:
    """A client of all three."""
    with penstock.Client(
        registry=registry.address, monitoring=monitoring.address, inference=inference.address
    ) as connected:
        yield connected
