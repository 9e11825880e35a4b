"""All models' totals at once: the same as each version's by itself, whatever waits for its recount."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from services.monitoring.models import Retention, Window
from services.monitoring.rollups.store.totals import TotalsStore
from services.monitoring.rollups.totals import TotalsReader
from tests.monitoring import labels, new_event, serve
from tests.rollups import Rollups, leave_to_the_test, rollups

WHOSE = [("iris", "1.0.0"), ("iris", "1.1.0"), ("iris", ""), ("wine", "1"), ("none", "1")]
SPANS = [timedelta(minutes=5), timedelta(hours=1), timedelta(hours=26)]


def every_total_is_its_versions_own(rolled: Rollups) -> None:
    reader = TotalsReader(TotalsStore(rolled.database), rolled._configurations, Retention(30), lambda: rolled.now)
    for span in SPANS:
        window = Window(rolled.now - span, rolled.now)
        found = reader.every(window, latencies=True)
        alone = [replace(rolled.reader.total(*whose, window), feedback_complete_until=None) for whose in WHOSE]
        assert [found.of(*whose) for whose in WHOSE] == alone
        seen = {whose for whose in reader.seen(window) if whose[0] == "iris"}
        assert seen == {("iris", version) for version in rolled.reader.versions("iris", window)}
        bare = reader.every(window, latencies=False).of("iris", "1.0.0")
        assert bare.error_rate == found.of("iris", "1.0.0").error_rate


def test_every_version_is_counted_at_once_as_it_is_by_itself(clone_database: Callable[[str], str]) -> None:
    url = clone_database("monitoring")
    leave_to_the_test(url)
    dice = random.Random(5)
    ages = [dice.uniform(0, 240) for _ in range(20)] + [dice.uniform(0, 4) * 600 + 40_000 for _ in range(100)]
    with serve(url) as monitoring, rollups(url) as rolled:
        events = [
            new_event(
                age_s=age,
                model=model,
                version=version,
                latency_ms=dice.lognormvariate(1, 1),
                error_code=dice.choice(["", "", "INTERNAL", "DEADLINE_EXCEEDED"]),
                confidence=dice.random(),
                prediction=labels(1),
            )
            for age in ages
            for model, version in [whose for whose in WHOSE if whose[0] != "none"]
        ]
        monitoring.record(*events)
        for event in events[::5]:
            monitoring.feedback(event.inference_id, actual=1)
        every_total_is_its_versions_own(rolled)
        rolled.recount()
        every_total_is_its_versions_own(rolled)
        monitoring.feedback(events[-1].inference_id, actual=0)  # one bucket of one model waits again
        every_total_is_its_versions_own(rolled)
