"""Alerts over the service's socket: from events to an alert, a message, an acknowledgement and the end of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from penstock.api.monitoring.v1 import alerts_pb2 as pb
from penstock.api.monitoring.v1 import channels_pb2
from penstock.api.monitoring.v1.alerts_pb2_grpc import AlertServiceStub
from penstock.api.monitoring.v1.channels_pb2_grpc import ChannelServiceStub
from tests.alert_replicas import an_id
from tests.kit import bearing, write_keys
from tests.monitoring import TIMEOUT_S, Monitoring, eventually, new_event, reason, serve
from tests.receivers import Receiver, receiving

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
FAILED = grpc.StatusCode.FAILED_PRECONDITION
OFTEN = {"alert_interval_ms": 50, "notification_allowed_hosts": "127.0.0.1"}
RULE: dict[str, Any] = {
    "name": "failing",
    "enabled": True,
    "type": pb.ALERT_TYPE_ERROR_RATE,
    "severity": pb.SEVERITY_WARNING,
    "metric": "error_rate",
    "operator": pb.OPERATOR_GREATER,
    "threshold": 0.5,
    "window": "1h",
}


@dataclass(frozen=True, slots=True)
class Desk:
    """A monitoring service and its alerts, as clients see them."""

    monitoring: Monitoring
    stub: AlertServiceStub
    channels: ChannelServiceStub

    def create(self, *, request_id: str = "", **changes: Any) -> pb.AlertRule:
        """Make a rule: `RULE`, but for what is given."""
        request = pb.CreateAlertRuleRequest(rule=pb.AlertRule(**{**RULE, **changes}), request_id=request_id)
        return self.stub.CreateAlertRule(request, timeout=TIMEOUT_S).rule

    def update(self, rule: pb.AlertRule, **changes: Any) -> pb.AlertRule:
        """Change a rule."""
        changed = pb.AlertRule()
        changed.CopyFrom(rule)
        changed.MergeFrom(pb.AlertRule(**changes))
        return self.stub.UpdateAlertRule(pb.UpdateAlertRuleRequest(rule=changed), timeout=TIMEOUT_S).rule

    def rules(self, **filters: Any) -> list[pb.AlertRule]:
        """List rules."""
        return list(self.stub.ListAlertRules(pb.ListAlertRulesRequest(**filters), timeout=TIMEOUT_S).rules)

    def alerts(self, **filters: Any) -> list[pb.Alert]:
        """List alerts."""
        return list(self.stub.ListAlerts(pb.ListAlertsRequest(**filters), timeout=TIMEOUT_S).alerts)

    def get(self, alert_id: str) -> pb.Alert:
        """Give an alert with its history."""
        return self.stub.GetAlert(pb.GetAlertRequest(id=alert_id), timeout=TIMEOUT_S).alert

    def silence(self, **fields: Any) -> pb.Silence:
        """Silence for an hour, but for what is given."""
        request_id = fields.pop("request_id", "")
        silence = pb.Silence(**{"note": "maintenance", "end_time": datetime.now(UTC) + timedelta(hours=1), **fields})
        request = pb.CreateSilenceRequest(silence=silence, request_id=request_id)
        return self.stub.CreateSilence(request, timeout=TIMEOUT_S).silence

    def tell(self, receiver: Receiver, name: str = "ops") -> None:
        """Make a channel, of a URL that is no secret: the service has no key."""
        webhook = channels_pb2.WebhookChannel(url=f"http://127.0.0.1:{receiver.port}/")
        channel = channels_pb2.Channel(name=name, webhook=webhook)
        self.channels.SetChannel(channels_pb2.SetChannelRequest(channel=channel), timeout=TIMEOUT_S)

    def state(self) -> str:
        """Say how the one alert stands; '' where there is none."""
        found = self.alerts()
        return pb.AlertState.Name(found[0].state).removeprefix("ALERT_STATE_") if found else ""


@contextmanager
def desk_of(monitoring: Monitoring) -> Iterator[Desk]:
    with grpc.insecure_channel(monitoring.address) as channel:
        yield Desk(monitoring, AlertServiceStub(channel), ChannelServiceStub(channel))


@pytest.fixture
def desk(clone_database: Callable[[str], str]) -> Iterator[Desk]:
    with serve(clone_database("monitoring"), **OFTEN) as monitoring, desk_of(monitoring) as desk:
        yield desk


def failed(count: int, **fields: Any) -> list[Any]:
    return [new_event(error_code="INTERNAL", **fields) for _ in range(count)]


def good(count: int, **fields: Any) -> list[Any]:
    return [new_event(**fields) for _ in range(count)]


def test_from_failing_predictions_to_an_alert_a_message_an_acknowledgement_and_its_end(desk: Desk) -> None:
    with receiving() as receiver:
        desk.tell(receiver)
        rule = desk.create(channels=["ops"], description="See the runbook.")
        assert rule.condition == "error_rate over 1h > 0.5"
        desk.monitoring.record(*failed(6), *good(4))
        receiver.wait()
        (alert,) = desk.alerts(states=[pb.ALERT_STATE_FIRING])
        assert list(alert.told_channels) == ["ops"]
        assert (alert.rule_id, alert.rule_name, alert.model, alert.version) == (rule.id, "failing", "iris", "1.0.0")
        assert (alert.value, alert.threshold, alert.condition) == (0.6, 0.5, rule.condition)
        assert alert.message == "iris 1.0.0: error_rate over 1h is 0.6, > 0.5"
        (post,) = receiver.posts
        assert [told["id"] for told in post.document["alerts"]] == [alert.id]
        request = pb.AcknowledgeAlertRequest(id=alert.id, note="rolling back")
        known = desk.stub.AcknowledgeAlert(request, timeout=TIMEOUT_S).alert
        assert (known.acknowledged_by, known.acknowledge_note) == ("anonymous", "rolling back")
        desk.monitoring.record(*good(10))
        receiver.wait()
        ended = desk.get(alert.id)
        assert (ended.state, ended.value, ended.last_value) == (pb.ALERT_STATE_RESOLVED, 0.6, 0.3)
        assert ended.HasField("resolve_time")
        assert [(event.actor, event.message) for event in ended.history] == [
            ("", alert.message),
            ("anonymous", "acknowledged: rolling back"),
            ("", "iris 1.0.0: error_rate over 1h is 0.3, no longer > 0.5"),
        ]
        assert receiver.posts[1].document["state"] == "RESOLVED"
        assert reason(partial(desk.stub.AcknowledgeAlert, request)) == (FAILED, "ALERT_RESOLVED")


def test_the_rules_that_come_with_the_service_list_what_is_wrong_and_tell_nobody(desk: Desk) -> None:
    shipped = {rule.name: rule for rule in desk.rules()}
    assert sorted(shipped) == ["data-quality", "drift", "errors"]
    assert all(rule.enabled and not rule.channels for rule in shipped.values())
    for rule in shipped.values():
        desk.update(rule)  # they are as good as those that people make
    desk.monitoring.record(*failed(30))
    eventually(lambda: desk.state() == "PENDING")
    assert desk.alerts()[0].rule_name == "errors"
    for rule in shipped.values():
        desk.stub.DeleteAlertRule(pb.DeleteAlertRuleRequest(id=rule.id), timeout=TIMEOUT_S)
    assert (desk.rules(), desk.alerts()) == ([], [])


def test_a_silence_keeps_an_alert_from_being_sent_until_it_ends(desk: Desk) -> None:
    with receiving() as receiver:
        desk.tell(receiver)
        desk.create(channels=["ops"])
        silence = desk.silence(model="iris", rule_name="failing", severity=pb.SEVERITY_WARNING)
        desk.monitoring.record(*failed(3, model="wine"), *failed(3))
        receiver.wait()
        eventually(lambda: len(desk.alerts(states=[pb.ALERT_STATE_FIRING])) == 2)
        assert {alert.model: alert.silenced for alert in desk.alerts()} == {"iris": True, "wine": False}
        request = pb.EndSilenceRequest(id=silence.id)
        ended = desk.stub.EndSilence(request, timeout=TIMEOUT_S).silence
        assert ended.end_time.ToDatetime() < silence.end_time.ToDatetime()
        assert desk.stub.EndSilence(request, timeout=TIMEOUT_S).silence == ended
        receiver.wait()
        assert [told["model"] for post in receiver.posts for told in post.document["alerts"]] == ["wine", "iris"]


def test_traffic_that_never_comes_is_missed_where_a_rule_says_so(desk: Desk) -> None:
    desk.create(model="iris", version="1.0.0", missing_data=pb.MISSING_DATA_ALERT)
    eventually(lambda: desk.state() == "FIRING")
    (alert,) = desk.alerts()
    assert not alert.HasField("value")
    assert alert.message == "iris 1.0.0: error_rate has no value: no prediction came over 1h"
    desk.monitoring.record(*good(1))
    eventually(lambda: desk.state() == "RESOLVED")


def test_alerts_outlive_a_restart_in_any_state(clone_database: Callable[[str], str]) -> None:
    database_url = clone_database("monitoring")
    with receiving() as receiver:
        with serve(database_url, **OFTEN) as monitoring, desk_of(monitoring) as desk:
            desk.tell(receiver)
            desk.create(channels=["ops"])
            monitoring.record(*failed(3))
            receiver.wait()
        with serve(database_url, **OFTEN) as monitoring, desk_of(monitoring) as desk:
            (alert,) = desk.alerts(model="iris")
            monitoring.record(*good(7))
            receiver.wait()
            assert desk.get(alert.id).state == pb.ALERT_STATE_RESOLVED
    assert [post.document["state"] for post in receiver.posts] == ["FIRING", "RESOLVED"]


def test_two_services_on_one_database_make_one_alert_and_one_message(clone_database: Callable[[str], str]) -> None:
    database_url = clone_database("monitoring")
    with (
        receiving() as receiver,
        serve(database_url, **OFTEN) as monitoring,
        serve(database_url, **OFTEN),
        desk_of(monitoring) as desk,
    ):
        desk.tell(receiver)
        desk.create(channels=["ops"])
        monitoring.record(*failed(3))
        receiver.wait()
        monitoring.record(*good(7))
        receiver.wait()
        assert [post.document["state"] for post in receiver.posts] == ["FIRING", "RESOLVED"]
        assert len(set(receiver.ids)) == 2
        assert len(desk.alerts(model="iris")) == 1


def test_a_rule_is_made_once_however_often_the_request_comes(desk: Desk) -> None:
    first = desk.create(request_id="one")
    assert desk.create(request_id="one") == first
    assert reason(partial(desk.create, request_id="one", threshold=0.6)) == (FAILED, "REQUEST_ID_REUSED")
    assert reason(desk.create) == (grpc.StatusCode.ALREADY_EXISTS, "RULE_EXISTS")
    assert desk.create(model="iris").id != first.id
    silence = desk.silence(request_id="one", end_time=datetime(2099, 1, 1, tzinfo=UTC), begin_time=_new_year())
    again = desk.silence(request_id="one", end_time=datetime(2099, 1, 1, tzinfo=UTC), begin_time=_new_year())
    assert again == silence


def _new_year() -> datetime:
    return datetime(2098, 12, 31, tzinfo=UTC)


def test_who_acknowledges_changes_and_silences_is_known_by_their_key(
    clone_database: Callable[[str], str], tmp_path: Path
) -> None:
    ada, bob, keys = bearing("ada"), bearing("bob"), tmp_path / "keys.json"
    write_keys(keys, ada="operator", bob="viewer")
    with serve(clone_database("monitoring"), keys_file=keys, **OFTEN) as one, desk_of(one) as desk:
        rule = pb.AlertRule(**RULE, model="iris", version="1", missing_data=pb.MISSING_DATA_ALERT)
        request = pb.CreateAlertRuleRequest(rule=rule)
        denied = (grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_WEAK")
        assert reason(lambda: desk.stub.CreateAlertRule(request, metadata=bob)) == denied
        assert desk.stub.CreateAlertRule(request, metadata=ada).rule.updated_by == "ada"

        def listed() -> list[pb.Alert]:
            return list(desk.stub.ListAlerts(pb.ListAlertsRequest(), metadata=bob).alerts)

        eventually(lambda: bool(listed()))
        known = pb.AcknowledgeAlertRequest(id=listed()[0].id)
        assert reason(lambda: desk.stub.AcknowledgeAlert(known, metadata=bob)) == denied
        assert desk.stub.AcknowledgeAlert(known, metadata=ada).alert.acknowledged_by == "ada"
        silence = pb.Silence(note="maintenance")
        silence.end_time.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
        silencing = pb.CreateSilenceRequest(silence=silence)
        assert reason(lambda: desk.stub.CreateSilence(silencing, metadata=bob)) == denied
        assert desk.stub.CreateSilence(silencing, metadata=ada).silence.created_by == "ada"


def test_a_rule_is_changed_by_who_has_read_it(desk: Desk) -> None:
    rule = desk.create(**{"for": "2m"})
    changed = desk.update(rule, threshold=0.9)
    assert (changed.threshold, getattr(changed, "for")) == (0.9, "2m")
    assert changed.etag != rule.etag
    assert changed.create_time == rule.create_time
    assert desk.stub.GetAlertRule(pb.GetAlertRuleRequest(id=rule.id), timeout=TIMEOUT_S).rule == changed
    assert reason(partial(desk.update, rule, threshold=0.8)) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    other = desk.create(name="other")
    assert reason(partial(desk.update, other, name="failing")) == (grpc.StatusCode.ALREADY_EXISTS, "RULE_EXISTS")
    desk.stub.DeleteAlertRule(pb.DeleteAlertRuleRequest(id=rule.id), timeout=TIMEOUT_S)
    deleted, second, made = changes_of(desk, rule_id=rule.id)
    assert (made.HasField("before"), made.after, made.changed_by) == (False, rule, "anonymous")
    assert (second.before, second.after, deleted.before, deleted.HasField("after")) == (rule, changed, changed, False)
    assert [each.after.name for each in changes_of(desk)[1:2]] == ["other"]
    assert changes_of(desk, model="iris") == []


def changes_of(desk: Desk, **filters: Any) -> list[pb.AlertRuleChange]:
    request = pb.ListAlertRuleChangesRequest(**filters)
    return list(desk.stub.ListAlertRuleChanges(request, timeout=TIMEOUT_S).changes)


def test_a_list_shows_the_rules_that_hold_for_a_model(desk: Desk) -> None:
    for scope in ({}, {"model": "iris"}, {"model": "iris", "version": "1"}, {"model": "wine"}):
        desk.create(**scope)
    desk.create(name="zeal")

    def held(**filters: str) -> list[tuple[str, str]]:
        return [(rule.model, rule.version) for rule in desk.rules(**filters) if rule.name == "failing"]

    assert held() == [("", ""), ("iris", ""), ("iris", "1"), ("wine", "")]
    assert held(model="iris") == [("iris", ""), ("iris", "1")]
    assert held(model="iris", version="1") == [("iris", "1")]
    assert held(model="iris", version="2") == [("iris", "")]
    assert held(model="mnist") == [("", "")]
    first = desk.stub.ListAlertRules(pb.ListAlertRulesRequest(page_size=4), timeout=TIMEOUT_S)
    rest = desk.rules(page_size=1_000, page_token=first.next_page_token)
    assert [*first.rules, *rest] == desk.rules()
    other = partial(desk.rules, model="iris", page_token=first.next_page_token)
    assert reason(other) == (INVALID, "INVALID_PAGE_TOKEN")


def test_alerts_are_listed_by_model_severity_state_and_type(desk: Desk) -> None:
    desk.create()
    desk.create(name="critical", severity=pb.SEVERITY_CRITICAL, model="wine")
    desk.monitoring.record(*failed(3), *failed(3, model="wine"), *failed(3, version="2", model="wine"))
    eventually(lambda: len(desk.alerts(states=[pb.ALERT_STATE_FIRING])) == 5)
    assert {alert.version for alert in desk.alerts(model="wine")} == {"1.0.0", "2"}
    assert len(desk.alerts(severity=pb.SEVERITY_CRITICAL)) == 2
    assert len(desk.alerts(model="wine", version="2", severity=pb.SEVERITY_WARNING)) == 1
    assert len(desk.alerts(type=pb.ALERT_TYPE_ERROR_RATE)) == 5
    assert desk.alerts(type=pb.ALERT_TYPE_DRIFT) == []
    assert desk.alerts(states=[pb.ALERT_STATE_PENDING, pb.ALERT_STATE_RESOLVED]) == []
    page = desk.stub.ListAlerts(pb.ListAlertsRequest(page_size=3), timeout=TIMEOUT_S)
    rest = desk.stub.ListAlerts(pb.ListAlertsRequest(page_size=3, page_token=page.next_page_token), timeout=TIMEOUT_S)
    ids = [alert.id for alert in (*page.alerts, *rest.alerts)]
    assert ids == sorted(ids, reverse=True)
    assert (len(ids), rest.next_page_token) == (5, "")


def test_silences_are_listed_the_newest_first_and_those_that_are_over_on_request(desk: Desk) -> None:
    first, second, third = (desk.silence(note=note) for note in "abc")
    desk.stub.EndSilence(pb.EndSilenceRequest(id=second.id), timeout=TIMEOUT_S)

    def listed(**filters: Any) -> list[str]:
        request = pb.ListSilencesRequest(**filters)
        return [silence.id for silence in desk.stub.ListSilences(request, timeout=TIMEOUT_S).silences]

    assert listed() == [third.id, first.id]
    assert listed(ended=True) == [third.id, second.id, first.id]
    page = desk.stub.ListSilences(pb.ListSilencesRequest(page_size=1), timeout=TIMEOUT_S)
    assert listed(page_size=1, page_token=page.next_page_token) == [first.id]


BAD_SILENCES: dict[str, dict[str, Any]] = {
    "no end": {"end_time": None},
    "an end in the past": {"end_time": datetime(2020, 1, 1, tzinfo=UTC)},
    "an end before its beginning": {"begin_time": _new_year(), "end_time": datetime(2098, 1, 1, tzinfo=UTC)},
    "a year": {"end_time": datetime.now(UTC) + timedelta(days=365)},
    "no reason": {"note": " "},
    "a version of no model": {"version": "1"},
    "a long note": {"note": "n" * 1_001},
    "an unknown severity": {"severity": 99},
    "the whole of no model": {"without_version": True},
    "a model as a whole, and a version": {"model": "iris", "version": "1", "without_version": True},
}


def test_a_silence_that_makes_no_sense_is_refused(desk: Desk) -> None:
    refused = {name: reason(partial(desk.silence, **fields)) for name, fields in BAD_SILENCES.items()}
    assert refused == dict.fromkeys(BAD_SILENCES, (INVALID, "INVALID_SILENCE"))


def test_bad_questions_are_refused(desk: Desk) -> None:
    stub = desk.stub
    for wrong in ("", "no-id", str(an_id())):
        for call, kind in (
            (partial(stub.GetAlert, pb.GetAlertRequest(id=wrong)), "ALERT"),
            (partial(stub.AcknowledgeAlert, pb.AcknowledgeAlertRequest(id=wrong)), "ALERT"),
            (partial(stub.GetAlertRule, pb.GetAlertRuleRequest(id=wrong)), "RULE"),
            (partial(stub.DeleteAlertRule, pb.DeleteAlertRuleRequest(id=wrong)), "RULE"),
            (partial(desk.update, pb.AlertRule(**RULE, id=wrong)), "RULE"),
            (partial(stub.EndSilence, pb.EndSilenceRequest(id=wrong)), "SILENCE"),
        ):
            assert reason(call) == (NOT_FOUND, f"{kind}_NOT_FOUND")
    assert reason(partial(changes_of, desk, rule_id="no-id")) == (NOT_FOUND, "RULE_NOT_FOUND")
    assert reason(partial(desk.create, threshold=5)) == (INVALID, "INVALID_RULE")
    assert reason(partial(desk.create, channels=["nobody"])) == (INVALID, "CHANNEL_NOT_FOUND")
    assert reason(partial(desk.create, request_id="r" * 129)) == (INVALID, "INVALID_TEXT")
    assert reason(partial(desk.alerts, model="m\0")) == (INVALID, "INVALID_TEXT")
    assert reason(partial(desk.alerts, states=[0])) == (INVALID, "INVALID_FIELD")
    for listing in (desk.alerts, desk.rules, partial(_silences, stub), partial(changes_of, desk)):
        assert reason(partial(listing, page_size=1_001)) == (INVALID, "INVALID_PAGE_SIZE")
        assert reason(partial(listing, page_token="x")) == (INVALID, "INVALID_PAGE_TOKEN")


def _silences(stub: AlertServiceStub, **fields: Any) -> object:
    return stub.ListSilences(pb.ListSilencesRequest(**fields))
