"""Alerts, silences, rules and channels: what goes over the wire, and what may go twice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from penstock import Client, RetryPolicy
from penstock import errors as sdk
from penstock.alert_rules import METRICS, changed_rule, type_of
from penstock.alerts import OPEN
from penstock.api.monitoring.v1 import alerts_pb2 as pb
from penstock.api.monitoring.v1 import drift_pb2
from services.common import errors
from services.monitoring.alerts.conditions import METRICS as SERVED
from services.monitoring.alerts.models import AlertType
from tests.sdk import ScriptedServer, answer, client_of, fail, scripted_server

QUICK = RetryPolicy(attempts=3, base_delay_s=0.001, max_delay_s=0.002)
AT = datetime(2026, 1, 1, tzinfo=UTC)
GONE = fail(errors.Unavailable("the database is gone"))
RULE = pb.AlertRule(
    id="r", name="slow", enabled=True, type=pb.ALERT_TYPE_LATENCY, severity=pb.SEVERITY_WARNING,
    metric="p95_latency_ms", operator=pb.OPERATOR_GREATER, threshold=200, window="15m", etag="e", channels=["ops"],
)  # fmt: skip


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    with client_of(server, retry=QUICK) as client:
        yield client


def test_alerts_are_listed_by_what_they_are(server: ScriptedServer, client: Client) -> None:
    server.on("ListAlerts", answer(pb.ListAlertsResponse(alerts=[pb.Alert(id="a")])))
    (alert,) = client.monitoring.alerts.list(model="iris", severity="critical", states=OPEN, alert_type="drift")
    assert alert.id == "a"
    (request,) = server.calls["ListAlerts"]
    assert list(request.states) == [pb.ALERT_STATE_PENDING, pb.ALERT_STATE_FIRING]
    assert (request.severity, request.type) == (pb.SEVERITY_CRITICAL, pb.ALERT_TYPE_DRIFT)
    with pytest.raises(sdk.InvalidArgument, match="info, warning, critical"):
        client.monitoring.alerts.list(severity="bad")


def test_an_alert_is_taken_in_hand_again_where_the_answer_got_lost(server: ScriptedServer, client: Client) -> None:
    done = answer(pb.AcknowledgeAlertResponse(alert=pb.Alert(acknowledged_by="ada")))
    server.on("AcknowledgeAlert", GONE, done)
    assert client.monitoring.alerts.acknowledge("a", note="rolling back").acknowledged_by == "ada"
    assert {(request.id, request.note) for request in server.calls["AcknowledgeAlert"]} == {("a", "rolling back")}


def test_a_silence_lasts_so_long_or_until_then(server: ScriptedServer, client: Client) -> None:
    server.on("CreateSilence", answer(pb.CreateSilenceResponse(silence=pb.Silence(id="s"))))
    silences = client.monitoring.silences
    silences.create(timedelta(hours=2), note="a migration", model="iris", severity="warning", begin_time=AT)
    silences.create(AT + timedelta(hours=3), note="again", rule_name="slow")
    first, second = (request.silence for request in server.calls["CreateSilence"])
    assert first.end_time.ToDatetime(tzinfo=UTC) == AT + timedelta(hours=2)
    assert (first.model, first.severity, first.note) == ("iris", pb.SEVERITY_WARNING, "a migration")
    assert second.end_time.ToDatetime(tzinfo=UTC) == AT + timedelta(hours=3)
    assert not second.HasField("begin_time")
    server.on("EndSilence", answer(pb.EndSilenceResponse(silence=pb.Silence(id="s"))))
    assert silences.end("s").id == "s"
    server.on("ListSilences", answer(pb.ListSilencesResponse(silences=[pb.Silence(id="s")])))
    assert [each.id for each in silences.list(ended=True)] == ["s"]
    assert server.calls["ListSilences"][0].ended


@pytest.mark.parametrize(("sign", "number"), [(">", 1), (">=", 2), ("<", 3), ("<=", 4), ("less_or_equal", 4), (1, 1)])
def test_a_rule_is_made_of_plain_values(server: ScriptedServer, client: Client, sign: Any, number: int) -> None:
    server.on("CreateAlertRule", GONE, answer(pb.CreateAlertRuleResponse(rule=RULE)))
    made = client.monitoring.alert_rules.create(
        "dirty", "missing_rate", sign, 0.02, window=timedelta(hours=24), severity="critical", model="iris",
        for_=timedelta(minutes=90), feature="age", missing_data="alert", channels=("ops", "mail"),
        repeat_interval="1d", min_count=5, enabled=False,
    )  # fmt: skip
    assert made == RULE
    first, again = server.calls["CreateAlertRule"]
    assert first.request_id == again.request_id != ""
    rule = first.rule
    assert rule.type == pb.ALERT_TYPE_DATA_QUALITY  # as the metric says
    assert (rule.operator, rule.threshold, rule.window, getattr(rule, "for")) == (number, 0.02, "24h", "90m")
    assert (rule.missing_data, rule.repeat_interval, rule.enabled) == (pb.MISSING_DATA_ALERT, "1d", False)
    assert list(rule.channels) == ["ops", "mail"]


def test_every_metric_of_the_contract_has_its_type() -> None:
    named = {pb.AlertType.Name(kind).removeprefix("ALERT_TYPE_"): set(metrics) for kind, metrics in METRICS.items()}
    known = {kind.name: {name for name, each in SERVED.items() if each.type is kind} for kind in AlertType}
    assert named == known
    assert type_of("effect") == pb.ALERT_TYPE_DRIFT
    assert type_of("nonsense") == pb.ALERT_TYPE_UNSPECIFIED


def test_a_rule_is_changed_where_it_is_named_and_only_if_nobody_else_did(
    server: ScriptedServer, client: Client
) -> None:
    server.on("GetAlertRule", answer(pb.GetAlertRuleResponse(rule=RULE)))
    server.on("UpdateAlertRule", lambda request, context: pb.UpdateAlertRuleResponse(rule=request.rule))
    changed = client.monitoring.alert_rules.update("r", threshold=250, for_="5m", channels=[], severity="info")
    assert (changed.threshold, getattr(changed, "for"), list(changed.channels)) == (250, "5m", [])
    assert (changed.severity, changed.metric, changed.etag) == (pb.SEVERITY_INFO, "p95_latency_ms", "e")
    with pytest.raises(sdk.InvalidArgument, match="no 'treshold'"):
        client.monitoring.alert_rules.update("r", treshold=1)


def test_another_metric_of_a_rule_brings_its_type() -> None:
    changes = {"metric": "effect", "operator": ">=", "drift_type": "input", "window": timedelta(days=1)}
    changed = changed_rule(RULE, changes)
    assert (changed.type, changed.operator) == (pb.ALERT_TYPE_DRIFT, pb.OPERATOR_GREATER_OR_EQUAL)
    assert (changed.drift_type, changed.window) == (drift_pb2.DRIFT_TYPE_INPUT, "24h")
    assert RULE.metric == "p95_latency_ms"
    assert changed_rule(RULE, {"enabled": False}).enabled is False


def test_what_was_done_to_rules_is_listed_page_by_page(server: ScriptedServer, client: Client) -> None:
    changes = [pb.AlertRuleChange(rule_id=str(number)) for number in range(3)]

    def page(request: pb.ListAlertRuleChangesRequest, context: object) -> pb.ListAlertRuleChangesResponse:
        return pb.ListAlertRuleChangesResponse(
            changes=changes[2:] if request.page_token else changes[:2],
            next_page_token="" if request.page_token else "n",
        )

    server.on("ListAlertRuleChanges", page)
    assert list(client.monitoring.alert_rules.changes(model="iris")) == changes
    assert {request.model for request in server.calls["ListAlertRuleChanges"]} == {"iris"}


def test_rules_are_listed_and_deleted_once(server: ScriptedServer, client: Client) -> None:
    server.on("ListAlertRules", answer(pb.ListAlertRulesResponse(rules=[RULE])))
    assert list(client.monitoring.alert_rules.list(model="iris", version="1")) == [RULE]
    server.on("DeleteAlertRule", GONE)
    with pytest.raises(sdk.Unavailable):
        client.monitoring.alert_rules.delete("r")
    assert len(server.calls["DeleteAlertRule"]) == 1
