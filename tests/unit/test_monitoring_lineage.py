"""The graph of a lineage: each thing once, and no more than fit, however things hang together."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from penstock.api.monitoring.v1 import lineage_pb2 as pb
from penstock.ids import uuid7
from services.monitoring.lineage.graph import Graph
from services.monitoring.lineage.lineages import Lineages
from services.monitoring.lineage.models import MAX_NODES, AlertFound, CheckFound, Edge, Kind, Node, Thing, VersionName
from services.monitoring.lineage.walk import Walk
from services.monitoring.models import Event, Inference
from services.monitoring.registry_reader import MissingError
from services.monitoring.retraining.models import Reason, Request, State

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def node(number: int) -> Node:
    return Node(Kind.ALERT, str(number), f"alert {number}")


def test_a_thing_is_there_once_and_so_is_what_links_it() -> None:
    graph = Graph()
    one, two = graph.add(node(1)), graph.add(node(2))
    assert graph.add(node(1)) == one == graph.place_of(Kind.ALERT, "1")
    assert graph.place_of(Kind.CHECK, "1") is None, "ids of other kinds are other things"
    for _ in range(2):
        graph.link(one, two, "raised")
    graph.link(one, one, "raised")
    graph.link(None, two, "raised")
    assert graph.edges == [Edge(0, 1, "raised")]


def test_what_no_longer_fits_is_left_out() -> None:
    graph = Graph()
    places = [graph.add(node(number)) for number in range(MAX_NODES + 5)]
    assert places == [*range(MAX_NODES), *[None] * 5]
    assert graph.add(node(7)) == 7, "what is there is found even then"
    graph.link(0, places[-1], "raised")
    assert graph.edges == []


class Endless:
    """Stands for stores and a registry: each alert has requests, and each request other alerts, without end."""

    def find_alert(self, alert_id: UUID) -> AlertFound:
        return AlertFound(alert_id, VersionName("iris", "1"), None, "a rule", True, NOW, {})

    def of_alert(self, alert_id: UUID, *, limit: int) -> list[Request]:
        return [a_request(alert_id) for _ in range(limit)]

    def alerts_of(self, _: UUID, *, limit: int) -> list[UUID]:
        return [UUID(uuid7()) for _ in range(limit)]

    def version(self, model: str, version: str) -> Any:
        raise MissingError(f"nobody knows {model} {version}")


def a_request(alert_id: UUID) -> Request:
    return Request(
        id=UUID(uuid7()),
        model="iris",
        version="1",
        state=State.PENDING,
        reason=Reason.DRIFT_DETECTED,
        details={},
        alert_id=alert_id,
        check_id=None,
        label_count=0,
        requested_by="monitoring",
        create_time=NOW,
        expire_time=NOW + timedelta(days=7),
    )


def test_a_walk_through_what_has_no_end_ends() -> None:
    endless: Any = Endless()
    walk = Walk(endless, endless, endless)
    walk.alert(endless.find_alert(UUID(uuid7())))
    assert len(walk.graph.nodes) == MAX_NODES
    assert all(0 <= edge.cause < MAX_NODES > edge.effect >= 0 for edge in walk.graph.edges)


class Nothing:
    """Stands for stores that know of nothing, and a registry that is away."""

    def of_alert(self, _: UUID, *, limit: int) -> list[Request]:
        return []

    def version(self, model: str, version: str) -> Any:
        raise MissingError("the registry is away")


@pytest.mark.parametrize(("fired", "relation"), [(True, "raised"), (False, "may raise")])
def test_an_alert_that_is_pending_was_raised_by_nothing_yet(fired: bool, relation: str) -> None:
    nothing: Any = Nothing()
    walk = Walk(nothing, nothing, nothing)
    walk.alert(AlertFound(UUID(uuid7()), VersionName("iris", "1"), None, "a rule", fired, NOW, {}))
    assert [edge.relation for edge in walk.graph.edges] == [relation]


class OfNoVersion(Nothing):
    """A prediction that failed before a version was chosen, an alert of the model as a whole, and no other thing."""

    def get(self, inference_id: UUID) -> Inference:
        event = Event(
            inference_id=inference_id,
            model="iris",
            version="",
            framework="",
            request_id="",
            user_id="",
            session_id="",
            features=None,
            prediction=None,
            outcomes=None,
            confidence=None,
            latency_ms=1.0,
            error_code="ALIAS_NOT_FOUND",
            row_count=1,
            trace_id="",
        )
        return Inference(event, NOW, ())

    def find_alert(self, alert_id: UUID) -> AlertFound:
        return AlertFound(alert_id, VersionName("iris", ""), None, "a rule", True, NOW, {})

    def version(self, model: str, version: str) -> Any:
        raise AssertionError("nobody is asked for a version without a name")


@pytest.mark.parametrize(
    ("kind", "title"), [(Kind.INFERENCE, "A prediction by iris"), (Kind.ALERT, "The alert a rule for iris")]
)
def test_what_no_version_had_a_part_in_is_shown_without_one(kind: Kind, title: str) -> None:
    here: Any = OfNoVersion()
    (only,) = Lineages(here, here, here, here, lambda: here).of(Thing(kind, UUID(uuid7()))).nodes
    assert (only.kind, only.title) == (kind, title)


class OneCheck(Nothing):
    """A check of bad data, which asks for no retraining, and the alert that fired on it."""

    def find_check(self, check_id: UUID) -> CheckFound:
        return CheckFound(check_id, VersionName("iris", "1"), False, "", NOW, {})

    def alerts_on(self, check_id: UUID) -> list[AlertFound]:
        return [AlertFound(UUID(uuid7()), VersionName("iris", "1"), check_id, "a rule", True, NOW, {})]

    def of_check(self, _: UUID, *, limit: int) -> list[Request]:
        return []


def test_from_a_check_to_the_alert_that_it_raised_without_a_retraining() -> None:
    here: Any = OneCheck()
    found = Lineages(here, here, here, here, lambda: here).of(Thing(Kind.CHECK, UUID(uuid7())))
    said = {(found.nodes[edge.cause].kind, edge.relation, found.nodes[edge.effect].kind) for edge in found.edges}
    assert said == {(Kind.VERSION, "was checked", Kind.CHECK), (Kind.CHECK, "raised", Kind.ALERT)}


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_the_contract_has_its_number(kind: Kind) -> None:

    assert pb.LineageKind.Name(pb.LineageKind.ValueType(kind.value)) == f"LINEAGE_KIND_{kind.name}"
    assert len(Kind) == len(pb.LineageKind.keys()) - 1
