"""Retraining over the socket: monitoring with a database, a scripted trainer where one is wanted, and labelled rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import grpc

from penstock.api.monitoring.v1 import configuration_pb2, retraining_pb2
from penstock.api.monitoring.v1 import retraining_pb2 as pb
from penstock.api.monitoring.v1.configuration_pb2_grpc import ConfigurationServiceStub
from penstock.api.monitoring.v1.lineage_pb2_grpc import LineageServiceStub
from penstock.api.monitoring.v1.retraining_pb2_grpc import RetrainingServiceStub
from penstock.ids import uuid7
from services.common.postgres import Database
from services.monitoring.alerts.models import Alert, AlertState, AlertType, Severity, Target
from services.monitoring.alerts.store.transaction import AlertStore
from services.monitoring.configuration.configurations import Configurations
from services.monitoring.configuration.models import DriftGate
from services.monitoring.configuration.store import ConfigurationStore
from services.monitoring.drift.models import DriftCheck, DriftResult, DriftStatus, DriftType, Trigger
from services.monitoring.models import Retention, Window
from services.monitoring.profiles.models import FeatureKind
from services.monitoring.retraining.models import Cause, Reason
from services.monitoring.retraining.requests import RetrainingRequests
from services.monitoring.retraining.store.causes import CauseStore
from services.monitoring.retraining.store.labels import LabelStore
from services.monitoring.retraining.store.related import RelatedRequests
from services.monitoring.retraining.store.requests import RequestStore
from tests.monitoring import TIMEOUT_S, Monitoring, eventually, labels, new_event, serve

SOON_MS = 50


@dataclass(frozen=True, slots=True)
class Retraining:
    """Monitoring's retraining, as its clients see it."""

    monitoring: Monitoring
    stub: RetrainingServiceStub
    lineage: LineageServiceStub
    configuration: ConfigurationServiceStub

    def create(self, model: str = "iris", **fields: Any) -> pb.RetrainingRequest:
        request = pb.CreateRetrainingRequestRequest(model=model, **fields)
        return self.stub.CreateRetrainingRequest(request, timeout=TIMEOUT_S).retraining_request

    def get(self, id_: str) -> pb.RetrainingRequest:
        return self.stub.GetRetrainingRequest(
            pb.GetRetrainingRequestRequest(id=id_), timeout=TIMEOUT_S
        ).retraining_request

    def approve(self, id_: str, note: str = "go") -> pb.RetrainingRequest:
        request = pb.ApproveRetrainingRequestRequest(id=id_, note=note)
        return self.stub.ApproveRetrainingRequest(request, timeout=TIMEOUT_S).retraining_request

    def reject(self, id_: str, note: str = "no") -> pb.RetrainingRequest:
        request = pb.RejectRetrainingRequestRequest(id=id_, note=note)
        return self.stub.RejectRetrainingRequest(request, timeout=TIMEOUT_S).retraining_request

    def listed(self, **fields: Any) -> list[pb.RetrainingRequest]:
        page = self.stub.ListRetrainingRequests(pb.ListRetrainingRequestsRequest(**fields), timeout=TIMEOUT_S)
        return list(page.retraining_requests)

    def becomes(self, id_: str, state: str) -> pb.RetrainingRequest:
        """Wait until a request is in a state, and give it."""
        eventually(lambda: state_of(self.get(id_)) == state)
        return self.get(id_)

    def configure(self, model: str = "", **fields: Any) -> None:
        """Set what retraining a model takes."""
        own = configuration_pb2.Configuration(retraining=configuration_pb2.RetrainingConfiguration(**fields))
        request = configuration_pb2.SetConfigurationRequest(model=model, configuration=own)
        self.configuration.SetConfiguration(request, timeout=TIMEOUT_S)

    def label(self, count: int, *, model: str = "iris", version: str = "1") -> None:
        """Record predictions of one row, and what really happened."""
        events = [new_event(model=model, version=version, prediction=labels(1)) for _ in range(count)]
        assert self.monitoring.record(*events) == ["STORED"] * count
        for event in events:
            self.monitoring.feedback(event.inference_id, actual=1)

    def find(self, reason: Reason = Reason.DRIFT_DETECTED, **fields: Any) -> Cause:
        """Put into the queue what a check or an alert would."""
        given = {"model": "iris", "version": "1", "reason": reason, "details": {"value": 0.5}, **fields}
        cause = Cause(**given)
        with Database(self.monitoring.database_url, pool_size=1) as database:
            CauseStore(database).add(cause)
        return cause

    def fire(self) -> UUID:
        """Have an alert fire."""
        now = now_in_utc()
        alert = Alert(
            id=new_uuid(),
            rule_id=new_uuid(),
            rule_name="accuracy",
            rule_revision=1,
            target=Target("iris", "1"),
            type=AlertType.ERROR_RATE,
            severity=Severity.WARNING,
            state=AlertState.FIRING,
            condition="accuracy < 0.9",
            value=0.5,
            threshold=0.9,
            message="It is too low.",
            begin_time=now,
            judge_time=now,
            change_time=now,
            fire_time=now,
        )
        with Database(self.monitoring.database_url, pool_size=1) as database, AlertStore(database).write() as tables:
            tables.alerts.save([(alert, ())])
        return alert.id

    def check(self, *, version: str = "1") -> UUID:
        """Have the last drift check by schedule be a new one."""
        check_id = new_uuid()
        self.monitoring.query(f"""
            INSERT INTO monitoring.drift_schedule (model, version, due_time, check_id)
            VALUES ('iris', '{version}', now(), '{check_id}')
            ON CONFLICT ON CONSTRAINT drift_schedule_pkey DO UPDATE SET check_id = excluded.check_id
            RETURNING 1
        """)
        return check_id

    def standing(self) -> list[str]:
        """The versions of what was weighed and still stands."""
        found = self.monitoring.query("SELECT version FROM monitoring.retraining_causes WHERE weighed ORDER BY version")
        return [version for (version,) in found]

    def all_weighed(self) -> None:
        """Wait until nothing new is in the queue."""
        new = "SELECT count(*) FROM monitoring.retraining_causes WHERE NOT weighed"
        eventually(lambda: self.monitoring.query(new) == [(0,)])

    def weighed(self) -> None:
        """Wait until nothing is in the queue."""
        eventually(lambda: self.monitoring.query("SELECT count(*) FROM monitoring.retraining_causes") == [(0,)])


def state_of(request: pb.RetrainingRequest) -> str:
    """The state's name."""
    return retraining_pb2.RetrainingState.Name(request.state).removeprefix("RETRAINING_STATE_")


def reason_of(request: pb.RetrainingRequest) -> str:
    """The reason's name."""
    return retraining_pb2.RetrainingReason.Name(request.reason).removeprefix("RETRAINING_REASON_")


def new_uuid() -> UUID:
    """An id, as checks and alerts have theirs."""
    return UUID(uuid7())


def requests_on(database: Database) -> RetrainingRequests:
    """What checks and alerts tell of what they found, without a server."""
    clock = now_in_utc
    configurations = Configurations(ConfigurationStore(database), clock)
    stores = RequestStore(database), RelatedRequests(database), CauseStore(database), LabelStore(database)
    return RetrainingRequests(*stores, configurations, Retention(30), clock, wake=_too_early)


def _too_early() -> None:
    raise AssertionError("a chore that is woken before the commit finds nothing")


def now_in_utc() -> datetime:
    """The time."""
    return datetime.now(UTC)


def drift_result(
    type_: DriftType, effect: float, *, feature: str = "x", status: DriftStatus = DriftStatus.DRIFTED
) -> DriftResult:
    """What a check found of one feature."""
    return DriftResult(
        type=type_,
        feature=feature,
        kind=FeatureKind.NUMERIC,
        status=status,
        gate=DriftGate.PSI_CALIBRATED,
        statistic=1.0,
        effect=effect,
        effect_floor=0.02,
        reference_count=1_000,
        live_count=1_000,
    )


def drift_check(*results: DriftResult) -> DriftCheck:
    """A check by schedule."""
    return DriftCheck(
        id=UUID(uuid7()),
        model="iris",
        version="1",
        profile_id=UUID(uuid7()),
        window=Window(now_in_utc() - timedelta(days=1), now_in_utc()),
        status=DriftStatus.DRIFTED,
        drifted_types=(),
        drifted_count=len(results),
        compared_count=len(results),
        effect=max((each.effect for each in results), default=0.0),
        live_count=1_000,
        alpha=0.05,
        gate=DriftGate.PSI_CALIBRATED,
        false_alarm_rate=0.05,
        summary="It has drifted.",
        results=results,
        trigger=Trigger.SCHEDULE,
        create_time=now_in_utc(),
    )


@contextmanager
def serve_retraining(database_url: str, **settings: Any) -> Iterator[Retraining]:
    """Serve monitoring that looks after its requests all the time."""
    given = {"retraining_interval_ms": SOON_MS, **settings}
    with serve(database_url, **given) as running, grpc.insecure_channel(running.address) as channel:
        yield Retraining(
            running, RetrainingServiceStub(channel), LineageServiceStub(channel), ConfigurationServiceStub(channel)
        )
