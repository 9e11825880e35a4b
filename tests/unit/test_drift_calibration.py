"""What keeps a check from false alarms, part by part: each of these fails where its part is left out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.monitoring.drift.checks import newest
from services.monitoring.models import Window
from services.monitoring.rollups.models import Counts, Totals

NOW = datetime(2026, 3, 1, tzinfo=UTC)
STEP = timedelta(minutes=5)


def test_of_very_many_labels_the_newest_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.monitoring.drift.checks.MOST_LABELS", 100)
    steps = [Totals(Window(NOW + n * STEP, NOW + (n + 1) * STEP), Counts(judged_count=40)) for n in range(5)]
    assert newest(steps) == steps[3:]
    assert newest(steps[:2]) == steps[:2]
    many = [Totals(Window(NOW, NOW + STEP), Counts(judged_count=101))]
    assert newest(many) == many, "one step is judged in any case"
    assert newest([]) == []
