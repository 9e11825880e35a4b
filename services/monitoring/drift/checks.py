"""Checks for drift: made by schedule and on demand, kept, and asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from penstock.ids import uuid7
from services.common import pages
from services.common.errors import DomainError, FailedPrecondition, NotFound
from services.monitoring.check_window import check_window
from services.monitoring.chores import Turn
from services.monitoring.configuration.configurations import Configurations
from services.monitoring.configuration.models import DriftConfiguration
from services.monitoring.drift import convert
from services.monitoring.drift.comparison import compare
from services.monitoring.drift.models import DriftCheck, DriftFilters, Labels, Rules, Trigger
from services.monitoring.drift.store import DriftStore, StoredCheck
from services.monitoring.ids import find_id
from services.monitoring.models import Window
from services.monitoring.profiles.live import LiveProfiles
from services.monitoring.profiles.models import Reference
from services.monitoring.profiles.profiles import Profiles
from services.monitoring.rollups.metrics import MetricsReader
from services.monitoring.rollups.models import Question

_log = structlog.get_logger(__name__)
Clock = Callable[[], datetime]
DEFAULT_PAGE_SIZE = 100
QUARTER = timedelta(days=91)
KEPT = timedelta(days=365)
"""Checks are kept for so long."""
_DROPPED_AT_ONCE = 1_000


class DriftChecks:
    """Compares windows with references, and keeps what came of it. Threads may share it."""

    def __init__(
        self,
        store: DriftStore,
        profiles: Profiles,
        live: LiveProfiles,
        metrics: MetricsReader,
        configurations: Configurations,
        clock: Clock,
        *,
        tell: Callable[[DriftCheck], None],
    ) -> None:
        """`tell` is called with each check that was kept."""
        self._store = store
        self._profiles = profiles
        self._live = live
        self._metrics = metrics
        self._configurations = configurations
        self._clock = clock
        self._tell = tell

    def check(self, model: str, version: str, from_time: datetime | None, to_time: datetime | None) -> DriftCheck:
        """Check now, at the configured level, and keep the result.

        An empty version is the one that answered most in the window; an unset `to_time` is now, an unset `from_time`
        the configured window before it. Both are widened to whole buckets of 5 minutes.

        Raises:
            InvalidArgument: the window ends before it begins, or is longer than 30 days (INVALID_WINDOW).
            NotFound: no version is named, and none had traffic (VERSION_NOT_SEEN).
            FailedPrecondition: there is no reference (NO_REFERENCE), or checks are off (DRIFT_OFF).
        """
        now = self._clock()
        end = to_time or now
        window = check_window(from_time, end, self._configurations.effective(model, version).drift.window)
        version = version or self._busiest(model, window)
        configuration = self._configurations.effective(model, version).drift
        if not configuration.enabled:
            raise FailedPrecondition(
                f"drift checks of {model} {version} are switched off; switch them on in its configuration",
                reason="DRIFT_OFF",
            )
        reference = self._profiles.reference(model, version)
        if reference is None:
            raise FailedPrecondition(
                f"{model} {version} has no reference profile to compare with; create one, or attach another version's",
                reason="NO_REFERENCE",
            )
        if from_time is None:
            window = check_window(None, end, configuration.window)
        check = self._compared(reference, version, window, configuration, configuration.alpha, Trigger.REQUEST)
        self._store.add(_stored(check))
        self._tell(check)
        return check

    def latest(self, model: str, version: str) -> DriftCheck | None:
        """Give a version's newest check, with its results."""
        document = self._store.find_latest(model, version)
        return None if document is None else convert.check_from(document)

    def find(self, check_id: UUID) -> DriftCheck | None:
        """Find a check, with its results."""
        document = self._store.find(check_id)
        return None if document is None else convert.check_from(document)

    def get(self, check_id: str) -> DriftCheck:
        """Give a check, with its results.

        Raises:
            NotFound: there is none of this id (CHECK_NOT_FOUND).
        """
        known = find_id(check_id)
        check = None if known is None else self.find(known)
        if check is None:
            raise NotFound(
                f"there is no drift check {check_id[:64]!r}; they are kept for {KEPT.days} days",
                reason="CHECK_NOT_FOUND",
            )
        return check

    def page(self, filters: DriftFilters, *, size: int, token: str) -> tuple[Sequence[DriftCheck], str]:
        """List checks without results, the newest first, and the token of the next page; empty on the last.

        Raises:
            InvalidArgument: the size or the token.
        """
        size = pages.page_size(size, default=DEFAULT_PAGE_SIZE)
        bound_to = {name: getattr(filters, name) for name in DriftFilters.__dataclass_fields__}
        found = self._store.page(filters, before=_position(pages.decode(token, bound_to)), limit=size + 1)
        checks = [convert.check_from(overview) for _, overview in found[:size]]
        return checks, pages.encode([str(found[size - 1][0])], bound_to) if len(found) > size else ""

    def check_due(self, turn: Turn) -> None:
        """Check, by schedule, each version that had traffic and has a reference, and drop what is past its time."""
        now = self._clock()
        lately = Window(now - timedelta(days=1), now)
        for model in self._metrics.models(lately):
            for version in filter(None, self._metrics.versions(model, lately)):
                if not turn.renew():
                    return
                self._check_if_due(model, version)
        while turn.renew() and self._store.drop_before(now - KEPT, limit=_DROPPED_AT_ONCE):
            pass

    def _check_if_due(self, model: str, version: str) -> None:
        configuration = self._configurations.effective(model, version).drift
        now = self._clock()
        if not configuration.enabled or not self._store.is_due(model, version, now, configuration.interval):
            return
        reference = self._profiles.reference(model, version)
        if reference is None:
            return
        try:
            check = self._compared(
                reference,
                version,
                check_window(None, now, configuration.window),
                configuration,
                scheduled_alpha(configuration),
                Trigger.SCHEDULE,
            )
        except DomainError:
            raise
        except Exception:  # noqa: BLE001 - logged, and tried again: one version's data must not end the others' checks
            _log.exception("drift check failed", model=model, version=version)
            return
        if self._store.add_due(_stored(check), configuration.interval):
            self._tell(check)

    def _compared(
        self,
        reference: Reference,
        version: str,
        window: Window,
        configuration: DriftConfiguration,
        alpha: float,
        trigger: Trigger,
    ) -> DriftCheck:
        live = self._live.window(reference, version, window.from_time, window.to_time)
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
            summary=found.summary,
            results=found.results,
            trigger=trigger,
            create_time=self._clock(),
        )

    def _labels(self, reference: Reference, version: str, window: Window) -> Labels | None:
        """Count judged rows by steps of time, where there is an accuracy to compare them with."""
        if reference.accuracy is None:
            return None
        answer = self._metrics.series(
            Question(reference.model, version, window.from_time, window.to_time, granularity=None, by_version=False)
        )
        points = [point.counts for series in answer.series for point in series.points]
        return Labels([point.judged_count for point in points], [point.correct_count for point in points])

    def _busiest(self, model: str, window: Window) -> str:
        counts = {
            version: self._metrics.total(model, version, window).counts.inference_count
            for version in self._metrics.versions(model, window)
            if version
        }
        if not counts:
            raise NotFound(
                f"no version of {model} answered between {window.from_time.isoformat()} and "
                f"{window.to_time.isoformat()}; name a version, or take another window",
                reason="VERSION_NOT_SEEN",
            )
        return max(counts, key=lambda version: counts[version])


def scheduled_alpha(configuration: DriftConfiguration) -> float:
    """Give the level of each check by schedule: so many are made that at most one a quarter is wrong on average."""
    return min(configuration.alpha, configuration.interval / QUARTER)


def _stored(check: DriftCheck) -> StoredCheck:
    return StoredCheck(
        check_id=check.id,
        model=check.model,
        version=check.version,
        profile_id=check.profile_id,
        window=check.window,
        status=check.status,
        trigger=check.trigger,
        create_time=check.create_time,
        overview=convert.check_proto(check.without_results()).SerializeToString(),
        document=convert.check_proto(check).SerializeToString(),
    )


def _position(position: list[Any] | None) -> UUID | None:
    """Read what a token of ours says; it is not signed, so it is looked at like any input."""
    match position:
        case None:
            return None
        case [str(text)] if (known := find_id(text)) is not None:
            return known
    raise pages.unknown_token()
