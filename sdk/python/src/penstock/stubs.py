"""The stubs of a process that serves more than one service, as one: their RPCs' names are distinct."""

from __future__ import annotations

from typing import Any

import grpc

from penstock.api.features.v1.feature_views_pb2_grpc import FeatureViewServiceStub
from penstock.api.features.v1.features_pb2_grpc import FeatureServiceStub
from penstock.api.fetcher.v1.fetch_jobs_pb2_grpc import FetchJobServiceStub
from penstock.api.fetcher.v1.fetch_schedules_pb2_grpc import FetchScheduleServiceStub
from penstock.api.fetcher.v1.sources_pb2_grpc import SourceServiceStub
from penstock.api.inference.v1.inference_pb2_grpc import InferenceServiceStub
from penstock.api.inference.v1.response_cache_pb2_grpc import ResponseCacheServiceStub
from penstock.api.inference.v1.sessions_pb2_grpc import SessionServiceStub
from penstock.api.monitoring.v1.alerts_pb2_grpc import AlertServiceStub
from penstock.api.monitoring.v1.channels_pb2_grpc import ChannelServiceStub
from penstock.api.monitoring.v1.configuration_pb2_grpc import ConfigurationServiceStub
from penstock.api.monitoring.v1.drift_pb2_grpc import DriftServiceStub
from penstock.api.monitoring.v1.export_pb2_grpc import ExportServiceStub
from penstock.api.monitoring.v1.lineage_pb2_grpc import LineageServiceStub
from penstock.api.monitoring.v1.metrics_pb2_grpc import MetricsServiceStub
from penstock.api.monitoring.v1.monitoring_pb2 import RecordEventsResponse
from penstock.api.monitoring.v1.monitoring_pb2_grpc import MonitoringServiceStub
from penstock.api.monitoring.v1.profiles_pb2_grpc import ProfileServiceStub
from penstock.api.monitoring.v1.quality_pb2_grpc import QualityServiceStub
from penstock.api.monitoring.v1.retraining_pb2_grpc import RetrainingServiceStub
from penstock.api.registry.v1.administration_pb2_grpc import AdministrationServiceStub
from penstock.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from penstock.api.registry.v1.uploads_pb2_grpc import UploadServiceStub
from penstock.api.trainer.v1.datasets_pb2_grpc import DatasetServiceStub
from penstock.api.trainer.v1.scripts_pb2_grpc import ScriptServiceStub
from penstock.api.trainer.v1.training_pb2_grpc import TrainingServiceStub
from penstock.api.trainer.v1.validations_pb2_grpc import ValidationServiceStub
from penstock.api.trainer.v1.worker_pb2_grpc import TrainingWorkerServiceStub


class RegistryStub(
    RegistryServiceStub, UploadServiceStub, AdministrationServiceStub, FeatureViewServiceStub, FeatureServiceStub
):
    """All that the registry answers, over one channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        # The generated constructors set an attribute for each RPC; their type stubs show only __new__.
        RegistryServiceStub.__init__(self, channel)  # type: ignore[call-arg]
        UploadServiceStub.__init__(self, channel)  # type: ignore[call-arg]
        AdministrationServiceStub.__init__(self, channel)  # type: ignore[call-arg]
        FeatureViewServiceStub.__init__(self, channel)  # type: ignore[call-arg]
        FeatureServiceStub.__init__(self, channel)  # type: ignore[call-arg]


class InferenceStub(InferenceServiceStub, SessionServiceStub, ResponseCacheServiceStub):
    """All that the inference service answers, over each of its channels."""

    def __init__(self, channel: grpc.Channel) -> None:
        InferenceServiceStub.__init__(self, channel)  # type: ignore[call-arg] # as above
        SessionServiceStub.__init__(self, channel)  # type: ignore[call-arg]
        ResponseCacheServiceStub.__init__(self, channel)  # type: ignore[call-arg]


class FetcherStub(FetchJobServiceStub, FetchScheduleServiceStub, SourceServiceStub):
    """All that the fetcher answers."""

    def __init__(self, channel: grpc.Channel) -> None:
        FetchJobServiceStub.__init__(self, channel)  # type: ignore[call-arg] # as above
        FetchScheduleServiceStub.__init__(self, channel)  # type: ignore[call-arg]
        SourceServiceStub.__init__(self, channel)  # type: ignore[call-arg]


class TrainerStub(
    TrainingServiceStub, DatasetServiceStub, ScriptServiceStub, TrainingWorkerServiceStub, ValidationServiceStub
):
    """All that the trainer answers."""

    def __init__(self, channel: grpc.Channel) -> None:
        TrainingServiceStub.__init__(self, channel)  # type: ignore[call-arg] # as above
        DatasetServiceStub.__init__(self, channel)  # type: ignore[call-arg]
        ScriptServiceStub.__init__(self, channel)  # type: ignore[call-arg]
        TrainingWorkerServiceStub.__init__(self, channel)  # type: ignore[call-arg]
        ValidationServiceStub.__init__(self, channel)  # type: ignore[call-arg]


class MonitoringStub(
    MonitoringServiceStub,
    MetricsServiceStub,
    ProfileServiceStub,
    DriftServiceStub,
    QualityServiceStub,
    AlertServiceStub,
    ChannelServiceStub,
    RetrainingServiceStub,
    LineageServiceStub,
    ConfigurationServiceStub,
    ExportServiceStub,
):
    """All that monitoring answers; and RecordEvents for requests that are bytes already."""

    def __init__(self, channel: grpc.Channel) -> None:
        for service in MonitoringStub.__bases__:
            service.__init__(self, channel)  # type: ignore[misc] # as above
        self.RecordEncodedEvents: Any = channel.stream_stream(
            "/penstock.api.monitoring.v1.MonitoringService/RecordEvents",
            request_serializer=None,
            response_deserializer=RecordEventsResponse.FromString,
        )
