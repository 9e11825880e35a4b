"""Checks for drift: made by schedule and on demand, kept, and asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import accumulate
from uuid import UUID

import structlog

from penstock.ids import uuid7
from services.common.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from services.monitoring.chores import Turn
from services.monitoring.configuration.configurations import Configurations
from services.monitoring.configuration.models import DriftConfiguration
from services.monitoring.drift import convert
from services.monitoring.drift.comparison import compare
from services.monitoring.drift.models import DriftCheck, DriftFilters, DriftStatus, Labels, Rules, Trigger
from services.monitoring.feature_views.counting import count_rows
from services.monitoring.feature_views.subjects import view_of
from services.monitoring.feature_views.views import UNAVAILABLE, FeatureViews
from services.monitoring.models import Window
from services.monitoring.profiles.live import LiveProfiles
from services.monitoring.profiles.models import GROUPS, Reference
from services.monitoring.profiles.profiles import Profiles
from services.monitoring.rollups.metrics import MetricsReader
from services.monitoring.rollups.models import FINEST_FIRST, Question, Totals
from services.monitoring.window_checks.keeping import Form, Kept
from services.monitoring.window_checks.rounds import (
    MOST_AT_ONCE,
    Rounds,
    await_counts,
    busiest,
    one_of_few,
    scheduled_level,
)
from services.monitoring.window_checks.store import CheckStore, StoredCheck, Transaction, Version
from services.monitoring.window_checks.window import Completeness, check_window, completeness, not_ahead

_log = structlog.get_logger(__name__)
Clock = Callable[[], datetime]
VIEWS_SILENT_S = 60.0
"""A registry that gave no answer is asked for no view for so long."""
_SHOWN_VERSIONS = 10
MOST_LABELS = 100_000
"""Labels that one check reads with their users; of more, the newest steps of the window are judged."""


class DriftChecks:
    """Compares windows with references, and keeps what came of it. Threads may share it."""

    def __init__(
        self,
        store: CheckStore,
        profiles: Profiles,
        live: LiveProfiles,
        views: FeatureViews,
        metrics: MetricsReader,
        configurations: Configurations,
        clock: Clock,
        *,
        seen: Callable[[Window], Collection[Version]],
        tell: Callable[[Transaction, DriftCheck], None],
    ) -> None:
        """`seen` lists the versions with traffic; `tell` is called with each check by schedule, in the transaction that
        keeps it."""
        self._kept = Kept(store, FORM)
        self._rounds = Rounds(store, self._seen, clock, self._intervals, self._check_due)
        self._had_traffic = seen
        self._profiles = profiles
        self._live = live
        self._views = views
        self._metrics = metrics
        self._configurations = configurations
        self._clock = clock
        self._places = threading.BoundedSemaphore(MOST_AT_ONCE)
        self._tell = tell
        self._views_silent_until_s = 0.0

    def check(
        self,
        model: str,
        version: str,
        from_time: datetime | None,
        to_time: datetime | None,
        as_scheduled: bool = False,
    ) -> DriftCheck:
        """Check now, at the configured level, and keep the result; or make the check that is next by schedule.

        An empty version is the one that answered most in the window; an unset `to_time` is now, an unset `from_time`
        the configured window before it. Both are widened to whole buckets of 5 minutes.

        Raises:
            ResourceExhausted: too many checks are being made (TOO_MANY_CHECKS).
            InvalidArgument: the window ends before it begins or after now, or is longer than 30 days (INVALID_WINDOW).
            NotFound: no version is named, and none had traffic (VERSION_NOT_SEEN).
            FailedPrecondition: there is no reference (NO_REFERENCE), checks are off (DRIFT_OFF), or the check that is
                next by schedule would not see what waits to be counted (BUCKETS_WAIT).
            DomainError: of a view what `FeatureViews.read` raises.
        """
        now = self._clock()
        not_ahead(from_time, to_time, now)
        end = to_time or now
        window = check_window(from_time, end, self._configurations.effective(model, version).drift.window)
        view = view_of(model)
        version = version or (self._views.newest(view) if view else busiest(self._metrics, model, window))
        configuration = self._configurations.effective(model, version).drift
        if not configuration.enabled:
            raise FailedPrecondition(
                f"drift checks of {model} {version} are switched off; "
                f"`penstock monitoring set drift.enabled=true --model {model}` switches them on",
                reason="DRIFT_OFF",
            )
        reference = self._profiles.reference(model, version)
        if reference is None:
            raise self._no_reference(model, version, window)
        if from_time is None:
            window = check_window(None, end, configuration.window)
        with one_of_few(self._places):
            counted = self._live.catch_up(reference, version, window)
            if as_scheduled:
                await_counts(lambda: self._completeness(reference, version, configuration, counted), self._clock)
                return self._by_schedule(reference, version, configuration, counted, before_time=True)
            alpha = configuration.alpha
            check = self._compared(reference, version, window, configuration, alpha, Trigger.REQUEST, counted)
        self._kept.add(check)
        return check

    def get(self, check_id: str) -> DriftCheck:
        """Give a check, with its results; raises NotFound (CHECK_NOT_FOUND)."""
        return self._kept.get(check_id)

    def page(self, filters: DriftFilters, *, size: int, token: str) -> tuple[Sequence[DriftCheck], str]:
        """List checks without results, the newest first; see `Kept.page`."""
        return self._kept.page(filters, size=size, token=token)

    def latest_of(self, versions: Iterable[Version]) -> Mapping[Version, DriftCheck]:
        """Give what rules judge by: the last check by schedule of each version that has one, without bins and words.

        What somebody asked for over another window is none, and is made at another level.
        """
        return self._kept.latest_of(versions)

    def check_due(self, turn: Turn) -> None:
        """Check, by schedule, what has a reference, and drop what is past its time.

        Of models those are the versions that had traffic lately, of feature views all: rows of theirs may come seldom.
        """
        self._rounds.go(turn)

    def views_checked(self) -> Collection[Version]:
        """Say which versions of feature views are checked by schedule; `view:NAME` stands where a model does."""
        return self._intervals(self._profiles.compared_views())

    def _no_reference(self, model: str, version: str, window: Window) -> FailedPrecondition:
        others = [each for each in self._metrics.versions(model, window) if each]
        if others and version not in others:
            listed = ", ".join(others[:_SHOWN_VERSIONS])
            sentence = f"{model} {version} has no reference profile, and made no prediction in the window; {listed} did"
        else:
            made = f"`penstock profile create {model} {version}` makes one, `penstock profile attach` takes another's"
            sentence = f"{model} {version} has no reference profile to compare with; {made}"
        return FailedPrecondition(sentence, reason="NO_REFERENCE")

    def _seen(self, window: Window) -> Collection[Version]:
        return [*self._had_traffic(window), *self._profiles.compared_views()]

    def _intervals(self, versions: Collection[Version]) -> Mapping[Version, timedelta]:
        wanted = {each: self._configurations.effective(*each).drift for each in self._profiles.compared(versions)}
        return {each: configuration.interval for each, configuration in wanted.items() if configuration.enabled}

    def _check_due(self, model: str, version: str) -> None:
        configuration = self._configurations.effective(model, version).drift
        reference = self._profiles.reference(model, version)
        if reference is None:
            return
        if view_of(model):
            self._check_view(reference, version, configuration)
            return
        complete = self._completeness(reference, version, configuration, ())
        if not self._rounds.waits(model, version, complete, configuration.interval):
            self._by_schedule(reference, version, configuration, (), before_time=False)

    def _check_view(self, reference: Reference, version: str, configuration: DriftConfiguration) -> None:
        """Check a view by schedule. Models are checked whatever the registry does, so that its faults end here."""
        if time.monotonic() < self._views_silent_until_s:
            return
        try:
            self._by_schedule(reference, version, configuration, (), before_time=False)
        except NotFound as error:
            self._rounds.put_off(reference.model, version, configuration.interval)
            _log.warning("view not checked, which is gone", model=reference.model, version=version, why=error.message)
        except InvalidArgument as error:
            # Rows that are too many to be read stay so: asking for them in each turn costs the registry as much again.
            self._add_due(self._unread(reference, version, configuration, error), configuration, before_time=False)
        except Unavailable as error:
            if error.reason != UNAVAILABLE:
                raise
            self._views_silent_until_s = time.monotonic() + VIEWS_SILENT_S
            _log.warning("view not checked, trying again", model=reference.model, version=version, why=error.message)

    def _completeness(
        self, reference: Reference, version: str, configuration: DriftConfiguration, counted: Collection[datetime]
    ) -> Completeness:
        now = self._clock()
        window = check_window(None, now, configuration.window)
        return completeness(window, self._live.uncounted(reference, version, window, counted=counted), now)

    def _by_schedule(
        self,
        reference: Reference,
        version: str,
        configuration: DriftConfiguration,
        counted: Collection[datetime],
        *,
        before_time: bool,
    ) -> DriftCheck:
        window = check_window(None, self._clock(), configuration.window)
        alpha = self._level(reference, configuration)
        check = self._compared(reference, version, window, configuration, alpha, Trigger.SCHEDULE, counted)
        self._add_due(check, configuration, before_time=before_time)
        return check

    def _level(self, reference: Reference, configuration: DriftConfiguration) -> float:
        checked = self._rounds.versions_checked(reference.model)
        return scheduled_level(configuration.alpha, configuration.interval, checked)

    def _add_due(self, check: DriftCheck, configuration: DriftConfiguration, *, before_time: bool) -> None:
        self._kept.add_due(
            check, configuration.interval, lambda transaction: self._tell(transaction, check), before_time=before_time
        )

    def _unread(
        self, reference: Reference, version: str, configuration: DriftConfiguration, error: InvalidArgument
    ) -> DriftCheck:
        """Give the check by schedule of a view whose rows the registry refuses: it says why, and compares nothing."""
        now = self._clock()
        return DriftCheck(
            id=UUID(uuid7()),
            model=reference.model,
            version=version,
            profile_id=reference.id,
            window=check_window(None, now, configuration.window),
            status=DriftStatus.INSUFFICIENT_DATA,
            drifted_types=(),
            drifted_count=0,
            compared_count=0,
            effect=0.0,
            live_count=0,
            alpha=self._level(reference, configuration),
            gate=configuration.gate,
            false_alarm_rate=0.0,
            summary=f"Nothing was compared: {error.message.removesuffix('.')}.",
            results=(),
            trigger=Trigger.SCHEDULE,
            create_time=now,
        )

    def _compared(
        self,
        reference: Reference,
        version: str,
        window: Window,
        configuration: DriftConfiguration,
        alpha: float,
        trigger: Trigger,
        counted: Collection[datetime],
    ) -> DriftCheck:
        now = self._clock()
        if view := view_of(reference.model):
            live = count_rows(reference, self._views.read(view, version, window), window)
        else:
            live = self._live.window(reference, version, window.from_time, window.to_time, counted=counted)
        complete = completeness(window, live.uncounted_buckets, now, under_way=trigger is Trigger.REQUEST)
        rules = Rules(
            alpha=alpha,
            effect_floor=configuration.effect_floor,
            min_rows=configuration.min_rows,
            gate=configuration.gate,
            min_labels=configuration.min_labels,
            accuracy_drop=configuration.accuracy_drop,
            ignored_features=frozenset(configuration.ignored_features),
        )
        found = compare(reference, live, rules, self._labels(reference, version, window))
        return DriftCheck(
            id=UUID(uuid7()),
            model=reference.model,
            version=version,
            profile_id=reference.id,
            window=Window(live.from_time, live.to_time),
            status=found.status,
            drifted_types=found.drifted_types,
            drifted_count=found.drifted_count,
            compared_count=found.compared_count,
            effect=found.effect,
            live_count=found.live_count,
            alpha=found.alpha,
            gate=found.gate,
            false_alarm_rate=found.false_alarm_rate,
            summary=f"{found.summary.removesuffix('.')}{complete.note}.",
            results=found.results,
            trigger=trigger,
            create_time=self._clock(),
            completeness=complete,
        )

    def _labels(self, reference: Reference, version: str, window: Window) -> Labels | None:
        """Count judged rows by steps of time, where there is an accuracy to compare them with."""
        if reference.accuracy is None:
            return None
        kept = self._metrics.kept(self._clock()).rollups
        # Whole steps are told, so long ones would bring labels of before the window.
        finest = next((each for each in FINEST_FIRST if kept[each] <= window.from_time), None)
        answer = self._metrics.series(
            Question(
                reference.model, version, window.from_time, window.to_time, finest, by_version=False, latencies=False
            )
        )
        judged = [point for series in answer.series for point in series.points if point.counts.judged_count]
        return labels_of(
            judged,
            lambda span: self._metrics.judged_of_users(reference.model, version, span, GROUPS, few=MOST_LABELS),
        )


def labels_of(steps: Sequence[Totals], judged_of_users: Callable[[Window], Mapping[int, tuple[int, int]]]) -> Labels:
    """Give the labels of the newest steps, with their users: as many as can be read in a statement's time."""
    points = newest(steps)
    while points:
        try:
            by_group = judged_of_users(Window(points[0].window.from_time, points[-1].window.to_time))
        except DeadlineExceeded:
            points = points[len(points) - len(points) // 8 :]
            continue
        of_users = [by_group.get(group, (0, 0)) for group in range(GROUPS)]
        return Labels(
            judged=[point.counts.judged_count for point in points],
            correct=[point.counts.correct_count for point in points],
            judged_of_users=[judged_count for judged_count, _ in of_users],
            correct_of_users=[correct_count for _, correct_count in of_users],
        )
    return Labels()


def newest(points: Sequence[Totals]) -> Sequence[Totals]:
    """Leave out the oldest steps of time where all together have more labels than MOST_LABELS."""
    counts = accumulate(point.counts.judged_count for point in reversed(points))
    return points[len(points) - max(1, sum(count <= MOST_LABELS for count in counts)) :]


def _stored(check: DriftCheck) -> StoredCheck:
    return StoredCheck(
        check_id=check.id,
        model=check.model,
        version=check.version,
        profile_id=check.profile_id,
        status=check.status.value,
        trigger=check.trigger.value,
        create_time=check.create_time,
        overview=convert.check_proto(check.without_results()).SerializeToString(),
        document=convert.check_proto(check).SerializeToString(),
    )


def _brief(check: DriftCheck) -> DriftCheck:
    return replace(check, results=tuple(replace(result, bins=(), summary="") for result in check.results))


FORM = Form("drift", _stored, convert.check_from, _brief, size=lambda check: len(check.results))
