"""A trainer with all that a run needs, in this process: PostgreSQL, a registry, inference, and monitoring."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pyarrow.parquet as pq
from pydantic import SecretStr

import penstock
from penstock.api.trainer.v1 import training_pb2 as pb
from penstock.cli.embedded.ports import free_port
from services.trainer.__main__ import build
from services.trainer.settings import TrainerSettings
from tests.postgres import LOCK_TIMEOUT_MS, PostgresServer
from tests.services import Running, running, running_inference, running_monitoring, running_registry
from tests.testdata import models
from tests.validating import COLUMNS, flowers

_LEARNS_NOTHING = f"""
import base64
def train(context):
    (context.artifact / "model.onnx").write_bytes(base64.b64decode("{base64.b64encode(models.classifier()).decode()}"))
    return {{
        "label": "label", "features": dict.fromkeys({COLUMNS}, "FP32"), "input_name": "X",
        "task_type": "classification", "classes": ["0", "1", "2"],
    }}
"""
QUICK: dict[str, Any] = {"recipe": "script", "parameters": {"code": _LEARNS_NOTHING}, "data_source": "flowers"}
"""A run of which all goes quickly: what its recipe leaves was there before, and knows all `flowers`."""


@dataclass(frozen=True)
class TrainingPlace:
    """All that a run needs, a client of all of it, and the trainer's own settings; `databases`: of each service."""

    client: penstock.Client
    trainer: Running
    settings: TrainerSettings
    database_url: str
    addresses: dict[str, str]
    databases: dict[str, str]

    def train(self, model: str, **more: Any) -> pb.TrainingRun:
        """Train, and wait for the end."""
        return self.client.training.wait_run(self.client.training.create_run(model, **more).id)

    def upload_flowers(self, folder: Path) -> None:
        """Have the rows that `QUICK` runs on."""
        rows = flowers(200)
        path = folder / "flowers.parquet"
        pq.write_table(rows.rename_columns([*COLUMNS, "label"]), path)
        self.client.datasets.upload("flowers", path)

    @contextmanager
    def replica(self, **more: Any) -> Iterator[Running]:
        """Run another trainer on the same database."""
        with running(build, self.settings.model_copy(update={"port": 0, **more})) as trainer:
            yield trainer

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the trainer's database."""
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(query.encode(), values).fetchall()


def recipes() -> list[psutil.Process]:
    """The processes of recipes below this one."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "services.trainer.recipes.child" in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


@contextmanager
def training(server: PostgresServer, folder: Path, **more: Any) -> Iterator[TrainingPlace]:
    """Run them on databases of their own; the settings are the trainer's."""
    with ExitStack() as stack:
        urls = {name: server.clone(name) for name in ("registry", "monitoring", "trainer")}
        for url in urls.values():
            stack.callback(server.drop, url)
        registry = stack.enter_context(running_registry(urls["registry"], folder))
        port = free_port()
        monitoring = stack.enter_context(
            running_monitoring(
                urls["monitoring"], registry_address=registry.address, trainer_address=f"127.0.0.1:{port}"
            )
        )
        inference = stack.enter_context(
            running_inference(folder, registry=registry.address, monitoring=monitoring.address)
        )
        settings = TrainerSettings(
            port=port,
            metrics_port=0,
            database_url=SecretStr(urls["trainer"]),
            blob_url=f"file://{folder}/trainer",
            registry_address=registry.address,
            inference_address=inference.address,
            monitoring_address=monitoring.address,
            trainer_worker_address=f"127.0.0.1:{port}",
            **{"database_lock_timeout_ms": LOCK_TIMEOUT_MS, "trainer_work_folder": folder, **more},
        )
        trainer = stack.enter_context(running(build, settings))
        addresses = {
            "registry": registry.address,
            "monitoring": monitoring.address,
            "inference": inference.address,
            "trainer": trainer.address,
        }
        client = stack.enter_context(
            penstock.Client(
                registry=registry.address,
                monitoring=monitoring.address,
                inference=inference.address,
                trainer=trainer.address,
            )
        )
        yield TrainingPlace(client, trainer, settings, urls["trainer"], addresses, urls)
