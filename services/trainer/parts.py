"""What the parts of the trainer are built on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from penstock import Client
from services.common.blobs import BlobStore
from services.common.postgres import Database
from services.trainer.settings import TrainerSettings


@dataclass(frozen=True, slots=True)
class Parts:
    """What all of it shares; what is opened, `stack` closes in reverse."""

    settings: TrainerSettings
    database: Database
    blobs: BlobStore
    open_client: Callable[[], Client]
    """A client of the registry, the inference service and monitoring; whoever opens one closes it."""
    metrics: CollectorRegistry
    stack: ExitStack
    work_folder: Path
    """This process's own, for what it works on; what a killed one left behind goes when the next begins."""
