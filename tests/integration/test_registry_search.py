"""Finding models and versions: filters, words, pages; and what a selector means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from penstock.api.registry.v1 import administration_pb2
from penstock.api.registry.v1 import registry_pb2 as pb
from services.common import pages
from services.registry.audit import AuditEntry
from services.registry.store import audit as audit_table
from services.registry.store import versions as version_table
from tests import catalogue, registry
from tests.catalogue import DEADLINE_S, INVALID, NOT_FOUND, Catalogue, refused


@pytest.fixture
def running(clone_database: Callable[[str], str], tmp_path: Path) -> Iterator[Catalogue]:
    with catalogue.served(clone_database("registry"), tmp_path) as opened:
        yield opened


@pytest.fixture
def filled(running: Catalogue) -> Catalogue:
    """Three models, five versions."""
    stub = running.stub
    catalogue.register(stub, "1.0", "iris", description="Small trees", labels={"env": "test"})
    catalogue.register(
        stub,
        "2.0",
        "iris",
        metadata=pb.Metadata(tags=["Nightly"], task_type="classification"),
        stage=pb.STAGE_CANDIDATE,
    )
    source = pb.Source(origin="huggingface", reference="https://hf.co/acme/resnet-18", revision="main")
    catalogue.register(stub, "1.0", "resnet-18", source=source, labels={"env": "prod", "team": "ada"})
    catalogue.register(stub, "7", "resnet-18", labels={"env": "test"}, source_version="v1.7-final")
    catalogue.register(stub, "1", "size_2", description="Größe")
    catalogue.update_model(
        stub, ["labels", "tags"], name="iris", labels={"team": "ada", "env": "prod"}, tags=["Flowers"]
    )
    catalogue.update_model(stub, ["description"], name="resnet-18", description="Images, in 1,000 classes")
    return running


def models(running: Catalogue, **filters: Any) -> list[str]:
    request = pb.ListModelsRequest(**filters)
    return [model.name for model in running.stub.ListModels(request, timeout=DEADLINE_S).models]


def versions(running: Catalogue, **filters: Any) -> list[str]:
    request = pb.ListVersionsRequest(**filters)
    found = running.stub.ListVersions(request, timeout=DEADLINE_S).versions
    return [f"{version.model} {version.version}" for version in found]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, ["iris", "resnet-18", "size_2"]),
        ({"query": "FLOW"}, ["iris"]),
        ({"query": "class image"}, ["resnet-18"]),
        ({"query": "18"}, ["resnet-18"]),
        ({"query": "image cats"}, []),
        ({"query": "mages"}, []),
        ({"query": "000"}, ["resnet-18"]),
        ({"query": "' | iris & :* ! \\"}, ["iris"]),
        ({"query": "%_-"}, ["iris", "resnet-18", "size_2"]),
        ({"labels": {"team": "ada"}}, ["iris"]),
        ({"labels": {"team": "ada", "env": "test"}}, []),
        ({"labels": {"env": "prod"}, "query": "flowers"}, ["iris"]),
    ],
)
def test_models_are_found_by_words_and_labels(filled: Catalogue, filters: dict[str, Any], found: list[str]) -> None:
    assert models(filled, **filters) == found


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, ["size_2 1", "resnet-18 7", "resnet-18 1.0", "iris 2.0", "iris 1.0"]),
        ({"model": "iris"}, ["iris 2.0", "iris 1.0"]),
        ({"stage": pb.STAGE_CANDIDATE}, ["iris 2.0"]),
        ({"stage": pb.STAGE_CANDIDATE, "model": "resnet-18"}, []),
        ({"state": pb.VERSION_STATE_FAILED}, []),
        ({"state": pb.VERSION_STATE_READY, "model": "size_2"}, ["size_2 1"]),
        ({"framework": pb.FRAMEWORK_ONNX}, []),
        ({"framework": pb.FRAMEWORK_OLLAMA, "query": "tree"}, ["iris 1.0"]),
        ({"query": "night CLASSIF"}, ["iris 2.0"]),
        ({"query": "iris"}, ["iris 2.0", "iris 1.0"]),
        ({"query": "resnet acme hugging"}, ["resnet-18 1.0"]),
        ({"query": "final"}, ["resnet-18 7"]),
        ({"query": "Größe"}, ["size_2 1"]),
        ({"labels": {"env": "test"}}, ["resnet-18 7", "iris 1.0"]),
        ({"labels": {"env": "prod"}}, ["resnet-18 1.0", "iris 2.0", "iris 1.0"]),
        ({"labels": {"env": "prod", "team": "ada"}, "query": "1"}, ["resnet-18 1.0", "iris 1.0"]),
        ({"labels": {"env": "prod"}, "model": "iris", "stage": pb.STAGE_DEVELOPMENT}, ["iris 1.0"]),
        ({"labels": {"env": "nosuch"}}, []),
    ],
)
def test_versions_are_found_by_all_filters_together(
    filled: Catalogue, filters: dict[str, Any], found: list[str]
) -> None:
    assert versions(filled, **filters) == found


@pytest.mark.parametrize(
    ("filters", "reason", "field"),
    [
        ({"stage": 99}, "INVALID_ENUM", "stage"),
        ({"framework": 99}, "INVALID_ENUM", "framework"),
        ({"labels": {"Bad": ""}}, "INVALID_NAME", "labels"),
        ({"labels": {f"k{n}": "" for n in range(65)}}, "TOO_MANY", "labels"),
        ({"query": "x" * 257}, "INVALID_TEXT", "query"),
        ({"query": "nul\0"}, "INVALID_TEXT", "query"),
        ({"page_size": 1_001}, "INVALID_PAGE_SIZE", "page_size"),
        ({"page_token": "x"}, "INVALID_PAGE_TOKEN", "page_token"),
    ],
)
def test_a_bad_filter_names_its_field(running: Catalogue, filters: dict[str, Any], reason: str, field: str) -> None:
    assert refused(partial(versions, running, **filters)) == (INVALID, reason, [field])
    if field not in ("stage", "framework"):
        assert refused(partial(models, running, **filters)) == (INVALID, reason, [field])


def test_a_list_of_a_model_that_is_not_there_is_refused(running: Catalogue) -> None:
    assert refused(partial(versions, running, model="nosuch"))[:2] == (NOT_FOUND, "MODEL_NOT_FOUND")


def test_words_of_a_change_are_found_and_those_before_it_no_longer(filled: Catalogue) -> None:
    catalogue.update_version(filled.stub, ["description"], version="1.0", description="Large forests")
    assert versions(filled, query="forest") == ["iris 1.0"]
    assert versions(filled, query="trees") == []


def every_page(running: Catalogue, page_size: int, **filters: Any) -> list[list[str]]:
    read: list[list[str]] = []
    token = ""
    while token or not read:
        request = pb.ListVersionsRequest(page_size=page_size, page_token=token, **filters)
        response = running.stub.ListVersions(request, timeout=DEADLINE_S)
        read.append([version.version for version in response.versions])
        token = response.next_page_token
    return read


def test_pages_hold_everything_once_while_others_register(running: Catalogue) -> None:
    """What was there at the start comes once; what came since, with the first page or not at all."""
    old = [f"{number}" for number in range(20)]
    for version in old:
        catalogue.register(running.stub, version)
    with ThreadPoolExecutor(2) as pool:
        others = [
            pool.submit(catalogue.register, running.stub, f"new-{number}", ("iris", "other")[number % 2])
            for number in range(20)
        ]
        for filters in ({"model": "iris"}, {"model": "iris", "state": pb.VERSION_STATE_READY}, {}):
            read = [version for page in every_page(running, 3, **filters) for version in page]
            assert len(read) == len(set(read))
            assert [version for version in read if version in old] == old[::-1]
        for other in others:
            other.result()


def test_a_token_goes_on_with_the_filters_that_it_was_made_for(filled: Catalogue) -> None:
    def page(**filters: Any) -> pb.ListVersionsResponse:
        return filled.stub.ListVersions(pb.ListVersionsRequest(page_size=1, **filters), timeout=DEADLINE_S)

    first = page(labels={"env": "prod"})
    second = page(labels={"env": "prod"}, page_token=first.next_page_token)
    assert [f"{version.model} {version.version}" for version in second.versions] == ["iris 2.0"]
    for other in ({}, {"labels": {"env": "test"}}, {"labels": {"env": "prod"}, "show_deleted": True}):
        misled = partial(page, page_token=first.next_page_token, **other)
        assert refused(misled) == (INVALID, "INVALID_PAGE_TOKEN", ["page_token"])
    forged = pages.encode([-1], {})
    assert refused(partial(page, page_token=forged))[1] == "INVALID_PAGE_TOKEN"


def test_no_page_is_larger_than_clients_take(running: Catalogue) -> None:
    """Each version and model is 16 KiB and more, and 300 of them are more than 4 MiB."""
    with psycopg.connect(running.database_url) as database:
        catalogue.register(running.stub, "0")
        database.execute(
            """
            INSERT INTO registry.models (name, description, training_config)
            SELECT 'model-' || n, '', jsonb_build_object('recipe', repeat('x', 16000)) FROM generate_series(1, 300) n
            """
        )
        multiply(database, chars=16_000)
    read = every_page(running, 1_000)
    assert 1 < len(read) < 4
    assert [version for page in read for version in page] == [str(number) for number in (*range(300, 0, -1), 0)]
    response = running.stub.ListModels(pb.ListModelsRequest(page_size=1_000), timeout=DEADLINE_S)
    assert response.next_page_token
    assert 100 < len(response.models) < 300
    rest = running.stub.ListModels(
        pb.ListModelsRequest(page_size=1_000, page_token=response.next_page_token), timeout=DEADLINE_S
    )
    assert len(response.models) + len(rest.models) == 301


def test_no_page_is_read_that_is_wider_than_a_message(running: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of versions and changes of 200 kB each a message takes 15; the registry reads not many more."""
    catalogue.register(running.stub, "0")
    with psycopg.connect(running.database_url) as database:
        multiply(database, chars=200_000)
        database.execute(
            """
            INSERT INTO registry.audit (caller, role, action, model, version, after, note)
            SELECT 'ada', 'operator', 'X', 'wide', '', jsonb_build_object('x', repeat('x', 200000)), ''
            FROM generate_series(1, 300)
            """
        )
    read: Counter[str] = Counter()

    def counted(make: Callable[..., Any], name: str) -> Callable[..., Any]:
        def count(*row: Any, **fields: Any) -> Any:
            read[name] += 1
            return make(*row, **fields)

        return count

    monkeypatch.setattr(version_table, "_version_from", counted(version_table._version_from, "versions"))
    monkeypatch.setattr(audit_table, "AuditEntry", counted(AuditEntry, "entries"))
    pages_read = every_page(running, 1_000)
    assert [int(version) for page in pages_read for version in page] == [*range(300, 0, -1), 0]
    assert len(pages_read) == 20
    assert read["versions"] < 100 * len(pages_read)
    request = administration_pb2.ListAuditEntriesRequest(model="wide", page_size=1_000)
    entries = running.administration.ListAuditEntries(request, timeout=DEADLINE_S)
    assert 10 < len(entries.entries) < 20
    assert entries.next_page_token
    assert read["entries"] < 100


def multiply(database: psycopg.Connection[Any], *, chars: int) -> None:
    """Make 300 wide versions of the only one that is there."""
    columns = "model_id, framework, state, stage, requested_stage, requested_approved_by, requested_note, "
    columns += "source_version, source, training_run_id, parent_deployment_number, serving_settings, "
    columns += "capture_policy, created_by, promoted_by"
    database.execute(
        f"""
        INSERT INTO registry.versions ({columns}, version, deployment_number, metadata)
        SELECT {columns}, n, n + 1, jsonb_build_object('fields', jsonb_build_object('x', repeat('x', %s)))
        FROM registry.versions, generate_series(1, 300) n
        """,
        [chars],
    )


def test_a_selector_means_a_version_a_stage_an_alias_or_the_latest(running: Catalogue) -> None:
    stub = running.stub

    def resolved(selector: str) -> str:
        request = pb.ResolveVersionRequest(model="iris", selector=selector)
        return stub.ResolveVersion(request, timeout=DEADLINE_S).version.version

    for version in ("1.0.0", "1.0.0-rc.1", "0.9"):
        catalogue.register(stub, version)
    assert catalogue.get_model(stub).latest_version == "1.0.0"
    assert (resolved(""), resolved("latest"), resolved("0.9"), resolved("Development")) == (
        "1.0.0", "1.0.0", "0.9", "0.9",
    )  # fmt: skip
    registry.go_live(stub, "0.9")
    stub.SetAlias(pb.SetAliasRequest(model="iris", alias="trial", version="1.0.0-rc.1"))
    assert (resolved(""), resolved("PRODUCTION"), resolved("latest"), resolved("trial")) == (
        "0.9", "0.9", "1.0.0", "1.0.0-rc.1",
    )  # fmt: skip
    catalogue.register(stub, "winter")
    assert (resolved("latest"), catalogue.get_model(stub).latest_version) == ("winter", "winter")
    assert refused(partial(resolved, "staging"))[:2] == (NOT_FOUND, "NO_VERSION_READY")
    assert refused(partial(resolved, "summer"))[:2] == (NOT_FOUND, "VERSION_NOT_FOUND")
