"""Retraining requests, lineage and configurations."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from penstock import Client, RetryPolicy
from penstock import errors as sdk
from penstock.api.monitoring.v1 import configuration_pb2, drift_pb2, lineage_pb2
from penstock.api.monitoring.v1 import retraining_pb2 as pb
from services.common import errors
from tests.sdk import ScriptedServer, answer, client_of, fail, scripted_server

QUICK = RetryPolicy(attempts=3, base_delay_s=0.001, max_delay_s=0.002)
GONE = fail(errors.Unavailable("the database is gone"))
REQUEST = pb.RetrainingRequest(id="r", model="iris", state=pb.RETRAINING_STATE_PENDING)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    with client_of(server, retry=QUICK) as client:
        yield client


def test_a_wish_is_sent_again_under_its_id_and_a_decision_never(server: ScriptedServer, client: Client) -> None:
    made = answer(pb.CreateRetrainingRequestResponse(retraining_request=REQUEST))
    server.on("CreateRetrainingRequest", GONE, made)
    retraining = client.monitoring.retraining
    assert retraining.create("iris", "1", note="a new season", force=True) == REQUEST
    first, again = server.calls["CreateRetrainingRequest"]
    assert first == again
    assert (first.version, first.note, first.force) == ("1", "a new season", True)
    for rpc, decide in (
        ("ApproveRetrainingRequest", retraining.approve),
        ("RejectRetrainingRequest", retraining.reject),
    ):
        server.on(rpc, GONE)
        with pytest.raises(sdk.Unavailable):
            decide("r", note="because")
        assert [request.note for request in server.calls[rpc]] == ["because"]


def test_requests_are_found_and_listed(server: ScriptedServer, client: Client) -> None:
    server.on("GetRetrainingRequest", answer(pb.GetRetrainingRequestResponse(retraining_request=REQUEST)))
    server.on("ListRetrainingRequests", answer(pb.ListRetrainingRequestsResponse(retraining_requests=[REQUEST])))
    assert client.monitoring.retraining.get("r") == REQUEST
    assert list(client.monitoring.retraining.list(model="iris", states=["pending", "approved"], limit=5)) == [REQUEST]
    (request,) = server.calls["ListRetrainingRequests"]
    assert list(request.states) == [pb.RETRAINING_STATE_PENDING, pb.RETRAINING_STATE_APPROVED]


def test_lineage_begins_where_it_is_told(server: ScriptedServer, client: Client) -> None:
    server.on("GetLineage", answer(lineage_pb2.GetLineageResponse()))
    lineage = client.monitoring.lineage
    lineage.of_inference("i")
    lineage.of_alert("a")
    lineage.of_retraining_request("r")
    lineage.of_version("iris", "1")
    asked = [
        (request.WhichOneof("subject"), getattr(request, request.WhichOneof("subject")))
        for request in server.calls["GetLineage"]
    ]
    assert asked == [("inference_id", "i"), ("alert_id", "a"), ("retraining_request_id", "r"), ("version", "iris/1")]


OWN = configuration_pb2.Configuration(
    drift=configuration_pb2.DriftConfiguration(alpha=0.01, window="6h"),
    retraining=configuration_pb2.RetrainingConfiguration(enabled=False),
)


@pytest.fixture
def changed(server: ScriptedServer, client: Client) -> Any:
    """Change settings, and give the request that replaces them."""
    server.on("GetConfiguration", answer(configuration_pb2.GetConfigurationResponse(own=OWN, etag="e")))
    server.on("SetConfiguration", answer(configuration_pb2.SetConfigurationResponse()))

    def change(changes: Any, **more: str) -> configuration_pb2.SetConfigurationRequest:
        client.monitoring.configurations.change(changes, **more)
        request: configuration_pb2.SetConfigurationRequest = server.calls["SetConfiguration"][-1]
        return request

    return change


def test_a_setting_is_changed_and_the_others_stay(changed: Any) -> None:
    request = changed(
        {"drift": {"window": timedelta(hours=12), "gate": "ks", "ignored_features": ["id"], "enabled": False}},
        model="iris", note="why",
    )  # fmt: skip
    assert (request.model, request.note, request.etag) == ("iris", "why", "e")
    drift = request.configuration.drift
    assert (drift.alpha, drift.window, drift.gate) == (0.01, "12h", drift_pb2.DRIFT_GATE_KS)
    assert (drift.enabled, drift.HasField("enabled"), list(drift.ignored_features)) == (False, True, ["id"])
    assert request.configuration.retraining == OWN.retraining


def test_an_empty_list_is_none_and_not_what_holds_above(changed: Any) -> None:
    assert list(changed({"drift": {"ignored_features": []}}).configuration.drift.ignored_features) == [""]


def test_none_takes_back_what_a_scope_said(changed: Any) -> None:
    request = changed({"drift": {"alpha": None, "window": None}})
    assert not request.configuration.HasField("drift")
    assert request.configuration.HasField("retraining")


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"drifts": {}}, "UNKNOWN_FIELD", "rollups, drift, quality, retraining"),
        ({"drift": {"level": 1}}, "UNKNOWN_FIELD", "no 'drift.level'"),
        ({"drift": {"gate": "best"}}, "UNKNOWN_NAME", "psi_calibrated"),
        ({"drift": {"alpha": "high"}}, "UNSUPPORTED_VALUE", "another type"),
    ],
)
def test_what_is_no_setting_is_refused_here(
    server: ScriptedServer, changed: Any, changes: Any, reason: str, words: str
) -> None:
    with pytest.raises(sdk.InvalidArgument, match=words) as caught:
        changed(changes)
    assert caught.value.reason == reason
    assert server.calls["SetConfiguration"] == []


def test_changes_are_listed(server: ScriptedServer, client: Client) -> None:
    change = configuration_pb2.ConfigurationChange(model="iris", changed_by="ada")
    server.on(
        "ListConfigurationChanges",
        answer(configuration_pb2.ListConfigurationChangesResponse(changes=[change, change])),
    )
    assert list(client.monitoring.configurations.changes("iris", limit=1)) == [change]
