"""Looking windows of live data over: by schedule, and when somebody asks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from penstock.ids import uuid7
from services.common.errors import FailedPrecondition
from services.monitoring.chores import Turn
from services.monitoring.configuration.configurations import Configurations
from services.monitoring.configuration.models import QualityConfiguration
from services.monitoring.drift.models import Trigger
from services.monitoring.models import Window
from services.monitoring.profiles.live import LiveProfiles
from services.monitoring.profiles.profiles import Profiles
from services.monitoring.quality import convert
from services.monitoring.quality.bounds import LEVEL
from services.monitoring.quality.findings import examine
from services.monitoring.quality.models import QualityCheck, QualityFilters
from services.monitoring.quality.unreferenced import Unreferenced
from services.monitoring.rollups.metrics import MetricsReader
from services.monitoring.window_checks.keeping import Form, Kept
from services.monitoring.window_checks.rounds import (
    MOST_AT_ONCE,
    Rounds,
    await_counts,
    busiest,
    one_of_few,
    scheduled_level,
)
from services.monitoring.window_checks.store import CheckStore, StoredCheck, Version
from services.monitoring.window_checks.window import ALL_THERE, Completeness, check_window, completeness, not_ahead

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Sources:
    """What checks stand on."""

    configurations: Configurations
    metrics: MetricsReader
    profiles: Profiles
    live: LiveProfiles
    unreferenced: Unreferenced
    seen: Callable[[Window], Collection[Version]]
    """Lists the versions with traffic."""


class QualityChecks:
    """Makes checks, and keeps them."""

    def __init__(self, store: CheckStore, sources: Sources, clock: Clock) -> None:
        self._kept = Kept(store, FORM)
        self._rounds = Rounds(store, sources.seen, clock, self._intervals, self._check_due)
        self._sources = sources
        self._clock = clock
        self._places = threading.BoundedSemaphore(MOST_AT_ONCE)

    def check(
        self,
        model: str,
        version: str,
        from_time: datetime | None,
        to_time: datetime | None,
        as_scheduled: bool = False,
    ) -> QualityCheck:
        """Look a window over now, or make the check that is next by schedule.

        No version means the one that answered most in the window.

        Raises:
            ResourceExhausted: too many checks are being made (TOO_MANY_CHECKS).
            InvalidArgument: the window (INVALID_WINDOW).
            FailedPrecondition: checks are switched off (QUALITY_OFF), or the check that is next by schedule would not
                see what waits to be counted (BUCKETS_WAIT).
            NotFound: no version was named, and none had traffic (VERSION_NOT_SEEN).
        """
        now, configurations = self._clock(), self._sources.configurations
        not_ahead(from_time, to_time, now)
        end = to_time or now
        window = check_window(from_time, end, configurations.effective(model, version).quality.window)
        version = version or busiest(self._sources.metrics, model, window)
        configuration = configurations.effective(model, version).quality
        if not configuration.enabled:
            raise FailedPrecondition(
                f"quality checks of {model} {version} are switched off; "
                f"`penstock monitoring set quality.enabled=true --model {model}` switches them on",
                reason="QUALITY_OFF",
            )
        if from_time is None:
            window = check_window(None, end, configuration.window)
        reference = self._sources.profiles.reference(model, version)
        with one_of_few(self._places):
            counted = self._sources.live.catch_up(reference, version, window) if reference else ()
            if as_scheduled:
                await_counts(lambda: self._completeness(model, version, configuration, counted), self._clock)
                return self._by_schedule(model, version, configuration, counted, before_time=True)
            check = self._look(model, version, window, configuration, LEVEL, Trigger.REQUEST, counted)
        self._kept.add(check)
        return check

    def get(self, check_id: str) -> QualityCheck:
        """Give a check, with its findings; raises NotFound (CHECK_NOT_FOUND)."""
        return self._kept.get(check_id)

    def page(self, filters: QualityFilters, *, size: int, token: str) -> tuple[Sequence[QualityCheck], str]:
        """List checks without findings, the newest first; see `Kept.page`."""
        return self._kept.page(filters, size=size, token=token)

    def latest_of(self, versions: Iterable[Version]) -> Mapping[Version, QualityCheck]:
        """Give what rules judge by: the last check by schedule of each version that has one, without words."""
        return self._kept.latest_of(versions)

    def check_due(self, turn: Turn) -> None:
        """Look at each version whose time has come, once over all replicas, and drop checks past their time."""
        self._rounds.go(turn)

    def _intervals(self, versions: Collection[Version]) -> Mapping[Version, timedelta]:
        wanted = {each: self._sources.configurations.effective(*each).quality for each in versions}
        return {each: configuration.interval for each, configuration in wanted.items() if configuration.enabled}

    def _check_due(self, model: str, version: str) -> None:
        configuration = self._sources.configurations.effective(model, version).quality
        complete = self._completeness(model, version, configuration, ())
        if not self._rounds.waits(model, version, complete, configuration.interval):
            self._by_schedule(model, version, configuration, (), before_time=False)

    def _completeness(
        self, model: str, version: str, configuration: QualityConfiguration, counted: Collection[datetime]
    ) -> Completeness:
        """Tell it of the window before now; what has no reference is read as it came."""
        now, reference = self._clock(), self._sources.profiles.reference(model, version)
        if reference is None:
            return ALL_THERE
        window = check_window(None, now, configuration.window)
        return completeness(window, self._sources.live.uncounted(reference, version, window, counted=counted), now)

    def _by_schedule(
        self,
        model: str,
        version: str,
        configuration: QualityConfiguration,
        counted: Collection[datetime],
        *,
        before_time: bool,
    ) -> QualityCheck:
        window = check_window(None, self._clock(), configuration.window)
        level = scheduled_level(LEVEL, configuration.interval, self._rounds.versions_checked(model))
        check = self._look(model, version, window, configuration, level, Trigger.SCHEDULE, counted)
        self._kept.add_due(check, configuration.interval, before_time=before_time)
        return check

    def _look(
        self,
        model: str,
        version: str,
        window: Window,
        configuration: QualityConfiguration,
        level: float,
        trigger: Trigger,
        counted: Collection[datetime],
    ) -> QualityCheck:
        now, complete = self._clock(), ALL_THERE
        reference = self._sources.profiles.reference(model, version)
        if reference is None:
            report = self._sources.unreferenced.examine(model, version, window, configuration, level)
        else:
            live = self._sources.live.window(reference, version, window.from_time, window.to_time, counted=counted)
            complete = completeness(window, live.uncounted_buckets, now, under_way=trigger is Trigger.REQUEST)
            report = examine(reference, live, configuration, level)
        return QualityCheck(
            id=UUID(uuid7(now)),
            model=model,
            version=version,
            profile_id=reference.id if reference else None,
            window=window,
            status=report.status,
            row_count=report.row_count,
            violation_count=report.violation_count,
            summary=report.summary + complete.note,
            findings=report.findings,
            trigger=trigger,
            create_time=now,
            completeness=complete,
        )


def _stored(check: QualityCheck) -> StoredCheck:
    return StoredCheck(
        check_id=check.id,
        model=check.model,
        version=check.version,
        profile_id=check.profile_id,
        status=check.status.value,
        trigger=check.trigger.value,
        create_time=check.create_time,
        overview=convert.check_proto(replace(check, findings=())).SerializeToString(),
        document=convert.check_proto(check).SerializeToString(),
    )


def _brief(check: QualityCheck) -> QualityCheck:
    return replace(check, findings=tuple(replace(finding, summary="") for finding in check.findings))


FORM = Form("quality", _stored, convert.check_from, _brief, size=lambda check: len(check.findings))
