"""Alerts over gRPC: decode, call, encode."""

from __future__ import annotations

from functools import partial

import grpc

from penstock.api.monitoring.v1 import alerts_pb2 as pb
from penstock.api.monitoring.v1 import alerts_pb2_grpc
from services.common.keys import Role
from services.common.server import Service
from services.monitoring.alerts import convert, encode
from services.monitoring.alerts.alerts import Alerts
from services.monitoring.alerts.doubts import AlertDoubts
from services.monitoring.alerts.rules import Rules
from services.monitoring.alerts.silences import Silences

NAME = "penstock.api.monitoring.v1.AlertService"
ROLES = {
    "CreateAlertRule": Role.OPERATOR,
    "UpdateAlertRule": Role.OPERATOR,
    "DeleteAlertRule": Role.OPERATOR,
    "GetAlertRule": Role.VIEWER,
    "ListAlertRules": Role.VIEWER,
    "ListAlertRuleChanges": Role.VIEWER,
    "GetAlert": Role.VIEWER,
    "ListAlerts": Role.VIEWER,
    "AcknowledgeAlert": Role.OPERATOR,
    "CreateSilence": Role.OPERATOR,
    "EndSilence": Role.OPERATOR,
    "ListSilences": Role.VIEWER,
}


class AlertServicer(alerts_pb2_grpc.AlertServiceServicer):
    """See alerts.proto for what each RPC promises."""

    def __init__(self, rules: Rules, alerts: Alerts, silences: Silences, doubts: AlertDoubts) -> None:
        self._rules = rules
        self._alerts = alerts
        self._silences = silences
        self._doubts = doubts
        self._models = doubts.models

    def CreateAlertRule(
        self, request: pb.CreateAlertRuleRequest, context: grpc.ServicerContext
    ) -> pb.CreateAlertRuleResponse:
        """Make a rule."""
        rule = self._rules.create(convert.draft_from(request.rule), convert.key_of("CreateAlertRule", request))
        return pb.CreateAlertRuleResponse(rule=encode.rule_proto(rule, self._doubts.of_rule(rule)))

    def UpdateAlertRule(
        self, request: pb.UpdateAlertRuleRequest, context: grpc.ServicerContext
    ) -> pb.UpdateAlertRuleResponse:
        """Replace a rule."""
        rule_id = convert.id_from("rule", request.rule.id)
        rule = self._rules.update(rule_id, convert.draft_from(request.rule), request.rule.etag)
        return pb.UpdateAlertRuleResponse(rule=encode.rule_proto(rule, self._doubts.of_rule(rule)))

    def DeleteAlertRule(
        self, request: pb.DeleteAlertRuleRequest, context: grpc.ServicerContext
    ) -> pb.DeleteAlertRuleResponse:
        """Delete a rule."""
        self._rules.delete(convert.id_from("rule", request.id))
        return pb.DeleteAlertRuleResponse()

    def GetAlertRule(self, request: pb.GetAlertRuleRequest, context: grpc.ServicerContext) -> pb.GetAlertRuleResponse:
        """Give a rule."""
        rule = self._rules.get(convert.id_from("rule", request.id))
        return pb.GetAlertRuleResponse(rule=encode.rule_proto(rule))

    def ListAlertRules(
        self, request: pb.ListAlertRulesRequest, context: grpc.ServicerContext
    ) -> pb.ListAlertRulesResponse:
        """Give a page of rules."""
        model, version = convert.scope_from(request)
        self._models.require(model)
        return encode.rules_response(
            *self._rules.page(model, version, size=request.page_size, token=request.page_token)
        )

    def ListAlertRuleChanges(
        self, request: pb.ListAlertRuleChangesRequest, context: grpc.ServicerContext
    ) -> pb.ListAlertRuleChangesResponse:
        """Give a page of what was done to rules."""
        model, rule_id = convert.changes_from(request)
        changes, next_page = self._rules.changes(model, rule_id, size=request.page_size, token=request.page_token)
        if not changes:
            self._models.require(model)
        return encode.changes_response(changes, next_page)

    def GetAlert(self, request: pb.GetAlertRequest, context: grpc.ServicerContext) -> pb.GetAlertResponse:
        """Give an alert with its history."""
        alert = self._alerts.get(convert.id_from("alert", request.id))
        return pb.GetAlertResponse(alert=encode.alert_proto(alert))

    def ListAlerts(self, request: pb.ListAlertsRequest, context: grpc.ServicerContext) -> pb.ListAlertsResponse:
        """Give a page of alerts."""
        filters = convert.filters_from(request)
        alerts, next_page = self._alerts.page(filters, size=request.page_size, token=request.page_token)
        if not alerts:  # of a misspelt model, that must not be read as all is well
            self._models.require(filters.model)
        return encode.alerts_response(alerts, next_page)

    def AcknowledgeAlert(
        self, request: pb.AcknowledgeAlertRequest, context: grpc.ServicerContext
    ) -> pb.AcknowledgeAlertResponse:
        """Say that somebody has taken an alert in hand."""
        alert = self._alerts.acknowledge(convert.id_from("alert", request.id), convert.note_from(request))
        return pb.AcknowledgeAlertResponse(alert=encode.alert_proto(alert))

    def CreateSilence(
        self, request: pb.CreateSilenceRequest, context: grpc.ServicerContext
    ) -> pb.CreateSilenceResponse:
        """Make a silence."""
        draft = convert.silence_from(request.silence)
        silence = self._silences.create(draft, convert.key_of("CreateSilence", request))
        return pb.CreateSilenceResponse(silence=encode.silence_proto(silence, self._doubts.of_silence(silence)))

    def EndSilence(self, request: pb.EndSilenceRequest, context: grpc.ServicerContext) -> pb.EndSilenceResponse:
        """End a silence."""
        silence = self._silences.end(convert.id_from("silence", request.id))
        return pb.EndSilenceResponse(silence=encode.silence_proto(silence))

    def ListSilences(self, request: pb.ListSilencesRequest, context: grpc.ServicerContext) -> pb.ListSilencesResponse:
        """Give a page of silences."""
        page = self._silences.page(ended=request.ended, size=request.page_size, token=request.page_token)
        return encode.silences_response(*page)


def service(rules: Rules, alerts: Alerts, silences: Silences, doubts: AlertDoubts) -> Service:
    """Describe the service to the kit."""
    servicer = AlertServicer(rules, alerts, silences, doubts)
    register = partial(alerts_pb2_grpc.add_AlertServiceServicer_to_server, servicer)
    return Service(name=NAME, register=register, roles=ROLES)
