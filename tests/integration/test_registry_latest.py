"""The rule of `common.versions`, which the registry follows in SQL: the two always agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.common import versions
from services.common.errors import NotFound
from services.common.postgres import Database
from services.registry.catalog import Catalog
from services.registry.models import (
    Approval,
    Framework,
    Metadata,
    NewVersion,
    Signature,
    Source,
    Stage,
    TransitionKind,
)
from services.registry.store import CONSTRAINTS, Store
from tests import registry

NUMBERS = st.sampled_from(["0", "1", "2", "10", "01", "999999999999999999"])
PRE_PARTS = st.sampled_from(["0", "1", "01", "10", "9" * 30, "a", "a1a", "alpha", "alpha-1", "-", "A", "1a"])
SEMANTIC = st.builds(
    lambda v, numbers, pre, build: f"{v}{'.'.join(numbers)}{'-' + '.'.join(pre) if pre else ''}{build}",
    st.sampled_from(["", "v"]),
    st.lists(NUMBERS, min_size=1, max_size=3),
    st.lists(PRE_PARTS, max_size=3),
    st.sampled_from(["", "+build.7"]),
)
ALIKE = st.sampled_from(["1", "v1", "1.0", "1.0.0", "1.0.0+b", "1.0-a", "1.0.0-a"])
PARSED = SEMANTIC | ALIKE
NAMES = PARSED | st.sampled_from(
    ["winter", "1.2.3.4", "v", "1.", "1-", "staging", "champion", "1" * 19, "V1", "1-a..b"]
)
SELECTORS = ("", "latest", "champion", "nosuch", "PRODUCTION", *map(str.lower, Stage))
ALIASES = ("champion", "trial")


@dataclass(frozen=True)
class Made:
    """A version as the test made it."""

    version: str
    deployment_number: int
    ready: bool
    deleted: bool
    stage_name: str
    aliases: tuple[str, ...] = ()


def made_of(names: st.SearchStrategy[str]) -> st.SearchStrategy[list[Made]]:
    stages = st.sampled_from([stage.lower() for stage in Stage if stage is not Stage.PRODUCTION])
    deleted = st.sampled_from([False, False, True])
    each = st.builds(Made, names, st.just(0), st.booleans(), deleted, stages)
    return st.lists(each, max_size=6, unique_by=lambda made: made.version)


MADE = made_of(PARSED) | made_of(NAMES)


@pytest.fixture
def database_url(clone_database: Callable[[str], str]) -> str:
    return clone_database("registry")


@pytest.fixture
def store(database_url: str, tmp_path: Path) -> Iterator[Store]:
    with ExitStack() as stack:
        wanted = registry.settings_for(database_url, tmp_path)
        yield Store(stack.enter_context(Database.from_settings(wanted, name="test", constraints=CONSTRAINTS)))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES, min_size=2, max_size=40))
@example(names=["1-a.a", "1-a1a", "1-a", "1-a.0", "1-a0", "1--", "1"])
def test_the_order_in_the_database_is_the_semantic_one(database_url: str, names: list[str]) -> None:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            """
            SELECT name, registry.semantic_order(name) COLLATE "C" AS key
            FROM unnest(%s::text[]) AS name ORDER BY key
            """,
            [names],
        ).fetchall()
    assert {name for name, key in rows if key is None} == {
        name for name in names if versions.semantic_key(name) is None
    }
    for (lower, lower_key), (upper, upper_key) in pairwise((name, key) for name, key in rows if key is not None):
        below, above = versions.semantic_key(lower), versions.semantic_key(upper)
        assert below is not None
        assert above is not None
        assert (below < above, below == above) == (lower_key < upper_key, lower_key == upper_key)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=MADE, live=st.integers(0, 9), aliased=st.lists(st.integers(0, 9), max_size=2))
def test_the_registry_and_the_rule_mean_the_same_version(
    store: Store, made: list[Made], live: int, aliased: list[int]
) -> None:
    model = f"model-{uuid4()}"
    made = marked(made, live, aliased)
    write(store, model, made)
    kept = [each for each in made if not each.deleted]
    catalog = Catalog(store)
    newest = versions.latest(kept)
    assert catalog.get_model(model).latest_version == (newest.version if newest else "")
    for selector in {*SELECTORS, *(each.version for each in made)}:
        expected = versions.resolve(kept, selector)
        try:
            found = catalog.resolve(model, selector).version
        except NotFound:
            assert expected is None or not expected.ready
        else:
            assert expected is not None
            assert (found, expected.ready) == (expected.version, True)


def marked(made: list[Made], live: int, aliased: list[int]) -> list[Made]:
    """Number the versions, and give some of those that can be served the aliases and PRODUCTION."""
    able = [each.version for each in made if each.ready and not each.deleted]
    pointed = {alias: able[place] for alias, place in zip(ALIASES, aliased, strict=False) if place < len(able)}
    return [
        replace(
            each,
            deployment_number=number,
            stage_name="production" if each.version in able[live : live + 1] else each.stage_name,
            aliases=tuple(alias for alias, version in pointed.items() if version == each.version),
        )
        for number, each in enumerate(made, start=1)
    ]


def write(store: Store, name: str, made: list[Made]) -> None:
    """Write a model with these versions."""
    with store.write() as tables:
        tables.models.insert(name)
        model = tables.models.lock(name)
        for each in made:
            version_id = tables.versions.insert(
                model,
                new_version(each.version),
                deployment_number=each.deployment_number,
                parent_deployment_number=0,
                stage=Stage.DEVELOPMENT,
                created_by="ada",
                files=(),
            )
            if each.ready:
                tables.versions.set_ready(version_id, Signature((), ()), None)
            born = tables.versions.get_by_id(version_id)
            stage = Stage(each.stage_name.upper())
            moved = tables.transitions.append(born, stage, TransitionKind.PROMOTE, Approval("ada"))
            tables.versions.move(version_id, moved)
            for alias in each.aliases:
                tables.aliases.set(model, alias, born, "ada")
            if each.deleted:
                tables.deletions.delete_version(version_id, deleted_by="ada", retention_s=60)
        tables.versions.refresh_latest(model)


def new_version(version: str) -> NewVersion:
    return NewVersion(
        model="iris",
        version=version,
        framework=Framework.OLLAMA,
        stage=None,
        approved_by="",
        note="",
        declared_signature=None,
        source_version="",
        source=Source(),
        training_run_id="",
        metadata=Metadata(),
        serving_settings=None,
        capture_policy=None,
        request_id="",
        body_sha256="",
    )
