"""The one Client: where the services are, how to reach them, and a property per service."""

from __future__ import annotations

import os
from os import PathLike
from types import TracebackType
from typing import Self

from penstock.api.inference.v1.prediction_jobs_pb2_grpc import PredictionJobServiceStub
from penstock.channels import MEBIBYTE, Connection, Limits
from penstock.credentials import Address, Credentials
from penstock.datasets import DatasetsClient
from penstock.features import FeaturesClient
from penstock.fetcher import FetcherClient
from penstock.inference import InferenceClient
from penstock.monitoring import MonitoringClient
from penstock.prediction_jobs import PredictionJobsClient
from penstock.registry import RegistryClient
from penstock.retries import RetryPolicy
from penstock.scripts import ScriptsClient
from penstock.stubs import FetcherStub, InferenceStub, MonitoringStub, RegistryStub, TrainerStub
from penstock.training import TrainingClient
from penstock.training_worker import TrainingWorkerClient
from penstock.validations import ValidationsClient

DEFAULT_ADDRESSES = {
    "PENSTOCK_REGISTRY_ADDRESS": "localhost:50051",
    "PENSTOCK_INFERENCE_ADDRESS": "localhost:8001",
    "PENSTOCK_MONITORING_ADDRESS": "localhost:50053",
    "PENSTOCK_JOBS_ADDRESS": "localhost:50056",
    "PENSTOCK_FETCHER_ADDRESS": "localhost:50054",
    "PENSTOCK_TRAINER_ADDRESS": "localhost:50055",
}


class Client:
    """A client of the whole suite. Threads may share it; nothing connects before the first call.

    Use it as a context manager, or `close()` it.
    """

    def __init__(
        self,
        *,
        registry: str | None = None,
        inference: str | None = None,
        monitoring: str | None = None,
        jobs: str | None = None,
        fetcher: str | None = None,
        trainer: str | None = None,
        token: str | None = None,
        token_file: str | PathLike[str] | None = None,
        ca_file: str | PathLike[str] | None = None,
        cert_file: str | PathLike[str] | None = None,
        key_file: str | PathLike[str] | None = None,
        insecure: bool = False,
        timeout_s: float = 30.0,
        idle_timeout_s: float = 60.0,
        retry: RetryPolicy | None = None,
        connections: int | None = None,
        max_message_bytes: int = 64 * MEBIBYTE,
    ) -> None:
        """Say where the services are and how to reach them.

        Args:
            registry: its address, host:port, with grpcs:// before it for TLS. None: PENSTOCK_REGISTRY_ADDRESS, or
                localhost:50051.
            inference: likewise PENSTOCK_INFERENCE_ADDRESS, or localhost:8001.
            monitoring: likewise PENSTOCK_MONITORING_ADDRESS, or localhost:50053.
            jobs: likewise PENSTOCK_JOBS_ADDRESS, or localhost:50056.
            fetcher: likewise PENSTOCK_FETCHER_ADDRESS, or localhost:50054.
            trainer: likewise PENSTOCK_TRAINER_ADDRESS, or localhost:50055.
            token: the API key. None: PENSTOCK_TOKEN, if there is one.
            token_file: a file that holds the API key, in place of `token`. This file and those of TLS are read again
                when they change: new calls use what is in them then.
            ca_file: PEM certificates to trust; with it TLS is used wherever the address doesn't say http:// or grpc://.
            cert_file: this side's certificate, PEM, for mutual TLS.
            key_file: its private key, PEM.
            insecure: send the token in plain text also to another machine.
            timeout_s: a unary call with all its retries, in seconds.
            idle_timeout_s: one wait for the other side of an upload, a download or a watch, in seconds. They have no
                total limit: it would cut large models off, or let dead connections hang.
            retry: how calls that may be repeated are repeated; None: 5 tries. `NO_RETRIES` turns it off.
            connections: connections to the inference service, used in turn. None: one, and several for each of its
                workers where it runs more than one of them, which it is asked with the first call.
            max_message_bytes: the largest message sent or taken.

        Raises:
            InvalidArgument: an address or a setting is malformed, or the token would go to another machine in plain
                text (TOKEN_OVER_INSECURE_CHANNEL).
        """
        credentials = Credentials(
            token=os.environ.get("PENSTOCK_TOKEN", "") if token is None and token_file is None else token or "",
            token_file=token_file,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            insecure=insecure,
        )
        limits = Limits(
            timeout_s=timeout_s,
            idle_timeout_s=idle_timeout_s,
            max_message_bytes=max_message_bytes,
            retry=retry or RetryPolicy(),
        )
        self._registry_connection = Connection(
            RegistryStub, _address(registry, "PENSTOCK_REGISTRY_ADDRESS"), credentials, limits
        )
        self._inference_connection = Connection(
            InferenceStub,
            _address(inference, "PENSTOCK_INFERENCE_ADDRESS"),
            credentials,
            limits,
            channels=connections,
        )
        self._monitoring_connection = Connection(
            MonitoringStub, _address(monitoring, "PENSTOCK_MONITORING_ADDRESS"), credentials, limits
        )
        self._jobs_connection = Connection(
            PredictionJobServiceStub, _address(jobs, "PENSTOCK_JOBS_ADDRESS"), credentials, limits
        )
        self._fetcher_connection = Connection(
            FetcherStub, _address(fetcher, "PENSTOCK_FETCHER_ADDRESS"), credentials, limits
        )
        trainer_address = _address(trainer, "PENSTOCK_TRAINER_ADDRESS")
        self._trainer_connection = Connection(TrainerStub, trainer_address, credentials, limits)
        self._registry = RegistryClient(self._registry_connection)
        self._features = FeaturesClient(self._registry_connection)
        self._inference = InferenceClient(self._inference_connection)
        self._monitoring = MonitoringClient(self._monitoring_connection)
        self._jobs = PredictionJobsClient(self._jobs_connection)
        self._fetcher = FetcherClient(self._fetcher_connection)
        self._training = TrainingClient(self._trainer_connection)
        self._datasets = DatasetsClient(self._trainer_connection)
        self._scripts = ScriptsClient(self._trainer_connection)
        self._validations = ValidationsClient(self._trainer_connection)
        self._training_worker = TrainingWorkerClient(self._trainer_connection, trainer_address, credentials)

    @property
    def registry(self) -> RegistryClient:
        """Models, their versions, and what is live."""
        return self._registry

    @property
    def features(self) -> FeaturesClient:
        """Values of entities, as they are now and as they were known at any time."""
        return self._features

    @property
    def inference(self) -> InferenceClient:
        """Predictions."""
        return self._inference

    @property
    def monitoring(self) -> MonitoringClient:
        """What was predicted, what really happened, and how good the model is."""
        return self._monitoring

    @property
    def jobs(self) -> PredictionJobsClient:
        """Batch predictions."""
        return self._jobs

    @property
    def fetcher(self) -> FetcherClient:
        """Models brought from elsewhere into the registry."""
        return self._fetcher

    @property
    def training(self) -> TrainingClient:
        """Runs that make a version of a model."""
        return self._training

    @property
    def validations(self) -> ValidationsClient:
        """Versions tried on rows that they have not seen."""
        return self._validations

    @property
    def datasets(self) -> DatasetsClient:
        """Rows to learn from and to judge by, in versions that never change."""
        return self._datasets

    @property
    def scripts(self) -> ScriptsClient:
        """Python of your own that the recipe `script` runs, in versions that never change."""
        return self._scripts

    @property
    def training_worker(self) -> TrainingWorkerClient:
        """What a worker elsewhere asks for and tells."""
        return self._training_worker

    def close(self) -> None:
        """Close every connection; calls in flight end with Cancelled, later ones raise FailedPrecondition."""
        for connection in (
            self._trainer_connection,
            self._fetcher_connection,
            self._jobs_connection,
            self._monitoring_connection,
            self._inference_connection,
            self._registry_connection,
        ):
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _address(given: str | None, variable: str) -> Address:
    return Address.parse(given or os.environ.get(variable) or DEFAULT_ADDRESSES[variable])
