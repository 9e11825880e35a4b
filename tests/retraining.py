"""Retraining over the socket: monitoring with a database, a scripted trainer where one is wanted, and labelled rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from services.monitoring.retraining.models import Cause, Reason
from services.monitoring.retraining.store.causes import CauseStore
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
        alert_id = new_uuid()
        self.monitoring.query(f"""
            INSERT INTO monitoring.alerts (
                alert_id, rule_id, rule_name, rule_revision, model, version, type, severity, state, condition,
                threshold, message, begin_time, judge_time, change_time, held, fire_time, flapping
            )
            VALUES (
                '{alert_id}', '{new_uuid()}', 'accuracy', 1, 'iris', '1', 'ERROR_RATE', 'WARNING', 'FIRING', 'too low',
                0.9, 'It is too low.', now(), now(), now(), '0', now(), false
            )
            RETURNING 1
        """)
        return alert_id

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


@contextmanager
def serve_retraining(database_url: str, **settings: Any) -> Iterator[Retraining]:
    """Serve monitoring that looks after its requests all the time."""
    given = {"retraining_interval_ms": SOON_MS, **settings}
    with serve(database_url, **given) as running, grpc.insecure_channel(running.address) as channel:
        yield Retraining(
            running, RetrainingServiceStub(channel), LineageServiceStub(channel), ConfigurationServiceStub(channel)
        )
