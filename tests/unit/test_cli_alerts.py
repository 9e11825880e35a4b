"""`penstock alert`: alerts, silences, rules and channels."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from rich.text import Text

from penstock.api.monitoring.v1 import alerts_pb2 as pb
from penstock.api.monitoring.v1 import channels_pb2
from penstock.cli.__main__ import run
from penstock.cli.alert_conditions import parse_condition
from penstock.cli.exits import ExitCode
from services.common import errors
from tests.alert_answers import alert, rule
from tests.monitoring_answers import ID, server, terminal
from tests.sdk import ScriptedServer, answer, fail

__all__ = ["server", "terminal"]


def said(capsys: pytest.CaptureFixture[str], *arguments: str, exit_code: int = 0) -> str:
    assert run(["alert", *arguments]) == exit_code
    captured = capsys.readouterr()
    return Text.from_ansi(captured.out + captured.err).plain


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    return " ".join(said(capsys, *arguments, exit_code=2).replace("│", " ").split())


def test_a_list_has_what_is_not_over_unless_all_is_asked_for(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("ListAlerts", answer(pb.ListAlertsResponse(alerts=[alert(flapping=True)])))
    text = said(capsys, "list", "--severity", "critical", "--type", "drift", "--model", "iris")
    assert "flapping" in text
    assert f"penstock alert show {ID}4" in text
    said(capsys, "list", "--all")
    said(capsys, "list", "--state", "resolved")
    first, second, third = server.calls["ListAlerts"]
    assert list(first.states) == [pb.ALERT_STATE_PENDING, pb.ALERT_STATE_FIRING]
    assert (first.severity, first.type) == (pb.SEVERITY_CRITICAL, pb.ALERT_TYPE_DRIFT)
    assert (list(second.states), list(third.states)) == ([], [pb.ALERT_STATE_RESOLVED])
    server.on("ListAlerts", answer(pb.ListAlertsResponse()))
    assert "nothing is wrong that a rule watches" in said(capsys, "list")


@pytest.mark.parametrize("width", [80, 120])
def test_a_list_says_on_a_narrow_terminal_what_matters(
    server: ScriptedServer, terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    terminal.setenv("COLUMNS", str(width))
    long = alert(model="churn-of-the-north", rule_name="too-many-errors", acknowledged_by="ada")
    server.on(
        "ListAlerts",
        answer(pb.ListAlertsResponse(alerts=[long, alert(id="019b9c5f-0000-7000-8000-000000000007", silenced=True)])),
    )
    text = said(capsys, "list")
    lines = text.splitlines()
    assert max(len(line.rstrip()) for line in lines if not line.startswith("  penstock ")) <= width
    assert lines[2].split()[0] == f"{ID}4"[:13], "as much as commands need"
    for words in ("critical", "firing", "too-many-errors of", "churn-of-the-north", "ada", "silenced"):
        assert words in text
    assert ("no room here for: condition" in text) == (width == 80)


def test_an_alert_shows_how_it_went_on_and_what_to_do(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("GetAlert", answer(pb.GetAlertResponse(alert=alert())))
    text = said(capsys, "show", f"{ID}4")
    for words in ("effect 0.31, more than 0.1", "0.31, threshold 0.1", "the condition holds", "pending"):
        assert words in text
    assert "queued for" in text, "whether it arrived, the channel says"
    assert f"penstock drift show {ID}1" in text
    assert f"penstock alert ack {ID}4" in text
    assert "newest check" not in text
    later = alert(last_value=0.4, last_check_id=f"{ID}9")
    server.on("GetAlert", answer(pb.GetAlertResponse(alert=later)))
    text = said(capsys, "show", f"{ID}4")
    assert f"penstock drift show {ID}1" in text, "a later check did not raise it"
    assert [line.split()[-1] for line in text.splitlines() if "newest check" in line or "  now " in line] == [
        "0.4",
        f"{ID}9",
    ]
    taken = alert(acknowledged_by="ada", acknowledge_note="rolling back", type=pb.ALERT_TYPE_DATA_QUALITY)
    taken.acknowledge_time.CopyFrom(taken.fire_time)
    server.on("GetAlert", answer(pb.GetAlertResponse(alert=taken)))
    text = said(capsys, "show", f"{ID}4")
    assert "by ada: rolling back" in text
    assert f"penstock quality show {ID}1" in text
    assert "penstock alert ack" not in text


def test_what_is_piped_is_not_padded(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A margin around a table filled every line with a hundred thousand spaces."""
    server.on("GetAlert", answer(pb.GetAlertResponse(alert=alert())))
    assert run(["alert", "show", f"{ID}4"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line != line.rstrip()] == []


def test_an_alert_is_taken_in_hand_with_a_reason(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("AcknowledgeAlert", answer(pb.AcknowledgeAlertResponse(alert=alert(acknowledged_by="ada"))))
    text = said(capsys, "ack", f"{ID}4", "--note", "rolling back")
    assert "drift of iris 2.0.0 is in ada's hands" in text
    assert f"penstock lineage {ID}4" in text
    assert server.calls["AcknowledgeAlert"][0].note == "rolling back"
    server.on("AcknowledgeAlert", fail(errors.FailedPrecondition("it is over", reason="ALERT_RESOLVED")))
    assert "[ALERT_RESOLVED]" in said(capsys, "ack", f"{ID}4", exit_code=1)


def test_a_silence_has_an_end_a_reason_and_something_to_silence(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "a silence has an end" in refusal(capsys, "silence", "--model", "iris", "--note", "why")
    assert "say why" in refusal(capsys, "silence", "--model", "iris", "--for", "2h")
    assert "--all silences everything" in refusal(capsys, "silence", "--for", "2h", "--note", "why")
    assert not server.calls
    server.on("CreateSilence", lambda request, context: pb.CreateSilenceResponse(silence=request.silence))
    server.on("GetAlert", answer(pb.GetAlertResponse(alert=alert())))
    text = said(capsys, "silence", "--model", "iris", "--severity", "warning", "--for", "2h", "--note", "a migration")
    assert "warning alerts of iris are sent to nobody until" in text
    said(capsys, "silence", "--all", "--until", "2030-01-31T12:00", "--note", "why")
    said(capsys, "silence", f"{ID}4", "--for", "1h", "--note", "why")
    first, second, third = (request.silence for request in server.calls["CreateSilence"])
    left = first.end_time.ToDatetime(tzinfo=UTC) - datetime.now(UTC)
    assert timedelta(hours=1, minutes=58) < left <= timedelta(hours=2)
    assert second.end_time.ToDatetime(tzinfo=UTC) == datetime(2030, 1, 31, 12).astimezone()
    assert (third.model, third.version, third.rule_name) == ("iris", "2.0.0", "drift")


def test_silences_are_listed_and_ended(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    over, on = pb.Silence(id="s1", rule_name="slow"), pb.Silence(id="s2", note="a migration")
    on.end_time.FromDatetime(datetime.now(UTC) + timedelta(hours=2, minutes=1))
    server.on("ListSilences", answer(pb.ListSilencesResponse(silences=[on, over])))
    text = said(capsys, "silences", "--all")
    assert "2h 0m" in text
    assert "alerts rule slow" in text
    assert "over" in text
    assert server.calls["ListSilences"][0].ended
    server.on("EndSilence", answer(pb.EndSilenceResponse(silence=over)))
    assert "are sent again" in said(capsys, "unsilence", "s1")


def test_silences_say_on_a_narrow_terminal_why_and_of_what(
    server: ScriptedServer, terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.setenv("COLUMNS", "80")
    silence = pb.Silence(id=f"{ID}8", model="churn", version="1.0.0", rule_name="errors", created_by="ada")
    silence.note = "the database is moved to another machine, and comes back slowly"
    silence.end_time.FromDatetime(datetime.now(UTC) + timedelta(hours=2, minutes=1))
    server.on("ListSilences", answer(pb.ListSilencesResponse(silences=[silence])))
    text = said(capsys, "silences")
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "…" not in text
    for word in ("churn", "1.0.0", "errors", "2h", "slowly", "ada"):
        assert word in text


def test_what_nobody_knows_is_said_beside_the_answer(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    doubt = "no model 'iriss' is registered, and none of that name has answered; did you mean iris?"
    server.on("CreateAlertRule", answer(pb.CreateAlertRuleResponse(rule=rule(model="iriss", warnings=[doubt]))))
    server.on("CreateSilence", answer(pb.CreateSilenceResponse(silence=pb.Silence(model="iriss", warnings=[doubt]))))
    for command in (
        ["rule", "create", "slow", "--when", "p95_latency_ms > 200", "--model", "iriss"],
        ["silence", "--model", "iriss", "--for", "2h", "--note", "why"],
    ):
        assert run(["alert", *command]) == 0
        told = capsys.readouterr()
        assert doubt not in told.out
        assert f"warning: {doubt}" in told.err


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("p95_latency_ms > 200", ("p95_latency_ms", ">", 200.0)),
        ("error_rate>=5%", ("error_rate", ">=", 0.05)),
        (" accuracy < .9 ", ("accuracy", "<", 0.9)),
        ("effect <= 1e-2", ("effect", "<=", 0.01)),
    ],
)
def test_a_condition_is_read_as_it_is_said(text: str, read: tuple[str, str, float]) -> None:
    assert parse_condition(text) == pytest.approx(read)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slow", "is no condition"),
        ("p95 > 200", "these can: average_latency_ms"),
        ("error_rate = 1", "is no condition"),
        ("error_rate > much", "is no number"),
        ("p95_latency > 200", "did you mean p95_latency_ms or"),
        ("p95_latency_ms > 200ms", "is no number; write 200"),
    ],
)
def test_a_condition_that_is_none_says_what_is(text: str, words: str) -> None:
    with pytest.raises(typer.BadParameter, match=words):
        parse_condition(text)


def test_a_rule_is_made_with_what_suits_its_metric(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("CreateAlertRule", lambda request, context: pb.CreateAlertRuleResponse(rule=request.rule))
    text = said(
        capsys, "rule", "create", "slow", "--when", "p95_latency_ms > 200", "--for", "5m", "--channel", "ops",
        "--channel", "mail", "--severity", "critical", "--repeat", "1h", "--min-count", "20", "--model", "iris",
    )  # fmt: skip
    assert "nobody is told" not in text
    assert "nobody is told" in said(capsys, "rule", "create", "far", "--when", "effect > 0.2", "--drift-type", "input")
    slow, far = (request.rule for request in server.calls["CreateAlertRule"])
    assert (slow.window, getattr(slow, "for"), slow.repeat_interval, slow.min_count) == ("15m", "5m", "1h", 20)
    assert (list(slow.channels), slow.severity, slow.enabled) == (["ops", "mail"], pb.SEVERITY_CRITICAL, True)
    assert (far.window, far.severity, far.type) == ("24h", pb.SEVERITY_WARNING, pb.ALERT_TYPE_DRIFT)
    assert "--when" in refusal(capsys, "rule", "create", "empty")


def test_a_rule_is_found_by_its_name_where_one_bears_it(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = rule(model="iris", id=f"{ID}7")
    server.on("ListAlertRules", answer(pb.ListAlertRulesResponse(rules=[rule(), mine, rule(name="other")])))
    server.on("GetAlertRule", answer(pb.GetAlertRuleResponse(rule=mine)))
    text = said(capsys, "rule", "show", "slow", exit_code=ExitCode.USAGE)
    assert "for all models, iris" in text
    assert "[RULE_AMBIGUOUS]" in text
    assert json.loads(said(capsys, "rule", "show", "slow", "--model", "iris", "--json"))["id"] == f"{ID}7"
    assert "[RULE_NOT_FOUND]" in said(capsys, "rule", "show", "none", exit_code=ExitCode.NOT_FOUND)
    assert json.loads(said(capsys, "rule", "show", f"{ID}7", "--json"))["model"] == "iris"
    server.on("UpdateAlertRule", lambda request, context: pb.UpdateAlertRuleResponse(rule=request.rule))
    changed = json.loads(
        said(capsys, "rule", "update", "slow", "-m", "iris", "--when", "p99_latency_ms >= 300", "--off", "--json")
    )
    assert (changed["metric"], changed["operator"], changed["threshold"]) == ("p99_latency_ms", "greater_or_equal", 300)
    assert (changed["enabled"], changed["channels"], changed["etag"]) == (False, ["ops"], "e")
    assert json.loads(said(capsys, "rule", "update", f"{ID}7", "--no-channel", "--json"))["channels"] == []
    assert "say what to change" in refusal(capsys, "rule", "update", "slow")


def test_rules_are_listed_and_deleted_once_that_was_confirmed(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.on("ListAlertRules", answer(pb.ListAlertRulesResponse(rules=[rule(), rule(name="off", enabled=False)])))
    text = said(capsys, "rule", "list", "--model", "iris")
    assert "p95 latency over 15m > 200 ms, for 5m" in text
    server.on("DeleteAlertRule", answer(pb.DeleteAlertRuleResponse()))
    said(capsys, "rule", "delete", "slow", exit_code=1)  # nobody there to ask
    assert server.calls["DeleteAlertRule"] == []
    assert "deleted rule slow" in said(capsys, "rule", "delete", "slow", "--yes")


def test_what_was_done_to_rules_says_who_changed_what(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], terminal: pytest.MonkeyPatch
) -> None:
    terminal.setenv("COLUMNS", "160")
    before, after = rule(), rule(threshold=300, channels=["ops"])
    changes = [
        pb.AlertRuleChange(rule_id="r", before=after, changed_by="cleo"),
        pb.AlertRuleChange(rule_id="r", before=before, after=after, changed_by="bob"),
        pb.AlertRuleChange(rule_id="r", after=before, changed_by="ada"),
    ]
    server.on("ListAlertRuleChanges", answer(pb.ListAlertRuleChangesResponse(changes=changes)))
    deleted, changed, made = said(capsys, "rule", "history").splitlines()[2:5]
    assert ("deleted" in deleted, "made" in made, "ada" in made) == (True, True, True)
    assert "bob" in changed
    assert "threshold: 200" in changed
    said(capsys, "rule", "history", f"{ID}7")
    assert [request.rule_id for request in server.calls["ListAlertRuleChanges"]] == ["", f"{ID}7"]


def test_an_alert_without_a_version_is_silenced_for_the_model_as_a_whole_alone(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("CreateSilence", lambda request, context: pb.CreateSilenceResponse(silence=request.silence))
    for version in ("", "1.0.0"):
        found = alert()
        found.version = version
        server.on("GetAlert", answer(pb.GetAlertResponse(alert=found)))
        text = said(capsys, "silence", f"{ID}4", "--for", "2h", "--note", "a migration")
        assert ("as a whole" in text) == (not version)
    whole, one = (request.silence for request in server.calls["CreateSilence"])
    assert (whole.version, whole.without_version) == ("", True)
    assert (one.version, one.without_version) == ("1.0.0", False)


def test_secrets_come_from_files_and_the_environment_alone(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.on("SetChannel", lambda request, context: channels_pb2.SetChannelResponse(channel=request.channel))
    (tmp_path / "hook.key").write_text("a-secret-of-the-team\n")
    monkeypatch.setenv("OPS_MAIL", "mailto://ada:word@example.org")
    hook = ("channel", "set", "ops", "--webhook", "https://example.org/hook")
    said(capsys, *hook, "--secret-file", str(tmp_path / "hook.key"))
    said(capsys, "channel", "set", "mail", "--apprise-env", "OPS_MAIL")
    said(capsys, *hook)
    first, second, third = (request.channel for request in server.calls["SetChannel"])
    assert first.webhook.secret == "a-secret-of-the-team"
    assert second.apprise.url == "mailto://ada:word@example.org"
    assert third.webhook.secret == ""
    for arguments, words in (
        (("channel", "set", "ops"), "give --webhook URL"),
        ((*hook, "--apprise-env", "OPS_MAIL"), "give --webhook URL"),
        ((*hook, "--secret-env", "NOT_SET"), "NOT_SET is not set"),
        ((*hook, "--secret-env", "OPS_MAIL", "--secret-file", "x"), "give one of"),
        (("channel", "set", "m", "--apprise-env", "OPS_MAIL", "--secret-env", "OPS_MAIL"), "apprise has it in its URL"),
    ):
        assert words in refusal(capsys, *arguments)
    (tmp_path / "empty").write_text("\n")
    assert "is empty" in refusal(capsys, *hook, "--secret-file", str(tmp_path / "empty"))
    said(capsys, *hook, "--secret-file", str(tmp_path / "none"), exit_code=ExitCode.NOT_FOUND)
    assert len(server.calls["SetChannel"]) == 3


def test_channels_are_listed_tried_and_deleted(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    ops = channels_pb2.Channel(name="ops", waiting_count=2, last_error="503 from the receiver")
    ops.webhook.url = "https://example.org/…"
    server.on("ListChannels", answer(channels_pb2.ListChannelsResponse(channels=[ops])))
    text = said(capsys, "channel", "list")
    for words in ("ops", "https://example.org/…", "never", "503 from the receiver"):
        assert words in text
    server.on("TestChannel", answer(channels_pb2.TestChannelResponse(duration_ms=1_200)))
    assert "ops took it, in 1,200 ms" in said(capsys, "channel", "test", "ops")
    server.on("TestChannel", fail(errors.FailedPrecondition("it answered 503", reason="NOT_DELIVERED")))
    assert "it answered 503 [NOT_DELIVERED]" in said(capsys, "channel", "test", "ops", exit_code=1)
    server.on("DeleteChannel", answer(channels_pb2.DeleteChannelResponse()))
    assert "deleted channel ops" in said(capsys, "channel", "delete", "ops", "--yes")
