"""Whether anybody knows a model, asked of the registry only where monitoring has nothing of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from services.common.errors import NotFound
from services.monitoring.known_models import KnownModels
from services.monitoring.registry_reader import MissingError


class Registry:
    """Stands in for a reader of the registry, and keeps what it is asked."""

    def __init__(self, *registered: str) -> None:
        self.registered: Iterable[str] | MissingError = registered
        self.asked: list[str] = []

    def knows(self, model: str) -> bool:
        self.asked.append(model)
        if isinstance(self.registered, MissingError):
            raise self.registered
        return model in self.registered

    def model_names(self, most: int) -> list[str]:
        assert not isinstance(self.registered, MissingError)
        return sorted(self.registered)[:most]


class Nothing:
    """A store with settings alone."""

    def __init__(self, *set_for: str) -> None:
        self._set_for = set_for

    def knows(self, model: str) -> bool:
        return False

    def is_set(self, model: str) -> bool:
        return model in self._set_for

    def names(self, most: int) -> list[str]:
        return sorted(self._set_for)[:most]


def models(registry: Registry, store: Nothing) -> KnownModels:
    kept: Any = store
    reader: Any = lambda: registry  # noqa: E731 - as short as it gets
    return KnownModels(kept, reader)


def test_a_model_that_is_known_is_asked_for_once_and_no_model_never() -> None:
    registry = Registry("iris")
    known = models(registry, Nothing())
    for _ in range(3):
        known.require("iris")
        known.require("")
    assert registry.asked == ["iris"]


def test_a_model_of_settings_alone_is_read_about_and_doubted() -> None:
    known = models(Registry("iris"), Nothing("fraud"))
    known.require("fraud")
    assert known.doubt("fraud") == (
        "no model 'fraud' is registered, and none of that name has answered; call ListModels for those that are"
    )
    with pytest.raises(NotFound, match="did you mean fraud"):
        known.require("frauds")


def test_of_near_names_those_of_the_registry_come_first_and_of_those_the_likeliest() -> None:
    known = models(Registry("renewal", "renew"), Nothing("rennex"))
    assert known.doubt("rennew").endswith("; did you mean renew or renewal or rennex?")


def test_a_registry_that_gives_no_answer_is_left_alone_for_a_while() -> None:
    registry = Registry()
    registry.registered = MissingError("it is away")
    known = models(registry, Nothing())
    for _ in range(3):
        known.require("iris")
    assert registry.asked == ["iris"]
    known._silent_until_s = 0.0
    registry.registered = ("churn",)
    with pytest.raises(NotFound):
        known.require("iris")
