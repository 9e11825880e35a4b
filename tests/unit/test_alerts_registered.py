"""What the registry says of versions that answer no more, asked of it seldom."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from services.monitoring.alerts import registered
from services.monitoring.alerts.registered import Registered, Standing
from services.monitoring.registry_reader import MissingError


class Registry:
    """Answers as it is told: a stage, or why there is no answer; stands in for a RegistryReader."""

    def __init__(self) -> None:
        self.says: dict[str, str | MissingError] = {}
        self.asked: list[str] = []

    def version(self, model: str, version: str) -> Any:
        self.asked.append(version)
        found = self.says.get(version, "PRODUCTION")
        if isinstance(found, MissingError):
            raise found
        return SimpleNamespace(stage=found)

    def in_use(self, model: str) -> bool:
        """Say whether one of its versions, which are those that `says` names, is not archived."""
        if model != "iris":
            raise MissingError("there is none", unknown=True)
        return any(stage != "ARCHIVED" for stage in self.says.values())


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def known(registry: Registry) -> Registered:
    made: Any = lambda: registry  # noqa: E731 - as short as it gets
    return Registered(made)


def test_archived_and_unknown_versions_are_told_from_those_in_use(registry: Registry, known: Registered) -> None:
    registry.says = {"2": "ARCHIVED", "3": MissingError("there is none", unknown=True)}
    found = {version: known.standing("iris", version) for version in "123"}
    assert found == {"1": Standing.IN_USE, "2": Standing.ARCHIVED, "3": Standing.UNKNOWN}


def test_a_model_is_archived_where_all_of_its_versions_are(registry: Registry, known: Registered) -> None:
    registry.says = {"1": "ARCHIVED", "2": "STAGING"}
    assert known.standing("iris", "") is Standing.IN_USE
    registry.says["2"] = "ARCHIVED"
    assert known.standing("iris", "") is Standing.IN_USE, "an answer holds for minutes"
    assert Registered(lambda: registry).standing("iris", "") is Standing.ARCHIVED  # type: ignore[arg-type, return-value] # a stand-in
    assert known.standing("wine", "") is Standing.UNKNOWN


def test_a_registry_that_is_away_is_asked_once_a_turn_and_tells_nothing(registry: Registry, known: Registered) -> None:
    registry.says = {version: MissingError("it is away") for version in "12"}
    assert [known.standing("iris", version) for version in "12"] == [Standing.NOT_TOLD] * 2
    assert registry.asked == ["1"]
    registry.says = {}
    known.begin()
    assert known.standing("iris", "1") is Standing.IN_USE


def test_an_answer_holds_for_minutes_and_a_turn_asks_a_bounded_number(
    registry: Registry, known: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registered, "ASKED_AT_ONCE", 2)
    known.begin()
    assert [known.standing("iris", version) for version in "1123"][-1] is Standing.NOT_TOLD
    known.begin()
    assert [known.standing("iris", version) for version in "123"] == [Standing.IN_USE] * 3
    assert registry.asked == ["1", "2", "3"]
    monkeypatch.setattr(registered, "REMEMBERED_S", -1.0)
    known.begin()
    known.standing("iris", "1")
    assert registry.asked == ["1", "2", "3", "1"]
