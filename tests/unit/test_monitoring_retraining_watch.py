"""Watching every model for what may raise a retraining, without a database: one model's trouble is its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.common.errors import Aborted, DeadlineExceeded, DomainError, FailedPrecondition, Unavailable
from services.monitoring.chores import Turn
from services.monitoring.configuration.models import Effective
from services.monitoring.models import Retention
from services.monitoring.retraining.models import Cause, Past, Reason, Request
from services.monitoring.retraining.requests import RetrainingRequests
from services.monitoring.retraining.upkeep import Upkeep
from services.monitoring.retraining.watch import Watch

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TOO_LONG = DeadlineExceeded("counting labels took too long", reason="STATEMENT_TIMEOUT")


def clock() -> datetime:
    """Tell the time of a clock that stands."""
    return NOW


class Going(Turn):
    """A turn that nobody ends."""

    def __init__(self) -> None:
        pass

    def renew(self) -> bool:
        return True


class Models:
    """What the watch reads and calls, of models that are all due by the calendar; one of them is trouble."""

    def __init__(self, trouble: DomainError, standing: Sequence[Cause] = ()) -> None:
        self._trouble = trouble
        self._standing = standing
        self.asked: list[tuple[str, Reason]] = []

    def models(self, window: object) -> list[str]:
        return ["a", "b", "c"]

    def versions(self, model: str, window: object) -> list[str]:
        return []

    def effective(self, model: str, version: str = "") -> Effective:
        return Effective().overlaid({"retraining": {"schedule_interval": timedelta(days=30)}})

    def past(self, model: str) -> Past:
        return Past()

    def last_version(self, model: str) -> str:
        return "1"

    def current_version(self, model: str) -> str:
        return "1"

    def standing(self, model: str) -> list[Cause]:
        return [cause for cause in self._standing if cause.model == model]

    def join(self, cause: Cause) -> None:
        self.asked.append((f"join {cause.model}", cause.reason))

    def raise_for(self, cause: Cause, counted: object) -> Any:
        if cause.model == "a":
            raise self._trouble
        self.asked.append((cause.model, cause.reason))
        return SimpleNamespace(id="r")

    def watch(self) -> None:
        here = cast("Any", self)
        Watch(here, here, here, here, Retention(30), clock).work(Going())


@pytest.mark.parametrize("trouble", [TOO_LONG, Aborted("a deadlock")], ids=lambda error: type(error).__name__)
def test_a_model_whose_labels_take_too_long_to_count_keeps_no_other_from_its_retraining(trouble: DomainError) -> None:
    models = Models(trouble)
    models.watch()
    assert models.asked == [("b", Reason.SCHEDULED), ("c", Reason.SCHEDULED)]


def test_without_the_database_no_model_is_tried() -> None:
    models = Models(Unavailable("the database is away"))
    with pytest.raises(Unavailable):
        models.watch()
    assert models.asked == []


def test_what_still_stands_goes_before_the_calendar_and_is_answered_by_what_it_raised() -> None:
    drift = Cause("b", "1", Reason.DRIFT_DETECTED, {})
    belongs = Cause("c", "1", Reason.DRIFT_DETECTED, {}, raises=False)
    models = Models(FailedPrecondition("too few labels", reason="TOO_FEW_LABELS"), [drift, belongs])
    models.watch()
    assert models.asked == [
        ("b", Reason.DRIFT_DETECTED),
        ("join b", Reason.DRIFT_DETECTED),
        ("c", Reason.SCHEDULED),
        ("join c", Reason.DRIFT_DETECTED),
    ]


class Queue:
    """New causes, each weighed once."""

    def __init__(self, *causes: Cause) -> None:
        self.causes = list(causes)

    def new(self, *, limit: int) -> list[Cause]:
        return self.causes[:limit]

    def set_weighed(self, cause: Cause) -> None:
        self.causes.remove(cause)

    def drop_ended(self, now: datetime) -> None:
        pass


class NoRequests:
    """No request is kept yet."""

    def standing(self, *given: object, **named: object) -> list[object]:
        return []


def test_a_new_cause_that_cannot_be_weighed_keeps_no_other_from_its_turn() -> None:
    queue = Queue(*(Cause(model, "1", Reason.DRIFT_DETECTED, {}) for model in ("a", "b")))
    models = Models(TOO_LONG)
    Upkeep(cast("Any", models), cast("Any", NoRequests()), cast("Any", queue), clock).work(Going())
    assert (models.asked, queue.causes) == ([("b", Reason.DRIFT_DETECTED)], [])


class Labels:
    """Too few of them, of every model."""

    def __init__(self) -> None:
        self.counted: list[str] = []

    def count(self, model: str, **_: object) -> int:
        self.counted.append(model)
        return 0

    def last_version(self, model: str) -> str:
        return "1"


def test_labels_of_a_model_are_counted_once_a_turn_however_much_is_found_of_it() -> None:
    found = [Cause("b", str(version), Reason.DRIFT_DETECTED, {}) for version in range(5)]
    labels, queue = Labels(), Queue(*found)
    here, kept = cast("Any", Models(TOO_LONG, found)), cast("Any", NoRequests())
    requests = RetrainingRequests(here, here, here, cast("Any", labels), here, Retention(30), clock, lambda: None)
    Watch(requests, here, here, here, Retention(30), clock).work(Going())
    assert labels.counted == ["a", "b", "c"]
    Upkeep(requests, kept, cast("Any", queue), clock).work(Going())
    assert (labels.counted[3:], queue.causes) == (["b"], [])


class Versions(Models):
    """Models whose last version, 1, says other things of retraining than they do."""

    def __init__(self, of_model: dict[str, Any], of_version: dict[str, Any]) -> None:
        super().__init__(TOO_LONG)
        self._said = {"": of_model, "1": {**of_model, **of_version}}
        self.raised: list[tuple[str, str, Reason]] = []

    def effective(self, model: str, version: str = "") -> Effective:
        return Effective().overlaid({"retraining": {"min_labels": 0, **self._said[version]}})

    def add(self, request: Request) -> None:
        self.raised.append((request.model, request.version, request.reason))


@pytest.mark.parametrize(
    ("of_model", "of_version", "raised"),
    [
        ({}, {"schedule_interval": timedelta(days=30)}, ["a", "b", "c"]),
        ({"schedule_interval": timedelta(days=30)}, {"schedule_interval": timedelta()}, []),
        ({"schedule_interval": timedelta(days=30)}, {"enabled": False}, []),
    ],
    ids=["scheduled by the version", "not scheduled by the version", "switched off by the version"],
)
def test_the_calendar_goes_by_what_the_last_version_itself_is_set_to(
    of_model: dict[str, Any], of_version: dict[str, Any], raised: list[str]
) -> None:
    here = cast("Any", Versions(of_model, of_version))
    requests = RetrainingRequests(here, here, here, cast("Any", Labels()), here, Retention(30), clock, lambda: None)
    Watch(requests, here, here, here, Retention(30), clock).work(Going())
    assert here.raised == [(model, "1", Reason.SCHEDULED) for model in raised]
