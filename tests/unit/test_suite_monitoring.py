"""What a suite file may say of monitoring, and how each mistake is named: with its line, before anything is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.cli.exits import CommandError
from penstock.cli.suites.monitoring import origin_of
from penstock.cli.suites.schema import Suite, read_suite
from services.common.addresses import AddressRules


def read(folder: Path, text: str) -> Suite:
    file = folder / "suite.yaml"
    file.write_text(text)
    return read_suite(file)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(CommandError) as caught:
        read(folder, text)
    assert caught.value.reason == "INVALID_SUITE"
    return caught.value.message


def channel(fields: str) -> str:
    return f"suite: s\nmodels: []\nchannels:\n  - {{name: ops, {fields}}}\n"


def rule(fields: str) -> str:
    return f"suite: s\nmodels:\n  - name: iris\n    alert_rules:\n      - {{name: slow, {fields}}}\n"


def settings(fields: str) -> str:
    return f"suite: s\nmodels:\n  - name: iris\n    monitoring: {fields}\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (channel("webhook: https://a, apprise_env: A"), "suite.yaml:4: channels[0]: takes one of webhook, "),
        (channel("secret_env: A_SET_ONE"), "takes one of webhook, webhook_file"),
        (channel("apprise: mailtos://a"), "channels[0].apprise: is no field here"),
        (channel("webhook: https://a, secret: written here"), "channels[0].secret: is no field here"),
        (channel("webhook_env: A_SET_ONE, webhook_file: a.url"), "webhook_file: give one of webhook-file and"),
        (channel("webhook_file: ."), "webhook_file: can't be read: Is a directory"),
        (channel("apprise_env: A_SET_ONE, secret_env: A_SET_ONE"), "a secret with a webhook, which it signs"),
        (channel("webhook: https://a}\n  - {name: ops, webhook: https://b"), "ops stands in line 4 already"),
        (channel("webhook: ''"), "channels[0]: has a webhook that is no URL"),
        (channel("webhook: 'https://[::1/secret'"), "suite.yaml:4: channels[0]: has a webhook that is no URL"),
        (channel("webhook: 'https://example.org:https/secret'"), "has a webhook that is no URL"),
        (rule("severity: warning"), "alert_rules[0]: needs 'when'"),
        (rule("when: latency > 3"), "suite.yaml:5: models[0].alert_rules[0].when: 'latency' can't be watched"),
        (rule("when: error_rate"), "is no condition"),
        (rule("when: error_rate > 1, window: soon"), "window: 'soon' is no duration"),
        (rule("when: error_rate > 1, severity: bad"), "severity: 'bad' is not one of"),
        (rule("when: error_rate > 1, treshold: 1"), "treshold: is no field here"),
        (rule("when: error_rate > 1}\n      - {name: slow, when: error_rate > 2"), "slow stands in line 5 already"),
        (settings("{drift: {beta: 1}}"), "monitoring.drift.beta: is no setting"),
        (settings("{sound: {volume: 1}}"), "monitoring.sound.volume: is no setting"),
        (settings("{rollups: {enabled: false}}"), "rollups.enabled: holds for all models alike"),
        (settings("{drift: {alpha: high}}"), "drift.alpha: 'high' is not a number"),
        (settings("{drift: {window: long}}"), "drift.window: 'long' is no duration"),
        (settings("{drift: {ignored_features: id}}"), "ignored_features: takes a list of texts"),
        (settings("drift"), "monitoring: takes fields"),
    ],
)  # fmt: skip
def test_every_mistake_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, sentence: str) -> None:
    monkeypatch.setenv("A_SET_ONE", "0123456789abcdef")
    assert sentence in refusal(tmp_path, text)


@pytest.mark.parametrize(
    "host",
    ["example.org", "Example.ORG:443", "example.org.", "example.org.:8443", "93.184.215.14", "[2606:4700::1111]:8443"],
)
def test_a_webhook_is_compared_by_what_the_service_gives_out_of_it(host: str) -> None:
    endpoint = AddressRules().endpoint(f"https://{host}/a/secret")
    assert origin_of(f"https://{host}/a/secret") == f"{endpoint.scheme}://{endpoint.authority}"
    assert origin_of(f"https://{endpoint.authority}/***") == origin_of(f"https://{host}/a/secret")


def test_a_secret_that_is_not_here_is_noted_with_its_place_and_read_by_who_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMPTY", "")  # as a pipeline sets those that it may not know
    for fields, name, sentence in (
        ("webhook_env: EMPTY", "webhook", "the variable EMPTY is not set, or empty"),
        ("apprise_file: no.url", "apprise", "there is no file no.url"),
        ("webhook: https://a, secret_env: NOBODY_SET_IT", "secret", "the variable NOBODY_SET_IT is not set, or empty"),
    ):
        (spec,) = read(tmp_path, channel(fields)).channels
        (problem,) = spec.missing.values()
        assert (list(spec.missing), problem.line, problem.sentence) == ([name], 4, sentence)
        assert problem.field.startswith(f"channels[0].{name}_")


def test_a_rule_of_a_version_stands_beside_its_models(tmp_path: Path) -> None:
    suite = read(tmp_path, rule("when: error_rate > 1}\n      - {name: slow, version: 1.0.0, when: error_rate > 0.1"))
    assert [each.title for each in suite.models[0].alert_rules or ()] == ["slow", "slow for 1.0.0"]


def test_what_is_false_or_empty_is_said_and_what_is_not_there_is_not(tmp_path: Path) -> None:
    (model,) = read(tmp_path, settings("{drift: {enabled: false, effect_floor: 0, ignored_features: []}}")).models
    assert model.monitoring == {"drift": {"enabled": False, "effect_floor": 0.0, "ignored_features": []}}
    (model,) = read(tmp_path, "suite: s\nmodels: [{name: iris, alert_rules: []}]").models
    assert (model.monitoring, model.alert_rules) == (None, ())
    assert not read(tmp_path, "suite: s\nmodels: [{name: iris}]").is_watched
