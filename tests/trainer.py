"""A trainer that trains nothing: it speaks the real contract over a real socket, and its runs go as a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc

from penstock.api.trainer.v1 import datasets_pb2, datasets_pb2_grpc, training_pb2_grpc
from penstock.api.trainer.v1 import training_pb2 as pb
from penstock.ids import uuid7
from services.common.errors import DomainError, FailedPrecondition, NotFound
from services.common.keys import KeyRing
from services.common.metrics import MetricsServer
from services.common.server import Server, Service
from services.common.settings import ServerSettings
from services.trainer.datasets import servicer as datasets
from services.trainer.runs import servicer as runs


class ScriptedTrainer(training_pb2_grpc.TrainingServiceServicer):
    """Keeps the contract's promises on ids, and leaves how a run goes to `move`."""

    def __init__(self) -> None:
        self.address = ""
        self.asked: list[pb.CreateTrainingRunRequest] = []
        """All that was asked for, repetitions included."""
        self.runs: dict[str, pb.TrainingRun] = {}
        self.refusal: DomainError | None = None
        """What CreateTrainingRun fails with; None: it takes what comes."""
        self.broken: dict[str, DomainError] = {}
        """What it fails with for one model."""
        self.when_asked: Callable[[], None] = lambda: None
        self._by_request: dict[str, str] = {}
        self._lock = threading.Lock()

    def CreateTrainingRun(
        self, request: pb.CreateTrainingRunRequest, context: grpc.ServicerContext
    ) -> pb.CreateTrainingRunResponse:
        self.when_asked()
        with self._lock:
            self.asked.append(request)
            refusal = self.refusal or self.broken.get(request.model)
            if refusal is not None:
                raise refusal
            known = self._by_request.get(request.request_id)
            if known is None:
                known = self._by_request[request.request_id] = uuid7()
                self.runs[known] = pb.TrainingRun(
                    id=known,
                    model=request.model,
                    state=pb.TRAINING_RUN_STATE_QUEUED,
                    type=pb.TRAINING_TYPE_RETRAIN,
                    trigger=request.trigger,
                    parent_version=request.parent_version,
                    config_version=1,
                    dataset=f"{request.model}-rows/3",
                )
                self.runs[known].create_time.GetCurrentTime()
            return pb.CreateTrainingRunResponse(run=self.runs[known])

    def GetTrainingRun(
        self, request: pb.GetTrainingRunRequest, context: grpc.ServicerContext
    ) -> pb.GetTrainingRunResponse:
        with self._lock:
            if request.id not in self.runs:
                raise NotFound(f"run {request.id} is not known", reason="RUN_NOT_FOUND")
            return pb.GetTrainingRunResponse(run=self.runs[request.id])

    def move(self, run_id: str, state: int, **fields: Any) -> None:
        """Have a run come so far."""
        with self._lock:
            self.runs[run_id].MergeFrom(pb.TrainingRun(state=state, **fields))  # type: ignore[arg-type] # a plain int

    def forget(self, run_id: str) -> None:
        """Lose a run."""
        with self._lock:
            del self.runs[run_id]


class ScriptedDatasets(datasets_pb2_grpc.DatasetServiceServicer):
    """Knows every dataset, and of each the same."""

    def GetDataset(
        self, request: datasets_pb2.GetDatasetRequest, context: grpc.ServicerContext
    ) -> datasets_pb2.GetDatasetResponse:
        dataset = datasets_pb2.Dataset(
            name=request.name, version=request.version, row_count=100, digest="ab" * 32, created_by="ada"
        )
        return datasets_pb2.GetDatasetResponse(dataset=dataset)


def _register_datasets(server: grpc.Server) -> None:
    scripted = ScriptedDatasets()  # type: ignore[abstract] # as below
    datasets_pb2_grpc.add_DatasetServiceServicer_to_server(scripted, server)


def no_training_config() -> DomainError:
    """What the trainer says of a model that nobody told it how to train."""
    return FailedPrecondition("the model has no training config; set one", reason="NO_TRAINING_CONFIG")


@contextmanager
def serve_trainer(trainer: ScriptedTrainer | None = None, *, port: int = 0) -> Iterator[ScriptedTrainer]:
    """Serve it on a port of the loopback, with the kit that every service is served by."""
    trainer = trainer or ScriptedTrainer()  # type: ignore[abstract] # what is not asked of it is UNIMPLEMENTED
    register = partial(training_pb2_grpc.add_TrainingServiceServicer_to_server, trainer)
    settings = ServerSettings(port=port, metrics_port=0, health_interval_ms=50)
    keys = KeyRing(None)
    keys.open()
    services = (
        Service(name=runs.NAME, register=register, roles=runs.ROLES, endless=runs.ENDLESS),
        Service(name=datasets.NAME, register=_register_datasets, roles=datasets.ROLES),
    )
    server = Server(settings, services, keys=keys, metrics=MetricsServer("127.0.0.1", 0))
    trainer.address = f"127.0.0.1:{server.open()}"
    try:
        yield trainer
    finally:
        server.close()
