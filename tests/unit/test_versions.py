"""Semantic order, `latest`, and which version a selector means."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.versions import latest, resolve, semantic_key


@dataclass(frozen=True)
class Candidate:
    version: str
    deployment_number: int
    stage_name: str = "development"
    ready: bool = True
    aliases: tuple[str, ...] = ()


def test_order_follows_the_example_of_semantic_versioning_section_11() -> None:
    words = ["alpha", "alpha.1", "alpha.beta", "beta", "beta.2", "beta.11", "rc.1"]
    published = [*(f"1.0.0-{word}" for word in words), "1.0.0"]
    keys = [semantic_key(version) for version in published]
    assert keys == sorted(keys, key=lambda key: key or (0, 0, 0, ()))


@pytest.mark.parametrize(("shorter", "longer"), [("1", "1.0.0"), ("v2.1", "2.1.0"), ("3.0.0", "3.0.0+build.7")])
def test_shorthand_and_build_metadata_mean_the_same_place(shorter: str, longer: str) -> None:
    assert semantic_key(shorter) == semantic_key(longer)


@pytest.mark.parametrize("version", ["", "one", "1.2.3.4", "1..2", "1.0.0-", "\u0661", "9" * 30])
def test_what_does_not_parse_has_no_place(version: str) -> None:
    assert semantic_key(version) is None


def test_latest_is_the_highest_ready_one_not_the_newest() -> None:
    candidates = [Candidate("1.10.0", 1), Candidate("1.9.0", 2), Candidate("2.0.0", 3, ready=False)]
    found = latest(candidates)
    assert found is not None
    assert found.version == "1.10.0"


def test_latest_is_the_newest_where_one_does_not_parse() -> None:
    found = latest([Candidate("9.0.0", 1), Candidate("winter", 2), Candidate("1.0.0", 3)])
    assert found is not None
    assert found.version == "1.0.0"


def test_latest_of_nothing_ready_is_nothing() -> None:
    assert latest([Candidate("1.0.0", 1, ready=False)]) is None


FLEET = [
    Candidate("1.0.0", 1, "archived", aliases=("blue", "3.0.0")),
    Candidate("2.0.0", 2, "production", aliases=("green",)),
    Candidate("3.0.0", 3, "staging"),
    Candidate("staging", 4, "development"),
    Candidate("4.0.0", 5, "candidate", ready=False),
]


@pytest.mark.parametrize(
    ("selector", "version"),
    [
        ("1.0.0", "1.0.0"),
        ("", "2.0.0"),
        ("production", "2.0.0"),
        ("PRODUCTION", "2.0.0"),
        ("staging", "staging"),  # an exact version comes before a stage
        ("Staging", "3.0.0"),
        ("latest", "staging"),
        ("4.0.0", "4.0.0"),
        ("candidate", None),
        ("blue", "1.0.0"),
        ("green", "2.0.0"),
        ("Green", None),  # an alias is what was set, letter by letter
        ("3.0.0", "3.0.0"),  # an exact version comes before an alias
        ("nonsense", None),
    ],
)
def test_a_selector_means(selector: str, version: str | None) -> None:
    found = resolve(FLEET, selector)
    assert (found.version if found else None) == version


def test_without_production_an_empty_selector_means_latest() -> None:
    found = resolve([Candidate("1.0.0", 1), Candidate("2.0.0", 2)], "")
    assert found is not None
    assert found.version == "2.0.0"


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=8))
def test_semantic_order_is_the_order_of_the_numbers(numbers: list[tuple[int, int, int]]) -> None:
    candidates = [Candidate(".".join(map(str, triple)), index) for index, triple in enumerate(numbers)]
    found = latest(candidates)
    assert found is not None
    assert found.version == ".".join(map(str, max(numbers)))
