"""A running service of monitoring that is asked for drift, and rows whose drift is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
import numpy as np

from penstock.api.monitoring.v1 import configuration_pb2, monitoring_pb2, profiles_pb2
from penstock.api.monitoring.v1 import drift_pb2 as pb
from penstock.api.monitoring.v1.configuration_pb2_grpc import ConfigurationServiceStub
from penstock.api.monitoring.v1.drift_pb2_grpc import DriftServiceStub
from penstock.api.monitoring.v1.profiles_pb2_grpc import ProfileServiceStub
from penstock.values import to_value
from tests.monitoring import TIMEOUT_S, Monitoring, eventually, new_event

OFTEN = {"rollup_interval_ms": 50, "profile_interval_ms": 50, "profile_open_interval_ms": 0, "drift_interval_ms": 50}
SPAN_S = 7_200


@dataclass(frozen=True, slots=True)
class Drift:
    """A running service, asked for drift."""

    monitoring: Monitoring
    stub: DriftServiceStub
    profiles: ProfileServiceStub
    configurations: ConfigurationServiceStub

    def profile(self, rows: list[dict[str, Any]], **columns: Any) -> str:
        """Attach a profile of these rows, and give its id."""
        header = profiles_pb2.UploadProfileHeader(
            model="iris",
            version="1.0.0",
            format=profiles_pb2.ROW_FORMAT_JSONL,
            columns=profiles_pb2.Columns(**columns),
        )
        text = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        parts = (profiles_pb2.UploadProfileRequest(header=header), profiles_pb2.UploadProfileRequest(chunk=text))
        return self.profiles.UploadProfile(iter(parts), timeout=TIMEOUT_S).profile.id

    def send(
        self, rows: list[dict[str, Any]], *, at: datetime | None = None, users: int = 10_000, **fields: Any
    ) -> list[str]:
        """Record an event a row, spread over the last two hours, or all `at` a time; gives their ids."""
        ages = np.linspace(SPAN_S, 400, len(rows))
        if at is not None:
            ages[:] = (datetime.now(UTC) - at).total_seconds()
        events = [
            new_event(
                age_s=float(age), features=payload(row), user_id=f"user {number % users}" if users else "", **fields
            )
            for number, (age, row) in enumerate(zip(ages, rows, strict=True))
        ]
        for start in range(0, len(events), 500):
            assert set(self.monitoring.record(*events[start : start + 500])) == {"STORED"}
        return [event.inference_id for event in events]

    def check(self, model: str = "iris", version: str = "1.0.0", **fields: Any) -> pb.DriftCheck:
        """Check now."""
        request = pb.CheckDriftRequest(model=model, version=version, **fields)
        return self.stub.CheckDrift(request, timeout=TIMEOUT_S).check

    def counted(self, rows: int, **fields: Any) -> pb.DriftCheck:
        """Check when so many rows have been counted."""
        found: list[pb.DriftCheck] = []

        def met() -> bool:
            found.append(self.check(**fields))
            return found[-1].live_count == rows

        eventually(met)
        return found[-1]

    def configure(self, **drift: Any) -> None:
        """Configure all models."""
        configuration = configuration_pb2.Configuration(drift=configuration_pb2.DriftConfiguration(**drift))
        request = configuration_pb2.SetConfigurationRequest(configuration=configuration)
        self.configurations.SetConfiguration(request, timeout=TIMEOUT_S)

    def listed(self, **fields: Any) -> pb.ListDriftChecksResponse:
        """List checks."""
        return self.stub.ListDriftChecks(pb.ListDriftChecksRequest(**fields), timeout=TIMEOUT_S)


def payload(row: dict[str, Any]) -> monitoring_pb2.Payload:
    message = monitoring_pb2.Payload()
    for name, value in row.items():
        message.fields.fields[name].CopyFrom(to_value(name, value))
    return message


def rows(count: int, seed: int, *, shift: float = 0.0) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    return [
        {"age": float(age), "income": float(income), "colour": str(colour)}
        for age, income, colour in zip(
            generator.normal(40 + 10 * shift, 10, count),
            generator.lognormal(10, 1, count),
            generator.choice(["red", "green", "blue"], count, p=[0.5, 0.3, 0.2]),
            strict=True,
        )
    ]


@contextmanager
def connected(monitoring: Monitoring) -> Iterator[Drift]:
    with grpc.insecure_channel(monitoring.address) as channel:
        stubs = (DriftServiceStub(channel), ProfileServiceStub(channel), ConfigurationServiceStub(channel))
        yield Drift(monitoring, *stubs)
