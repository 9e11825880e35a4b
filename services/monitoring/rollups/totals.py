"""How all models did over a window, at once: for rules, of which each is for every version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.monitoring.configuration.configurations import Configurations
from services.monitoring.models import Retention, Window
from services.monitoring.rollups.metrics import kept_of
from services.monitoring.rollups.models import Counts, Granularity, Totals
from services.monitoring.rollups.plan import make_plan
from services.monitoring.rollups.store.counting import Whose
from services.monitoring.rollups.store.totals import TotalsStore

Clock = Callable[[], datetime]
_SHORT = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class EveryTotal:
    """The totals of all versions over one window."""

    window: Window
    counts: Mapping[Whose, Counts]
    complete_until: datetime | None = None

    def of(self, model: str, version: str) -> Totals:
        """Give a version's; an empty version means all of the model's."""
        if version:
            return Totals(self.window, self.counts.get((model, version), Counts()), self.complete_until)
        all_ = (counts for (named, _), counts in self.counts.items() if named == model)
        return Totals(self.window, Counts.merged(all_), self.complete_until)


class TotalsReader:
    """Reads one window of all models in a handful of statements, however many versions there are."""

    def __init__(self, store: TotalsStore, configurations: Configurations, retention: Retention, clock: Clock) -> None:
        self._store = store
        self._configurations = configurations
        self._retention = retention
        self._clock = clock

    def every(self, window: Window, *, latencies: bool) -> EveryTotal:
        """Count a window for each version, as `MetricsReader.total` does for one.

        Where over a dozen buckets wait for their recount, of all versions together, the older ones are read as they
        stand. Without `latencies` there are no percentiles.
        """
        now = self._clock()
        kept = kept_of(self._configurations, self._retention, now)
        plan, found = self._store.read(
            window, kept, now, lambda marked, there: make_plan(window, marked, there, now), latencies=latencies
        )
        counts = {whose: Counts.merged(parts) for whose, parts in found.items()}
        return EveryTotal(plan.window, counts, plan.complete_until)

    def seen(self, window: Window) -> frozenset[Whose]:
        """Name the versions that predicted in a window, to its 5 minutes, over a day to its hour.

        The empty one is among a model's where predictions failed before a version was chosen.
        """
        short = window.to_time - window.from_time <= _SHORT
        return frozenset(self._store.seen(window, Granularity.FIVE_MINUTES if short else Granularity.HOUR))
