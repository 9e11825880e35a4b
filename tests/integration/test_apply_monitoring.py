"""`penstock apply` and how models are watched: a real monitoring service, and a registry in a dict."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import penstock as sdk
from penstock.api.monitoring.v1 import alerts_pb2
from penstock.cli.__main__ import run
from penstock.cli.embedded.ports import free_port
from penstock.monitoring import MonitoringClient
from tests.applying import Apply, apply, server, shelf
from tests.kit import write_keys
from tests.monitoring import serve
from tests.shelf import Shelf

__all__ = ["apply", "server", "shelf"]
HOOK_PATH, SECRET = "a-path-that-nobody-sees", "a-secret-that-nobody-sees"
SUITE = """
suite: testing
channels:
  - name: ops
    webhook_file: hook.url
    secret_env: OPS_SECRET
alert_rules:
  - name: slow
    when: p95_latency_ms > 200
    for: 300s
    channels: [ops]
models:
  - name: iris
    description: which iris
    monitoring:
      drift: {interval: 60m, alpha: 0.01, ignored_features: [id]}
      retraining: {enabled: false, min_labels: 0}
    alert_rules:
      - name: slow
        when: p95_latency_ms > 50
        severity: critical
      - name: errors
        when: error_rate > 1%
        version: 1.0.0
        channels: [ops]
"""


@contextmanager
def watched(
    url: str, monkeypatch: pytest.MonkeyPatch, folder: Path, token: str = "", **settings: Any
) -> Iterator[sdk.Client]:
    """A monitoring service that the command finds, and what the suite's file names beside it."""
    key = folder / "secrets.key"
    key.write_bytes(base64.b64encode(os.urandom(32)))
    (folder / "hook.url").write_text(f"http://127.0.0.1:9/{HOOK_PATH}\n")
    monkeypatch.setenv("OPS_SECRET", SECRET)
    settings |= {"secrets_key_file": key, "notification_allowed_hosts": "127.0.0.1"}
    with serve(url, **settings) as running, sdk.Client(monitoring=running.address, token=token or None) as client:
        monkeypatch.setenv("PENSTOCK_MONITORING_ADDRESS", running.address)
        yield client


@pytest.fixture
def monitoring(
    clone_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[MonitoringClient]:
    with watched(clone_database("monitoring"), monkeypatch, tmp_path) as client:
        yield client.monitoring


def rules_of(monitoring: MonitoringClient, model: str) -> dict[str, alerts_pb2.AlertRule]:
    return {
        f"{rule.name} {rule.version}".strip(): rule for rule in monitoring.alert_rules.list() if rule.model == model
    }


def test_a_suite_brings_its_channels_rules_and_settings_and_then_there_is_nothing_to_do(
    monitoring: MonitoringClient, apply: Apply
) -> None:
    shown = apply(SUITE, "--dry-run")
    assert [line for line in shown.splitlines() if line.lstrip().startswith("+ alert rule")] == [
        "+ alert rule slow", "    + alert rule errors for 1.0.0", "    + alert rule slow",
    ]  # fmt: skip
    assert "+ webhook: http://127.0.0.1:9\n" in shown
    assert "    ~ monitoring\n        + drift.interval: 1h\n" in shown
    assert "+ retraining.enabled: false" in shown, "off is something, and so is 0"
    assert HOOK_PATH not in shown
    assert monitoring.channels.list() == []
    said = apply(SUITE, "--yes")
    assert "✔ create channel ops\n✔ create model iris\n✔ change monitoring of iris\n✔ create alert rule " in said
    assert HOOK_PATH not in said
    assert SECRET not in said
    (channel,) = monitoring.channels.list()
    assert (channel.name, channel.webhook.signed) == ("ops", True)
    slow = rules_of(monitoring, "")["slow"]
    assert (slow.threshold, getattr(slow, "for"), slow.window, list(slow.channels)) == (200, "5m", "15m", ["ops"])
    own = rules_of(monitoring, "iris")
    assert (own["slow"].severity, own["errors 1.0.0"].threshold) == (alerts_pb2.SEVERITY_CRITICAL, 0.01)
    configured = monitoring.configurations.get("iris").own
    assert (configured.drift.interval, list(configured.drift.ignored_features)) == ("1h", ["id"])
    assert (configured.retraining.enabled, configured.retraining.min_labels) == (False, 0)
    assert [change.note for change in monitoring.configurations.changes("iris")] == ["the suite testing"]
    for arguments in ((), ("--prune",), ("--dry-run",)):
        assert apply(SUITE, *arguments).startswith("nothing to do")


def test_a_feature_that_no_row_has_is_set_and_said(
    monitoring: MonitoringClient, apply: Apply, capsys: pytest.CaptureFixture[str]
) -> None:
    monitoring.profiles.create("iris", "1.0.0", {"petal": range(100), "sepal": range(100)})
    apply(SUITE.replace("[id]", "[petals]"), "--dry-run")
    assert run(["apply", "-f", "suite.yaml", "--yes"]) == 0
    warning = "warning: drift.ignored_features: no profile and no traffic of iris has a feature 'petals'"
    assert warning in capsys.readouterr().err
    assert list(monitoring.configurations.get("iris").own.drift.ignored_features) == ["petals"]
    for feature in ("sepall", "seppal"):
        rule = f"- {{name: dirty, when: missing_rate > 0.02, feature: {feature}}}"
        suite = SUITE.replace("    alert_rules:\n", f"    alert_rules:\n      {rule}\n")
        apply(suite, "--dry-run")
        assert run(["apply", "-f", "suite.yaml", "--yes"]) == 0
        assert f"has a feature '{feature}'; did you mean sepal?" in capsys.readouterr().err


def test_who_has_no_secrets_applies_the_rest_and_what_is_kept_stays(
    monitoring: MonitoringClient, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPS_SECRET")
    Path("hook.url").rename("elsewhere.url")
    shown = apply(SUITE, "--dry-run")
    assert "! channel ops: there is no file hook.url, and without it this can't be applied\n" in shown
    assert "+ webhook: (its URL is not here)\n" in shown
    said = apply(SUITE, "--yes", exit_code=2)
    assert "suite.yaml:5: channels[0].webhook_file: there is no file hook.url, and the channel ops has none yet" in said
    assert "suite.yaml:6: channels[0].secret_env: the variable OPS_SECRET is not set, or empty, and the channel" in said
    assert monitoring.channels.list() == []
    Path("elsewhere.url").rename("hook.url")
    monkeypatch.setenv("OPS_SECRET", SECRET)
    apply(SUITE, "--yes")
    before = list(monitoring.channels.changes())
    monkeypatch.delenv("OPS_SECRET")
    slower = SUITE.replace("> 200", "> 300")
    said = apply(slower, "--yes")
    assert "! channel ops: secret unchanged, the variable OPS_SECRET is not set, or empty\n" in said
    assert "0 to create, 1 to change, 0 to delete" in said
    Path("hook.url").unlink()
    assert "! channel ops: unchanged, there is no file hook.url\nnothing to do" in apply(
        SUITE.replace("> 200", "> 300")
    )
    assert list(monitoring.channels.changes()) == before
    monkeypatch.setenv("OPS_SECRET", SECRET)
    Path("hook.url").write_text(f"http://127.0.0.1:9/{HOOK_PATH}\n")
    assert apply(slower).startswith("nothing to do"), "it is still the secret that it was"


def test_a_secret_that_became_another_is_set_and_neither_is_shown(
    monitoring: MonitoringClient, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(SUITE, "--yes")
    monkeypatch.setenv("OPS_SECRET", "another-secret-of-theirs")
    said = apply(SUITE, "--yes")
    assert "~ channel ops\n    ~ secrets: those kept → those given\n" in said
    assert "✔ replace channel ops\n" in said
    assert apply(SUITE).startswith("nothing to do")
    Path("hook.url").write_text("http://127.0.0.1:9/another-path\n")
    document = json.loads(apply(SUITE, "--dry-run", "--json"))
    assert [step["action"] for step in document["steps"]] == ["replace_channel"]
    for secret in (SECRET, "another-secret", "another-path", HOOK_PATH):
        assert secret not in said + json.dumps(document)
    monkeypatch.setenv("OPS_SECRET", "short")  # what is refused ends the rules that tell it, and no more
    assert "[INVALID_CHANNEL]" in apply(SUITE.replace("which iris", "another iris"), "--yes", exit_code=1)
    assert "0 to create, 1 to change" in apply(SUITE.replace("which iris", "another iris"), "--dry-run")


def test_whose_key_may_not_set_channels_is_told_that_none_was_compared_and_applies_the_rest(
    clone_database: Callable[[str], str], apply: Apply, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    write_keys(keys, ada="admin", bob="operator")
    with watched(clone_database("monitoring"), monkeypatch, tmp_path, "ada", keys_file=keys) as client:
        monkeypatch.setenv("PENSTOCK_TOKEN", "ada")
        apply(SUITE, "--yes")
        monkeypatch.setenv("PENSTOCK_TOKEN", "bob")
        said = apply(SUITE.replace("> 200", "> 300"), "--yes")
        assert "! channel ops: its secrets were not compared, which takes an admin's key\n" in said
        assert rules_of(client.monitoring, "")["slow"].threshold == 300


def test_only_what_differs_is_changed_and_what_the_file_does_not_say_is_left_alone(
    monitoring: MonitoringClient, apply: Apply
) -> None:
    apply(SUITE, "--yes")
    monitoring.configurations.change({"quality": {"tolerance": 0.2}}, model="iris")
    monitoring.alert_rules.update(rules_of(monitoring, "iris")["slow"].id, description="by hand")
    monitoring.alert_rules.create("theirs", "error_count", ">", 1, window="5m", severity="info", model="iris")
    said = apply(SUITE.replace("> 50", "> 60").replace("min_labels: 0", "min_labels: 9"), "--yes")
    assert "~ threshold: 50 → 60" in said
    assert "~ retraining.min_labels: 0 → 9" in said
    assert "0 to create, 2 to change, 0 to delete" in said
    rules = rules_of(monitoring, "iris")
    assert (rules["slow"].threshold, rules["slow"].description) == (60, "by hand")
    assert "theirs" in rules
    assert monitoring.configurations.get("iris").own.quality.tolerance == 0.2


def test_pruning_takes_back_what_the_file_no_longer_names_of_the_suites_own_models(
    monitoring: MonitoringClient, apply: Apply
) -> None:
    apply(SUITE, "--yes")
    before = set(rules_of(monitoring, ""))
    monitoring.configurations.change({"quality": {"tolerance": 0.2}}, model="iris")
    fewer = SUITE.replace(", alpha: 0.01", "")
    fewer = fewer[: fewer.index("      - name: errors")]
    said = apply(fewer, "--prune", "--yes")
    assert "- alert rule errors for 1.0.0" in said
    assert set(rules_of(monitoring, "iris")) == {"slow"}
    own = monitoring.configurations.get("iris").own
    assert (own.drift.interval, own.drift.HasField("alpha"), own.HasField("quality")) == ("1h", False, False)
    assert apply("suite: testing\nmodels: [{name: iris}]\n", "--prune", "--yes").startswith("nothing to do")
    assert set(rules_of(monitoring, "")) == before, "what holds for all models is no suite's own"
    assert len(monitoring.channels.list()) == 1


WATCHED = """
suite: testing
alert_rules: {everywhere}
models:
  - name: iris
    monitoring: {{drift: {{interval: {drift}}}, quality: {{interval: {quality}}}}}
    alert_rules:
      - {{name: drift, when: effect > 0.2, window: {drift}}}
      - {{name: data-quality, when: violation_count > 0, window: {quality}}}
"""


def test_checks_come_more_or_less_often_with_rules_that_look_back_no_further_than_they_must(
    monitoring: MonitoringClient, apply: Apply
) -> None:
    far = "{{name: far, when: effect > 0.1, window: {}}}"
    wide, narrow = f"[{far.format('6h')}]", f"      - {far.format('3d')}\n"
    # From nothing, the other way round, both shorter, both longer; and a rule for all that would be blind for iris.
    for drift, quality, everywhere, more in [
        ("7d", "2h", "[]", ""),
        ("2h", "7d", "[]", ""),
        ("1h", "1h", "[]", ""),
        ("3d", "4d", "[]", ""),
        ("3d", "4d", wide, narrow),
    ]:
        suite = WATCHED.format(drift=drift, quality=quality, everywhere=everywhere) + more
        apply(suite, "--yes")
        assert apply(suite).startswith("nothing to do")
        own = monitoring.configurations.get("iris").own
        assert (own.drift.interval, own.quality.interval) == (drift, quality)
        rules = rules_of(monitoring, "iris")
        assert (rules["drift"].window, rules["data-quality"].window) == (drift, quality)


def test_a_rule_that_is_pruned_holds_up_no_checks(monitoring: MonitoringClient, apply: Apply) -> None:
    short = WATCHED.format(drift="1h", quality="1h", everywhere="[]")
    apply(short + "      - {name: mine, when: effect > 0.3, window: 1h}\n", "--yes")
    apply(WATCHED.format(drift="2d", quality="2d", everywhere="[]"), "--prune", "--yes")
    assert monitoring.configurations.get("iris").own.drift.interval == "2d"
    assert "mine" not in rules_of(monitoring, "iris")


def test_a_change_by_somebody_else_meanwhile_is_kept(monitoring: MonitoringClient, shelf: Shelf, apply: Apply) -> None:
    apply(SUITE, "--yes")
    theirs = {"drift": {"alpha": 0.02}}
    shelf.meanwhile["UpdateModel"] = lambda: monitoring.configurations.change(theirs, model="iris")
    changed = SUITE.replace("which iris", "another").replace("60m", "2h")
    assert "run this again to see what differs now [ETAG_MISMATCH]" in apply(changed, "--yes", exit_code=1)
    own = monitoring.configurations.get("iris").own
    assert (own.drift.alpha, own.drift.interval) == (0.02, "1h")
    shelf.meanwhile.clear()
    apply(changed, "--yes")
    assert monitoring.configurations.get("iris").own.drift.interval == "2h"


def test_what_can_not_be_is_refused_before_anything_changes(monitoring: MonitoringClient, apply: Apply) -> None:
    said = apply(SUITE.replace("for: 300s\n    channels: [ops]", "channels: [oops]"), "--yes", exit_code=2)
    assert "suite.yaml:8: the rule slow tells oops, which is no channel" in said
    assert monitoring.channels.list() == []


def test_what_monitoring_refuses_is_said_and_the_other_models_go_on(
    monitoring: MonitoringClient, shelf: Shelf, apply: Apply
) -> None:
    two = f"{SUITE}  - name: other\n    alert_rules: [{{name: x, when: error_rate > 2}}]\n"
    assert "[INVALID_RULE]" in apply(two, "--yes", exit_code=1)
    assert "slow" in rules_of(monitoring, "iris")
    document = json.loads(apply(two, "--dry-run", "--json"))
    (step,) = document["steps"]
    assert (step["action"], step["model"], step["name"], step["done"]) == ("create_alert_rule", "other", "x", False)


def test_a_channel_that_is_refused_ends_only_the_rules_that_tell_it(
    monitoring: MonitoringClient, shelf: Shelf, apply: Apply, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = """
suite: testing
channels:
  - {name: bad, webhook: "https://10.1.2.3/x"}
  - {name: good, webhook_file: hook.url}
alert_rules:
  - {name: slow, when: p95_latency_ms > 200, channels: [bad]}
  - {name: errors, when: error_rate > 2, channels: [good]}
  - {name: failing, when: error_count > 9, channels: [good]}
models:
  - name: iris
    alert_rules: [{name: slow, when: p95_latency_ms > 50, channels: [good, bad]}]
    versions: [{version: 1.0.0, source: {path: one.onnx}}]
"""
    Path("suite.yaml").write_text(suite)
    assert "[URL_NOT_ALLOWED]" in apply(suite, "--yes", exit_code=1)
    assert shelf.changes == ["create iris", "register iris 1.0.0"]
    assert [channel.name for channel in monitoring.channels.list()] == ["good"]
    assert rules_of(monitoring, "").keys() >= {"failing"}
    assert rules_of(monitoring, "iris") == {}
    assert run(["apply", "-f", "suite.yaml", "--yes", "--json"]) == 1
    failures = json.loads(capsys.readouterr().out)["failures"]
    assert [(failure["model"], failure["name"], failure["reason"]) for failure in failures] == [
        ("", "bad", "URL_NOT_ALLOWED"), ("", "errors", "INVALID_RULE"),
    ]  # fmt: skip


def test_without_monitoring_nothing_is_changed_and_a_suite_that_says_nothing_of_it_needs_none(
    shelf: Shelf, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_MONITORING_ADDRESS", f"127.0.0.1:{free_port()}")
    watched = "suite: testing\nmodels: [{name: iris, monitoring: {drift: {enabled: false}}}]\n"
    apply(watched, "--yes", exit_code=6)
    assert shelf.changes == []
    apply("suite: testing\nmodels: [{name: iris}]\n", "--yes")
    assert shelf.changes == ["create iris"]
