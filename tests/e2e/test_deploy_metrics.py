"""Prometheus' rules and Grafana's dashboard ask for metrics that running services export, and for nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

import penstock
from services.monitoring import gauges
from services.trainer.__main__ import build as build_trainer
from services.trainer.settings import TrainerSettings
from tests.deployment import DEPLOY, SERVICES, ancestry, compose
from tests.fetching import Place, fetching
from tests.monitoring import eventually
from tests.postgres import PostgresServer
from tests.services import CloneDatabase, Running, running
from tests.suite import serve_tiny_model

HOME = "penstock.json"
DASHBOARDS: dict[str, dict[str, Any]] = {
    path.name: json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana/dashboards").glob("*.json"))
}
RULES: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())["groups"][0]["rules"]
SCRAPES: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
COLUMNS = 24
# What Prometheus itself adds.
OWN_METRICS, OWN_LABELS = {"up"}, {"job", "instance", "le"}
_WORDS = {"by", "without", "or", "and", "unless", "on", "ignoring", "group_left", "group_right", "offset", "bool"}
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}")


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in RULES)
    for dashboard in DASHBOARDS.values():
        for panel in dashboard["panels"]:
            yield from (target["expr"] for target in panel.get("targets", []))


def metrics_in(expression: str) -> set[str]:
    """The names of the metrics that an expression reads."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\"[^\"]*\"", " ", expression)
    bare = re.sub(r"\b(by|without)\s*\([^)]*\)", " ", bare)
    return {name for name in re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", bare) if name not in _WORDS}


def labels_in(expression: str) -> dict[str, set[str]]:
    """The labels that an expression selects by, for each metric."""
    return {name: set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside)) for name, inside in _SELECTOR.findall(expression)}


def exported(page: str) -> dict[str, set[str]]:
    """Every name on a metrics page, with the labels of its samples; a counter that counted nothing yet has none."""
    names: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page):
        if not family.samples:
            names.setdefault(f"{family.name}_total" if family.type == "counter" else family.name, set())
        for sample in family.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
    return names


@pytest.mark.slow
def test_every_metric_that_is_asked_for_is_exported_with_its_labels(
    registry: Running,
    monitoring: Running,
    inference: Running,
    fetches: Place,
    trainer: Running,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serve_tiny_model(lambda: client_of(registry, monitoring, inference))
    monkeypatch.setattr(gauges, "FRESH_S", 0.0)
    eventually(lambda: 'penstock_model_requests_total{model="tiny"' in page_of(monitoring))
    found: dict[str, set[str]] = {name: set() for name in OWN_METRICS}
    assert fetches.fetch("url", f"{fetches.origin.url}/missing.onnx").error.reason == "MODEL_NOT_FOUND"
    for service in (registry, monitoring, inference, fetches, trainer):
        for name, labels in exported(page_of(service)).items():
            found.setdefault(name, set()).update(labels)
    for expression in expressions():
        assert metrics_in(expression), expression
        assert metrics_in(expression) - found.keys() == set(), expression
        for name, labels in labels_in(expression).items():
            assert not found[name] or labels - OWN_LABELS <= found[name], expression


@pytest.fixture
def fetches(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Place]:
    """A fetcher with a registry of its own."""
    folder = tmp_path / "fetches"
    folder.mkdir()
    with fetching(postgres_server, folder) as place:
        yield place


@pytest.fixture
def trainer(clone_database: CloneDatabase, registry: Running, tmp_path: Path) -> Iterator[Running]:
    """A trainer beside the registry."""
    settings = TrainerSettings(
        port=0,
        metrics_port=0,
        database_url=SecretStr(clone_database("trainer")),
        blob_url=f"file://{tmp_path}/trainer",
        registry_address=registry.address,
    )
    with running(build_trainer, settings) as service:
        yield service


def page_of(service: Running | Place) -> str:
    with urlopen(f"http://127.0.0.1:{service.metrics_port}/metrics", timeout=60) as page:
        return str(page.read().decode())


def test_what_every_replica_of_monitoring_says_is_never_added_up_over_replicas() -> None:
    """Each tells all traffic: `max by (model, …)` of what it says is right, whatever is summed after that."""
    asking = [expression for expression in expressions() if "penstock_model_" in expression]
    assert asking
    for expression in asking:
        bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", expression)
        bare = re.sub(r"max(?: by \([^)]*\) )?\((?:(?:rate|increase)\()?penstock_model_\w+\)+", "", bare)
        assert "penstock_model_" not in bare, expression


def client_of(registry: Running, monitoring: Running, inference: Running) -> penstock.Client:
    return penstock.Client(registry=registry.address, monitoring=monitoring.address, inference=inference.address)


def test_each_service_is_scraped_at_the_port_that_its_image_opens() -> None:
    assert {scrape["job_name"] for scrape in SCRAPES} == set(SERVICES)
    for scrape in SCRAPES:
        name = scrape["job_name"]
        (found,) = scrape["dns_sd_configs"]
        assert found["names"] == [name]
        ports = [rest for word, rest in ancestry(name) if word == "ENV" and "PENSTOCK_METRICS_PORT" in rest]
        assert f"PENSTOCK_METRICS_PORT={found['port']} " in f"{ports[0]} "
        networks = compose()["services"]
        assert len({*networks[name]["networks"]} & {*networks["prometheus"]["networks"]}) == 1, (
            "one address, one target"
        )


def test_each_alert_says_how_urgent_it_is_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_nobody_is_paged_for_an_alert_that_is_acknowledged_or_silenced() -> None:
    paging = [rule["expr"] for rule in RULES if rule["labels"]["severity"] == "page"]
    assert [expression for expression in paging if "penstock_model_unattended_alerts" in expression]
    assert [expression for expression in paging if "penstock_model_open_alerts" in expression] == []


@pytest.mark.parametrize("name", DASHBOARDS)
def test_each_dashboard_is_one_that_grafana_can_draw(name: str) -> None:
    panels = DASHBOARDS[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another panel"
        assert place["x"] + place["w"] <= COLUMNS
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
        assert panel["type"] == "row" or panel["description"]


def test_dashboards_are_told_apart_and_their_links_lead_to_one_another() -> None:
    ids = {dashboard["uid"] for dashboard in DASHBOARDS.values()}
    assert len(ids) == len(DASHBOARDS)
    for dashboard in DASHBOARDS.values():
        assert {link["url"].removeprefix("/d/") for link in dashboard["links"]} == ids - {dashboard["uid"]}


def test_grafana_finds_its_dashboard_and_its_prometheus() -> None:
    grafana = compose()["services"]["grafana"]
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/penstock.yml").read_text())["providers"]
    folder = provider["options"]["path"]
    assert f"./deploy/grafana/dashboards:{folder}:ro" in grafana["volumes"]
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{folder}/{HOME}"
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    for dashboard in DASHBOARDS.values():
        assert source["uid"] == dashboard["templating"]["list"][0]["current"]["value"]
