"""Models that nobody knows, over the socket: a real registry, a real PostgreSQL, and the SDK that asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock import Client
from penstock.errors import NotFound
from penstock.monitoring import MonitoringClient
from tests import quick_registry
from tests.monitoring import Monitoring, new_event, serve
from tests.postgres import PostgresServer
from tests.registry import settings_for


@pytest.fixture(scope="module")
def running(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitoring]:
    """Monitoring, which a prediction of iris has reached, beside a registry that knows churn alone."""
    urls = [postgres_server.clone(service) for service in ("registry", "monitoring")]
    with (
        quick_registry.running(settings_for(urls[0], tmp_path_factory.mktemp("blobs"))) as registry,
        serve(urls[1], registry_address=registry.address) as running,
    ):
        with Client(registry=registry.address) as client:
            client.registry.create_model("churn")
        assert running.record(new_event(model="iris")) == ["STORED"]
        yield running
    for url in urls:
        postgres_server.drop(url)


@pytest.fixture(scope="module")
def monitoring(running: Monitoring) -> Iterator[MonitoringClient]:
    with Client(monitoring=running.address) as client:
        yield client.monitoring


Ask = Callable[[MonitoringClient, str, Path], Any]
READING: dict[str, Ask] = {
    "metrics": lambda monitoring, model, _: monitoring.get_metrics(model),
    "series": lambda monitoring, model, _: monitoring.metrics.list(model),
    "live": lambda monitoring, model, _: monitoring.metrics.realtime(model),
    "watch": lambda monitoring, model, _: next(monitoring.metrics.watch(model)),
    "events": lambda monitoring, model, _: list(monitoring.list_inferences(model=model)),
    "export": lambda monitoring, model, folder: monitoring.exports.events(model, folder / "events.csv"),
    "export of metrics": lambda monitoring, model, folder: monitoring.exports.metrics(model, folder / "metrics.csv"),
    "changes": lambda monitoring, model, _: list(monitoring.configurations.changes(model)),
    "alerts": lambda monitoring, model, _: list(monitoring.alerts.list(model=model)),
    "rules": lambda monitoring, model, _: list(monitoring.alert_rules.list(model=model)),
    "changes of rules": lambda monitoring, model, _: list(monitoring.alert_rules.changes(model=model)),
    "refused events": lambda monitoring, model, _: list(monitoring.list_quarantined_events(model=model)),
    "retrainings": lambda monitoring, model, _: list(monitoring.retraining.list(model=model)),
}


@pytest.mark.parametrize("ask", READING.values(), ids=READING)
def test_who_misspells_a_model_hears_so_and_which_are_near(
    monitoring: MonitoringClient, ask: Ask, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match=r"no model 'iriss' is registered, .*did you mean iris") as refused:
        ask(monitoring, "iriss", tmp_path)
    assert refused.value.reason == "MODEL_NOT_FOUND"
    with pytest.raises(NotFound, match="did you mean churn"):
        ask(monitoring, "chrun", tmp_path)
    assert list(tmp_path.iterdir()) == [], "a file of nothing is left"
    for known in ("iris", "churn"):
        ask(monitoring, known, tmp_path)


def test_what_is_set_for_a_model_that_is_still_to_come_holds_and_is_doubted(monitoring: MonitoringClient) -> None:
    answer = monitoring.configurations.change({"drift": {"interval": "1h"}}, model="fraud")
    assert answer.effective.drift.interval == "1h"
    assert "no model 'fraud' is registered" in answer.warnings[0]
    assert monitoring.get_metrics("fraud").inference_count == 0, "it was set on purpose"
    assert list(monitoring.configurations.change({"drift": {"interval": "1h"}}, model="churn").warnings) == []
    assert list(monitoring.configurations.get("iris").warnings) == []
    assert list(monitoring.configurations.get().warnings) == []


def test_a_call_of_a_misspelt_model_does_not_make_it_one(
    monitoring: MonitoringClient, running: Monitoring, tmp_path: Path
) -> None:
    assert running.record(new_event(model="irisx", version="", error_code="MODEL_NOT_FOUND")) == ["STORED"]
    with pytest.raises(NotFound, match=r"no model 'irisx'.*; did you mean iris\?"):
        monitoring.get_metrics("irisx")
    with pytest.raises(NotFound, match="no model 'irisx'"):
        monitoring.exports.events("irisx", tmp_path / "events.csv")
    with pytest.raises(NotFound, match=r"no model 'irisxx'.*; did you mean iris\?"):  # and not: or irisx
        monitoring.get_metrics("irisxx")


def test_what_people_made_for_a_misspelt_model_is_read_and_stays_doubted(monitoring: MonitoringClient) -> None:
    monitoring.profiles.create("chum", "1.0.0", {"age": range(200)})
    monitoring.alert_rules.create("slow", "p95_latency_ms", ">", 200, window="15m", severity="info", model="chum")
    assert list(monitoring.alerts.list(model="chum")) == []
    (warning,) = monitoring.configurations.change({"drift": {"interval": "1h"}}, model="chum").warnings
    assert "no model 'chum' is registered" in warning
    assert "churn" in warning


@pytest.mark.parametrize("force", [True, False])
def test_no_retraining_is_asked_for_of_a_model_that_does_not_exist(monitoring: MonitoringClient, force: bool) -> None:
    monitoring.configurations.change({"drift": {"interval": "1h"}}, model="chnur")
    with pytest.raises(NotFound, match=r"no model 'chnur'.*did you mean churn") as refused:
        monitoring.retraining.create("chnur", force=force)
    assert refused.value.reason == "MODEL_NOT_FOUND"
    with pytest.raises(NotFound):
        monitoring.retraining.create("chrun", force=force)
    assert list(monitoring.retraining.list()) == []


def test_a_feature_that_no_profile_has_is_ignored_with_a_warning_and_the_near_ones(
    monitoring: MonitoringClient,
) -> None:
    def warnings(model: str, *names: str) -> list[str]:
        return list(monitoring.configurations.change({"drift": {"ignored_features": names}}, model=model).warnings)

    assert warnings("iris", "debtt") == [], "before there is a profile nobody can tell"
    monitoring.profiles.create("iris", "1.0.0", {"age": range(200), "debt": range(200)})
    assert warnings("iris", "age", "debt") == []
    (warning,) = warnings("iris", "age", "debtt")
    assert warning.startswith("drift.ignored_features: no profile and no traffic of iris has a feature 'debtt'")
    assert warning.endswith("did you mean debt?")
    assert warnings("iris", "zip")[0].endswith("; there are age, debt")
    assert "of any model" in warnings("", "[age]")[0]


def test_a_rule_for_a_feature_and_a_silence_for_a_rule_that_there_is_not_are_made_with_a_warning(
    monitoring: MonitoringClient,
) -> None:
    def warnings(feature: str) -> list[str]:
        made = monitoring.alert_rules.create(
            feature, "missing_rate", ">", 0.1, window="24h", severity="info", model="iris", feature=feature
        )
        return list(made.warnings)

    monitoring.profiles.create("iris", "1.0.0", {"age": range(200), "debt": range(200)})
    assert warnings("age") == []
    assert warnings("aeg") == ["no profile and no traffic of iris has a feature 'aeg'; did you mean age?"]

    def silenced(rule: str) -> list[str]:
        return list(monitoring.silences.create(timedelta(hours=1), note="a migration", rule_name=rule).warnings)

    assert silenced("age") == silenced("") == []
    (warning,) = silenced("agee")
    assert warning.startswith("there is no alert rule 'agee'; did you mean age")


def test_an_outage_of_the_registry_hides_nothing(clone_database: Callable[[str], str]) -> None:
    with (
        serve(clone_database("monitoring"), registry_address="127.0.0.1:1") as running,
        Client(monitoring=running.address) as client,
    ):
        assert client.monitoring.get_metrics("iriss").inference_count == 0


def test_a_rule_and_a_silence_for_a_model_that_nobody_knows_are_made_with_a_warning(
    monitoring: MonitoringClient,
) -> None:
    rules, silences = monitoring.alert_rules, monitoring.silences

    def warnings(model: str) -> list[str]:
        made = rules.create("slow", "p95_latency_ms", ">", 200, window="15m", severity="info", model=model)
        changed = rules.update(made.id, threshold=300)
        assert list(rules.get(made.id).warnings) == [], "what was said when it was made is no part of it"
        silenced = silences.create(timedelta(hours=1), note="a migration", model=model)
        assert made.warnings == changed.warnings == silenced.warnings
        return list(made.warnings)

    (doubt,) = warnings("iriss")
    assert doubt.startswith("no model 'iriss' is registered")
    assert "did you mean iris?" in doubt
    assert [warnings(model) for model in ("iris", "churn", "")] == [[], [], []]
