"""A monitoring service whose profiles are asked of it, and iris as what it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import grpc
import numpy as np
from sklearn.datasets import load_iris

from penstock.api.monitoring.v1 import monitoring_pb2, profiles_pb2_grpc
from penstock.api.monitoring.v1 import profiles_pb2 as pb
from penstock.api.tensors.v1.tensors_pb2 import TensorList
from penstock.tensors import to_tensor
from services.common.postgres import Database
from services.monitoring.profiles.live import LiveProfiles
from services.monitoring.profiles.models import LiveWindow
from services.monitoring.profiles.references import References
from services.monitoring.profiles.store.live import LiveStore
from services.monitoring.profiles.store.profiles import ProfileStore
from services.monitoring.store.days import Days, by_time
from tests.monitoring import TIMEOUT_S, Monitoring, new_event, serve

NAMES = ("sepal_length", "sepal_width", "petal_length", "petal_width")
QUICKLY: dict[str, Any] = {"profile_interval_ms": 50, "profile_open_interval_ms": 0, "rollup_interval_ms": 50}
CloneDatabase = Callable[[str], str]


class Service:
    """A running monitoring service, and what is made of profiles in it."""

    def __init__(self, monitoring: Monitoring, channel: grpc.Channel) -> None:
        self.monitoring = monitoring
        self.stub = profiles_pb2_grpc.ProfileServiceStub(channel)

    def upload(self, data: bytes, row_format: str = "CSV", **header: Any) -> pb.Profile:
        """Send a file in chunks."""
        given: dict[str, Any] = {"model": "iris", "version": "1.0.0", "format": f"ROW_FORMAT_{row_format}", **header}
        chunks = [data[start : start + 1_000] for start in range(0, len(data), 1_000)]
        first = pb.UploadProfileRequest(header=pb.UploadProfileHeader(**given))
        requests = [first, *(pb.UploadProfileRequest(chunk=chunk) for chunk in chunks)]
        return self.stub.UploadProfile(iter(requests), timeout=TIMEOUT_S).profile

    def create(self, **fields: Any) -> pb.Profile:
        """Make one of a file or a window."""
        given: dict[str, Any] = {"model": "iris", "version": "1.0.0", **fields}
        return self.stub.CreateProfile(pb.CreateProfileRequest(**given), timeout=TIMEOUT_S).profile

    def get(self, **fields: Any) -> pb.Profile:
        """Get one."""
        return self.stub.GetProfile(pb.GetProfileRequest(**fields), timeout=TIMEOUT_S).profile

    def record(self, *events: monitoring_pb2.InferenceEvent) -> None:
        """Record events, each of which is new."""
        for start in range(0, len(events), 500):
            assert set(self.monitoring.record(*events[start : start + 500])) == {"STORED"}

    def live(self, profile_id: str, **ages_s: float) -> LiveWindow:
        """Sum what was counted in the last hour."""
        with Database(self.monitoring.database_url, pool_size=2) as database:
            reference = References(ProfileStore(database)).get(UUID(profile_id))
            live = LiveProfiles(LiveStore(database, Days(database, [by_time("live_profiles")])))
            now = datetime.now(UTC)
            return live.window(reference, "1.0.0", now - timedelta(hours=1), now + timedelta(minutes=5))


@contextmanager
def serving(database_url: str, **settings: Any) -> Iterator[Service]:
    with (
        serve(database_url, **{**QUICKLY, **settings}) as monitoring,
        grpc.insecure_channel(monitoring.address) as channel,
    ):
        yield Service(monitoring, channel)


def iris_csv() -> bytes:
    """Iris with its species, and predictions of which one in ten is wrong."""
    data = load_iris()
    lines = [",".join((*NAMES, "species", "predicted"))]
    for number, (row, species) in enumerate(zip(data.data, data.target, strict=True)):
        predicted = (species + 1) % 3 if number % 10 == 0 else species
        lines.append(",".join(map(str, (*row, species, predicted))))
    return "\n".join(lines).encode()


def iris_columns(**more: Any) -> pb.Columns:
    return pb.Columns(predictions=["predicted"], label="species", **more)


def fields(values: dict[str, Any]) -> monitoring_pb2.Payload:
    payload = monitoring_pb2.Payload()
    payload.fields.update(values)
    return payload


def tensors(**arrays: np.ndarray[Any, Any]) -> monitoring_pb2.Payload:
    return monitoring_pb2.Payload(
        tensors=TensorList(tensors=[to_tensor(name, array) for name, array in arrays.items()])
    )


def iris_events(*, age_s: float = 600.0, version: str = "1.0.0") -> list[monitoring_pb2.InferenceEvent]:
    """Each row of iris as an event with fields, and its species as the prediction."""
    data = load_iris()
    return [
        new_event(
            version=version,
            age_s=age_s,
            features=fields(dict(zip(NAMES, row.tolist(), strict=True))),
            prediction=fields({"label": int(species)}),
            user_id=f"user-{number % 40}",
        )
        for number, (row, species) in enumerate(zip(data.data, data.target, strict=True))
    ]


def bins_of(profile: pb.Profile, name: str) -> dict[str, int]:
    (feature,) = (feature for feature in profile.features if feature.name == name)
    return {one.label: one.count for one in feature.bins}
