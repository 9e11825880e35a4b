"""How models did: asked for by people, rules and checks, and answered from counts that are kept ready."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, time, timedelta

from services.common.errors import InvalidArgument
from services.monitoring.configuration.configurations import Configurations
from services.monitoring.models import Retention, Window
from services.monitoring.rollups.models import FINEST_FIRST, Answer, Counts, Granularity, Question, Series, Totals
from services.monitoring.rollups.plan import Kept, make_plan
from services.monitoring.rollups.store.counting import Place
from services.monitoring.rollups.store.metrics import MetricsStore

Clock = Callable[[], datetime]
MAX_POINTS = 10_000
USUAL_POINTS = 500
"""Where no granularity is asked for, the finest with at most so many points is taken."""
DEFAULT_SERIES = timedelta(days=1)
LIVE_STEP = timedelta(seconds=10)
LIVE_STEPS = 30
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class MetricsReader:
    """Answers from the coarsest rollups that tell, and from events for the rest. Threads may share it."""

    def __init__(self, store: MetricsStore, configurations: Configurations, retention: Retention, clock: Clock) -> None:
        self._store = store
        self._configurations = configurations
        self._retention = retention
        self._clock = clock

    def total(self, model: str, version: str, window: Window) -> Totals:
        """Count a window as a whole; an empty version means all of the model's.

        All that is stored is in it, up to `complete_until`. Where events are gone, the window is widened to the whole
        spans of the rollups that are left.
        """
        now = self._clock()
        kept = self.kept(now)
        plan, found = self._store.read(
            model, version or None, window, kept, now, lambda marked, there: make_plan(window, marked, there, now)
        )
        counts = Counts.merged(counts for _, counts in found)
        return Totals(plan.window, counts, plan.complete_until, plan.feedback_complete_until)

    def series(self, question: Question) -> Answer:
        """Count a window step by step. It begins and ends with whole steps.

        Raises:
            InvalidArgument: the window ends before it begins (INVALID_WINDOW), or has too many steps (TOO_MANY_POINTS).
        """
        now = self._clock()
        kept = self.kept(now)
        window = _window(question, now)
        granularity = question.granularity or _granularity(window)
        window = _widened(window, granularity, kept)
        _check_points(window, granularity)
        plan, found = self._store.read(
            question.model,
            question.version or None,
            window,
            kept,
            now,
            lambda marked, there: make_plan(window, marked, there, now, granularity),
        )
        by_version: dict[str, list[tuple[datetime, Counts]]] = {}
        for (version, start), counts in found:
            name = version if question.by_version else question.version
            by_version.setdefault(name, []).append((granularity.floor(start), counts))
        if not by_version and not question.by_version:
            by_version[question.version] = []
        series = [_series(name, by_version[name], plan.window, granularity) for name in sorted(by_version)]
        return Answer(granularity, plan.window, series, plan.complete_until, plan.feedback_complete_until)

    def live(self, model: str, version: str) -> tuple[Sequence[Totals], Totals]:
        """Count the last 5 minutes in steps of 10 s, the oldest first, the last one under way; and all of them."""
        now = self._clock()
        end = _EPOCH + ((now - _EPOCH) // LIVE_STEP + 1) * LIVE_STEP
        starts = [end - number * LIVE_STEP for number in range(LIVE_STEPS, 0, -1)]
        window = Window(starts[0], end)
        steps = _grouped(self._store.count(model, version or None, window, LIVE_STEP).items())
        points = [Totals(Window(start, start + LIVE_STEP), Counts.merged(steps.get(start, ()))) for start in starts]
        return points, Totals(window, Counts.merged(point.counts for point in points))

    def versions(self, model: str, window: Window) -> tuple[str, ...]:
        """Name the versions of a model that predicted in a window, to its 5 minutes, over a day to its hour.

        The empty one is among them where predictions failed before a version was chosen.
        """
        return self._store.versions(model, window)

    def models(self, window: Window) -> tuple[str, ...]:
        """Name the models that predicted in a window, to its 5 minutes, over a day to its hour."""
        return self._store.models(window)

    def kept(self, now: datetime) -> Kept:
        """Say since when the retentions keep events and rollups."""
        return kept_of(self._configurations, self._retention, now)


def kept_of(configurations: Configurations, retention: Retention, now: datetime) -> Kept:
    """Say since when the retentions keep events and rollups."""
    said = configurations.effective().rollups
    spans = (said.five_minute_retention, said.hourly_retention, said.daily_retention)
    return Kept(
        datetime.combine(retention.first_day(now), time(), UTC),
        {granularity: Granularity.DAY.floor(now - span) for granularity, span in zip(FINEST_FIRST, spans, strict=True)},
    )


def _window(question: Question, now: datetime) -> Window:
    """Fill in what was not asked for: a day, up to now."""
    end = question.to_time or now
    begin = question.from_time or end - min(DEFAULT_SERIES, end - datetime.min.replace(tzinfo=UTC))
    return Window.of(begin, end, now)


def _granularity(window: Window) -> Granularity:
    length = window.to_time - window.from_time
    return next((one for one in FINEST_FIRST if length <= USUAL_POINTS * one.span), Granularity.DAY)


def _widened(window: Window, granularity: Granularity, kept: Kept) -> Window:
    """Give the whole steps that a window touches, of those that are kept."""
    begin = granularity.floor(window.from_time)
    try:
        end = granularity.ceil(window.to_time)
    except OverflowError:  # the end of the year 9999
        end = window.to_time
    since = kept.rollups[granularity]
    return Window(max(begin, since), end) if end > since else Window(begin, end)


def _check_points(window: Window, granularity: Granularity) -> None:
    points = (window.to_time - window.from_time) // granularity.span
    if points > MAX_POINTS:
        raise InvalidArgument.field(
            "from_time",
            f"that makes {points} points; at most {MAX_POINTS} are allowed: take a coarser granularity, or a later "
            "from_time",
            reason="TOO_MANY_POINTS",
        )


def _series(version: str, found: Sequence[tuple[datetime, Counts]], window: Window, granularity: Granularity) -> Series:
    steps = _grouped((("", start), counts) for start, counts in found)
    points = [Totals(Window(start, start + granularity.span), Counts.merged(steps[start])) for start in sorted(steps)]
    return Series(version, points, Totals(window, Counts.merged(point.counts for point in points)))


def _grouped(found: Iterable[tuple[Place, Counts]]) -> dict[datetime, list[Counts]]:
    """Put together what belongs to the same step."""
    steps: dict[datetime, list[Counts]] = {}
    for (_, start), counts in found:
        steps.setdefault(start, []).append(counts)
    return steps
