"""How models did: asked for by people, rules and checks, and answered from counts that are kept ready."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, time, timedelta

from services.monitoring.configuration.configurations import Configurations
from services.monitoring.models import Retention, Window
from services.monitoring.rollups.live import LIVE_STEP, LIVE_STEPS, Live, LiveReading, Readings, so_far
from services.monitoring.rollups.models import FINEST_FIRST, Answer, Counts, Granularity, Question, Series, Sum, Totals
from services.monitoring.rollups.plan import Kept, make_plan
from services.monitoring.rollups.store.counting import Place
from services.monitoring.rollups.store.metrics import MetricsStore, Wanted, too_many_points

Clock = Callable[[], datetime]
MAX_POINTS = 10_000
USUAL_POINTS = 500
"""Where no granularity is asked for, the finest with at most so many points is taken."""
DEFAULT_SERIES = timedelta(days=1)
STRETCH = 24
"""Steps that are read at a time where there is no end of them."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class MetricsReader:
    """Answers from the coarsest rollups that tell, and from events for the rest. Threads may share it."""

    def __init__(self, store: MetricsStore, configurations: Configurations, retention: Retention, clock: Clock) -> None:
        self._store = store
        self._configurations = configurations
        self._retention = retention
        self._clock = clock
        self._readings = Readings(self._read_live)

    def total(self, model: str, version: str, window: Window, *, latencies: bool = True) -> Totals:
        """Count a window as a whole; an empty version means all of the model's.

        All that is stored is in it, up to `complete_until`. Where events are gone, the window is widened to the whole
        spans of the rollups that are left. Without `latencies` there are no percentiles.
        """
        now, total = self._clock(), Sum()
        plan = self._store.read(
            Wanted(model, version or None, window, self.kept(now), now, latencies),
            lambda marked, there: make_plan(window, marked, there, now),
            lambda _, counts: total.add(counts),
        )
        return Totals(plan.window, total.result(), plan.complete_until, plan.feedback_complete_until)

    def series(self, question: Question) -> Answer:
        """Count a window step by step. It begins and ends with whole steps.

        Raises:
            InvalidArgument: the window ends before it begins (INVALID_WINDOW), or has too many steps, of all versions
                together where each is by itself (TOO_MANY_POINTS).
        """
        now = self._clock()
        window, granularity = self._asked(question, now)
        return self._series(question, window, granularity, now)

    def stretches(self, question: Question) -> Iterator[Answer]:
        """Count a window step by step, some steps at a time, the oldest first: each is read when it is asked for.

        Raises:
            InvalidArgument: as `series`; TOO_MANY_POINTS also on the way, where very many versions predicted.
        """
        now = self._clock()
        window, granularity = self._asked(question, now)
        begin = window.from_time
        while begin < window.to_time:
            end = min(begin + min(STRETCH * granularity.span, window.to_time - begin), window.to_time)
            yield self._series(question, Window(begin, end), granularity, now)
            begin = end

    def _asked(self, question: Question, now: datetime) -> tuple[Window, Granularity]:
        window = _window(question, now)
        granularity = question.granularity or _granularity(window)
        window = _widened(window, granularity, self.kept(now))
        _check_points((window.to_time - window.from_time) // granularity.span)
        return window, granularity

    def _series(self, question: Question, window: Window, granularity: Granularity, now: datetime) -> Answer:
        steps: defaultdict[tuple[str, datetime], Sum] = defaultdict(Sum)

        def take(place: Place, counts: Counts) -> None:
            version, start = place
            steps[version if question.by_version else question.version, granularity.floor(start)].add(counts)
            _check_points(len(steps))

        plan = self._store.read(
            Wanted(question.model, question.version or None, window, self.kept(now), now, question.latencies),
            lambda marked, there: make_plan(window, marked, there, now, granularity),
            take,
        )
        points: defaultdict[str, list[Totals]] = defaultdict(list)
        for version, start in sorted(steps):
            step = Window(start, start + granularity.span)
            points[version].append(Totals(so_far(step, now), steps[version, start].result()))
        if not points and not question.by_version:
            points[question.version] = []
        whole = so_far(plan.window, now)
        series = [
            Series(version, found, Totals(whole, Counts.merged(point.counts for point in found)))
            for version, found in points.items()
        ]
        return Answer(granularity, plan.window, series, plan.complete_until, plan.feedback_complete_until)

    def judged_of_users(
        self, model: str, version: str, window: Window, groups: int, *, few: int
    ) -> Mapping[int, tuple[int, int]]:
        """Count judged rows, and those that were right, by random groups of users, of what is stored now; -1: no user.

        Nothing of it is kept ready: up to `few` rows of feedback look for their events, and of more the model's events
        of the whole window are read. So let a window be one of few labels.
        """
        return self._store.judged_of_users(model, version, window, groups, few)

    def live(self, model: str, version: str) -> Live:
        """Count the last 5 minutes in steps of 10 s, the oldest first, the last one under way; and all of them."""
        return self._read_live(model).of(version)

    def live_shared(self, model: str, version: str) -> Live:
        """Give `live`, of a reading less than a second old: all who ask for a model within a second share one."""
        return self._readings.get(model).of(version)

    def _read_live(self, model: str) -> LiveReading:
        now = self._clock()
        end = _EPOCH + ((now - _EPOCH) // LIVE_STEP + 1) * LIVE_STEP
        window = Window(end - LIVE_STEPS * LIVE_STEP, end)
        return LiveReading(now, window, self._store.count(model, None, window, LIVE_STEP))

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


def _check_points(points: int) -> None:
    if points > MAX_POINTS:
        raise too_many_points(f"{points} points or more; at most {MAX_POINTS} are allowed in all series together")
