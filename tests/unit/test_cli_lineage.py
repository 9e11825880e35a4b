"""`penstock lineage` as a tree, and `penstock monitoring`: how models are watched."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import typer
from rich.text import Text

from penstock.api.monitoring.v1 import configuration_pb2, drift_pb2, quality_pb2
from penstock.api.monitoring.v1 import lineage_pb2 as pb
from penstock.api.monitoring.v1.alerts_pb2 import ListAlertsResponse
from penstock.api.monitoring.v1.retraining_pb2 import ListRetrainingRequestsResponse
from penstock.cli.__main__ import run
from penstock.cli.exits import ExitCode
from penstock.cli.monitoring import parse_changes
from services.common import errors
from tests.alert_answers import alert, configuration, lineage, retraining
from tests.monitoring_answers import ID, server, stamp, terminal
from tests.sdk import ScriptedServer, answer, fail

__all__ = ["server", "terminal"]
UNKNOWN = fail(errors.NotFound("there is none", reason="INFERENCE_NOT_FOUND"))


def said(capsys: pytest.CaptureFixture[str], *arguments: str, exit_code: int = 0) -> str:
    assert run(arguments) == exit_code
    captured = capsys.readouterr()
    return Text.from_ansi(captured.out + captured.err).plain


def test_a_tree_has_causes_and_effects_each_once(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("GetLineage", answer(lineage()))
    lines = said(capsys, "lineage", f"{ID}4", "--kind", "alert").splitlines()
    assert lines[0].startswith("The alert drift for iris 2.0.0")
    assert [line.split("── ")[1][:29].rstrip() for line in lines if "── " in line] == [
        "↑ raised  A check of iris 2.0",
        "↑ was checked by  Version 2.0",
        "↑ trained  A run of the train",
        "↑ was the reference of  Refer",
        "↓ raised  A retraining reques",
        "↓ led to  Version 3.0.0 of ir",
        "· Dataset flowers/12",
    ]
    assert "not looked up: there is no trainer" in "\n".join(lines)
    assert "promoted_by=ada, stage=production" in "\n".join(lines)


def test_the_lineage_of_a_prediction_is_what_led_to_it_and_not_all_that_its_version_came_to(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    found = lineage()
    prediction = pb.LineageNode(kind=pb.LINEAGE_KIND_INFERENCE, id=f"{ID}9", title="A prediction by iris 2.0.0")
    edges = [
        pb.LineageEdge(from_node=edge.from_node + 1, to_node=edge.to_node + 1, relation=edge.relation)
        for edge in found.edges
    ]
    answered = pb.LineageEdge(from_node=3, to_node=0, relation="answered")
    server.on("GetLineage", answer(pb.GetLineageResponse(nodes=[prediction, *found.nodes], edges=[answered, *edges])))
    text = said(capsys, "lineage", f"{ID}9", "--kind", "prediction")
    assert [words in text for words in ("Version 2.0.0 of iris", "A run of the trainer", "alert drift")] == [1, 1, 0]
    assert "6 more of its version, such as checks and alerts: penstock lineage iris/2.0.0" in " ".join(text.split())
    assert "alert drift" in said(capsys, "lineage", f"{ID}9", "--kind", "prediction", "--all")
    whole = json.loads(said(capsys, "lineage", f"{ID}9", "--kind", "prediction", "--json").partition("\nnote")[0])
    assert len(whole["nodes"]) == 9


def test_an_id_is_tried_as_each_kind_of_thing(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("GetLineage", *[UNKNOWN] * 4, answer(lineage()))
    said(capsys, "lineage", f"{ID}6")
    asked = [request.WhichOneof("subject") for request in server.calls["GetLineage"]]
    assert asked == ["inference_id", "alert_id", "retraining_request_id", "check_id", "training_run_id"]
    server.on("GetLineage", answer(lineage()))
    said(capsys, "lineage", f"{ID}6", "--kind", "check")
    assert server.calls["GetLineage"][-1].check_id == f"{ID}6"
    text = said(capsys, "lineage", "tumours", exit_code=ExitCode.FAILED)
    assert "penstock lineage tumours/VERSION [INVALID_ID]" in text
    server.on("GetLineage", UNKNOWN)
    text = said(capsys, "lineage", f"{ID}6", exit_code=ExitCode.NOT_FOUND)
    assert "is the id of no prediction, alert, retraining request, check or training run [SUBJECT_NOT_FOUND]" in text
    server.on("GetLineage", answer(lineage()))
    assert json.loads(said(capsys, "lineage", "iris/2.0.0", "--json"))["nodes"][0]["kind"] == "alert"
    assert server.calls["GetLineage"][-1].version == "iris/2.0.0"


def test_the_beginning_of_an_id_finds_an_alert_a_request_or_a_check(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    check_ids = [f"019{letter}0000-0000-7000-8000-000000000003" for letter in "de"]
    drift = drift_pb2.ListDriftChecksResponse(checks=[drift_pb2.DriftCheck(id=check_ids[0])])
    server.on("ListDriftChecks", answer(drift))
    quality = quality_pb2.ListQualityChecksResponse(checks=[quality_pb2.QualityCheck(id=check_ids[1])])
    server.on("ListQualityChecks", answer(quality))
    server.on("ListAlerts", answer(ListAlertsResponse(alerts=[alert(id="019b0000-0000-7000-8000-000000000001")])))
    found = ListRetrainingRequestsResponse(retraining_requests=[retraining(id="019c0000-0000-7000-8000-000000000002")])
    server.on("ListRetrainingRequests", answer(found))
    server.on("GetLineage", answer(lineage()))
    said(capsys, "lineage", "019b0000", "--kind", "alert")
    said(capsys, "lineage", "019c", "--kind", "request")
    server.on("GetLineage", UNKNOWN, answer(lineage()))
    said(capsys, "lineage", "019b0")
    assert [request.alert_id or request.retraining_request_id for request in server.calls["GetLineage"]][:2] == [
        "019b0000-0000-7000-8000-000000000001",
        "019c0000-0000-7000-8000-000000000002",
    ]
    assert server.calls["GetLineage"][-1].alert_id == "019b0000-0000-7000-8000-000000000001"
    server.on("GetLineage", answer(lineage()))
    for check_id in check_ids:
        said(capsys, "lineage", check_id[:6], "--kind", "check")
        assert server.calls["GetLineage"][-1].check_id == check_id
    asked = len(server.calls["GetLineage"])
    text = " ".join(said(capsys, "lineage", "019f", exit_code=ExitCode.NOT_FOUND).split())
    assert "none of the newest alerts, retraining requests and checks has an id that begins with 019f" in text
    assert len(server.calls["GetLineage"]) == asked


def test_times_are_as_people_read_them(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    time = datetime(2026, 11, 21, 12, 30, 15, 123_456, tzinfo=UTC)
    node = pb.LineageNode(kind=pb.LINEAGE_KIND_ALERT, id="a", title="An alert")
    node.attributes.update({"fire_time": time.isoformat(), "resolve_time": "soon"})
    server.on("GetLineage", answer(pb.GetLineageResponse(nodes=[node])))
    text = said(capsys, "lineage", "m/a")
    assert f"fire_time={time.astimezone():%Y-%m-%d %H:%M:%S}, resolve_time=soon" in text


def test_what_could_not_be_looked_up_says_which_command_helps(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    node = pb.LineageNode(kind=pb.LINEAGE_KIND_VERSION, id="m/a", title="A version", missing="ListModels shows all")
    server.on("GetLineage", answer(pb.GetLineageResponse(nodes=[node])))
    assert "not looked up: `penstock model list` shows all" in said(capsys, "lineage", "m/a")


def test_a_circle_is_drawn_once(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [pb.LineageNode(kind=pb.LINEAGE_KIND_VERSION, id=name, title=name) for name in ("a", "b")]
    edges = [
        pb.LineageEdge(from_node=0, to_node=1, relation="led to"),
        pb.LineageEdge(from_node=1, to_node=0, relation="led to"),
        pb.LineageEdge(from_node=0, to_node=9, relation="led to"),
    ]
    server.on("GetLineage", answer(pb.GetLineageResponse(nodes=nodes, edges=edges)))
    assert len(said(capsys, "lineage", "m/a").splitlines()) == 2
    server.on("GetLineage", answer(pb.GetLineageResponse()))
    assert "nothing is known" in said(capsys, "lineage", "m/a")


def test_what_holds_is_shown_with_who_says_so(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    of_all = configuration_pb2.GetConfigurationResponse()
    of_all.own.drift.window = "24h"
    server.on("GetConfiguration", answer(configuration()), answer(of_all))
    rows = {line.split()[0]: line.split()[1:] for line in said(capsys, "monitoring", "get", "iris").splitlines()[2:]}
    assert rows["drift.interval"] == ["1h", "iris"]
    assert rows["drift.window"] == ["24h", "all", "models"]
    assert rows["retraining.enabled"] == ["false", "built", "in"]
    assert rows["drift.gate"] == ["psi_calibrated", "built", "in"]
    assert rows["drift.ignored_features"] == ["[]", "built", "in"]


def test_settings_are_changed_by_their_names(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("GetConfiguration", answer(configuration()))
    changed = configuration()
    server.on(
        "SetConfiguration",
        answer(configuration_pb2.SetConfigurationResponse(effective=changed.effective, own=changed.own)),
    )
    told = said(
        capsys, "monitoring", "set", "drift.window=6h", "drift.alpha=", "retraining.enabled=off", "drift.gate=ks",
        "--model", "iris", "--version", "2.0.0", "--note", "a busy model",
    )  # fmt: skip
    (request,) = server.calls["SetConfiguration"]
    assert (request.model, request.version, request.note, request.etag) == ("iris", "2.0.0", "a busy model", "e")
    names = {line.split()[0] for line in told.splitlines()[2:]}
    assert names == {"drift.window", "drift.alpha", "drift.gate", "retraining.enabled"}, (
        "what was set, not all there is"
    )
    drift = request.configuration.drift
    assert (drift.window, drift.interval, drift.gate) == ("6h", "1h", drift_pb2.DRIFT_GATE_KS)
    assert not drift.HasField("alpha")
    assert request.configuration.retraining.enabled is False


def test_what_looks_like_a_mistake_is_said_beside_the_answer(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("GetConfiguration", answer(configuration()))
    warnings = [
        "no model 'iriss' is registered, and none of that name has answered; did you mean iris?",
        "call ListModels",
    ]
    server.on("SetConfiguration", answer(configuration_pb2.SetConfigurationResponse(warnings=warnings)))
    assert run(["monitoring", "set", "drift.window=6h", "--model", "iriss"]) == 0
    told = capsys.readouterr()
    assert "did you mean" not in told.out
    assert told.err.splitlines() == [f"warning: {warnings[0]}", "warning: run `penstock model list`"]


def test_a_change_repeats_no_warning_about_another_setting(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("GetConfiguration", answer(configuration()))
    old = "drift.ignored_features: no profile and no traffic of iris has a feature 'debtt'; did you mean debt?"
    server.on("SetConfiguration", answer(configuration_pb2.SetConfigurationResponse(warnings=[old])))
    assert "debtt" not in said(capsys, "monitoring", "set", "drift.window=6h", "--model", "iris")
    assert "debtt" in said(capsys, "monitoring", "set", "drift.ignored_features=[debtt]", "--model", "iris")


def test_values_are_read_as_their_settings_have_them() -> None:
    read = parse_changes(
        ["drift.alpha=0.1", "drift.min_rows=100", "drift.ignored_features=[id, at]", "quality.tolerance="]
    )
    assert read == {
        "drift": {"alpha": 0.1, "min_rows": 100, "ignored_features": ["id", "at"]},
        "quality": {"tolerance": None},
    }
    assert parse_changes(["drift.ignored_features=[]"]) == {"drift": {"ignored_features": []}}
    for text, words in (
        ("drift.beta=1", "there are rollups.enabled, "),
        ("drift=1", "there is no 'drift'"),
        ("drift.enabled=perhaps", "true or false"),
        ("drift.min_rows=few", "not a number"),
        ("drift.alpha", "NAME=VALUE"),
        ("drift.ignored_features=debt, age", r"is no list: write \[debt,age\]"),
        ("drift.ignored_features=[debt,age", r"is no list: write \[debt,age\]"),
    ):
        with pytest.raises(typer.BadParameter, match=words):
            parse_changes([text])


def test_changes_are_listed_from_what_to_what(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    change = configuration_pb2.ConfigurationChange(
        time=stamp(hours=1), model="iris", before=configuration().own, changed_by="ada", note="a busy model"
    )
    change.after.drift.interval = "30m"
    server.on("ListConfigurationChanges", answer(configuration_pb2.ListConfigurationChangesResponse(changes=[change])))
    text = said(capsys, "monitoring", "changes", "iris")
    assert "drift.interval: 1h → 30m" in text
    assert "a busy model" in text
    assert run(["monitoring", "changes", "iris", "-n", "1"]) == 0
    assert "the newest 1; --limit shows more" in capsys.readouterr().err


def test_a_switch_that_was_turned_off_is_in_the_list(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    change = configuration_pb2.ConfigurationChange(time=stamp(hours=1), model="iris", changed_by="ada")
    change.after.alerts.enabled = False
    server.on("ListConfigurationChanges", answer(configuration_pb2.ListConfigurationChangesResponse(changes=[change])))
    assert "alerts.enabled: false" in said(capsys, "monitoring", "changes", "iris")
    change.before.drift.interval = "1h"
    server.on("ListConfigurationChanges", answer(configuration_pb2.ListConfigurationChangesResponse(changes=[change])))
    assert "→ false" in said(capsys, "monitoring", "changes", "iris")
