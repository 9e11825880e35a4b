"""Looking windows of live data over: by schedule, and when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from services.monitoring.configuration.models import QualityConfiguration
from services.monitoring.drift.models import Trigger
from services.monitoring.ids import find_id
from services.monitoring.models import Window
from services.monitoring.profiles.live import LiveProfiles
from services.monitoring.profiles.profiles import Profiles
from services.monitoring.quality import convert
from services.monitoring.quality.findings import examine
from services.monitoring.quality.models import QualityCheck, QualityFilters, QualityReport
from services.monitoring.quality.store import QualityStore, StoredCheck
from services.monitoring.quality.unreferenced import Unreferenced
from services.monitoring.rollups.metrics import MetricsReader

_log = structlog.get_logger(__name__)
Clock = Callable[[], datetime]
DEFAULT_PAGE_SIZE = 100
KEPT = timedelta(days=365)
"""Checks are kept for so long."""
_DROPPED_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Sources:
    """What checks stand on."""

    configurations: Configurations
    metrics: MetricsReader
    profiles: Profiles
    live: LiveProfiles
    unreferenced: Unreferenced


class QualityChecks:
    """Makes checks, and keeps them."""

    def __init__(self, store: QualityStore, sources: Sources, clock: Clock) -> None:
        self._store = store
        self._sources = sources
        self._clock = clock

    def check(self, model: str, version: str, from_time: datetime | None, to_time: datetime | None) -> QualityCheck:
        """Look a window over now; no version means the one that answered most in it.

        Raises:
            InvalidArgument: the window (INVALID_WINDOW).
            FailedPrecondition: checks are switched off (QUALITY_OFF).
            NotFound: no version was named, and none had traffic (VERSION_NOT_SEEN).
        """
        configurations, end = self._sources.configurations, to_time or self._clock()
        window = check_window(from_time, end, configurations.effective(model, version).quality.window)
        version = version or self._busiest(model, window)
        configuration = configurations.effective(model, version).quality
        if not configuration.enabled:
            raise FailedPrecondition(
                f"quality checks of {model} {version} are switched off; switch them on in its configuration",
                reason="QUALITY_OFF",
            )
        if from_time is None:
            window = check_window(None, end, configuration.window)
        check = self._look(model, version, window, configuration, Trigger.REQUEST)
        self._store.add(_stored(check))
        return check

    def get(self, text: str) -> QualityCheck:
        """Give a check with its findings.

        Raises:
            NotFound: there is none with this id (CHECK_NOT_FOUND).
        """
        check_id = find_id(text)
        found = None if check_id is None else self._store.find(check_id)
        if found is None:
            message = f"there is no quality check {text[:64]!r}; they are kept for {KEPT.days} days"
            raise NotFound(message, reason="CHECK_NOT_FOUND")
        return convert.check_from(found)

    def latest(self, model: str, version: str) -> QualityCheck | None:
        """Find a version's newest check, with its findings."""
        found = self._store.find_latest(model, version)
        return None if found is None else convert.check_from(found)

    def page(self, filters: QualityFilters, *, size: int, token: str) -> tuple[Sequence[QualityCheck], str]:
        """List checks without findings, the newest first, and the token of the next page; empty on the last.

        Raises:
            InvalidArgument: the size or the token.
        """
        size = pages.page_size(size, default=DEFAULT_PAGE_SIZE)
        bound_to = {name: getattr(filters, name) for name in QualityFilters.__dataclass_fields__}
        found = self._store.page(filters, before=_position(pages.decode(token, bound_to)), limit=size + 1)
        checks = [convert.check_from(overview) for _, overview in found[:size]]
        more = len(found) > size
        return checks, pages.encode([str(found[size - 1][0])], bound_to) if more else ""

    def check_due(self, turn: Turn) -> None:
        """Look at each version whose time has come, once over all replicas, and drop checks past their time."""
        now = self._clock()
        lately = Window(now - timedelta(days=1), now)
        for model in self._sources.metrics.models(lately):
            for version in filter(None, self._sources.metrics.versions(model, lately)):
                if not turn.renew():
                    return
                self._check_if_due(model, version)
        while turn.renew() and self._store.drop_before(now - KEPT, limit=_DROPPED_AT_ONCE):
            pass

    def _check_if_due(self, model: str, version: str) -> None:
        now = self._clock()
        configuration = self._sources.configurations.effective(model, version).quality
        if not configuration.enabled or not self._store.is_due(model, version, now, configuration.interval):
            return
        try:
            window = check_window(None, now, configuration.window)
            check = self._look(model, version, window, configuration, Trigger.SCHEDULE)
        except DomainError:
            raise
        except Exception:  # noqa: BLE001 - logged, and tried again: one version's data must not end the others' checks
            _log.exception("quality check failed", model=model, version=version)
            return
        self._store.add_due(_stored(check), configuration.interval)

    def _busiest(self, model: str, window: Window) -> str:
        metrics = self._sources.metrics
        versions = [version for version in metrics.versions(model, window) if version]
        if not versions:
            raise NotFound(
                f"no version of {model!r} had traffic in the window; name one, or take another window",
                reason="VERSION_NOT_SEEN",
            )
        return max(versions, key=lambda one: metrics.total(model, one, window).counts.inference_count)

    def _look(
        self, model: str, version: str, window: Window, configuration: QualityConfiguration, trigger: Trigger
    ) -> QualityCheck:
        reference = self._sources.profiles.reference(model, version)
        if reference is None:
            report = self._sources.unreferenced.examine(model, version, window, configuration)
        else:
            live = self._sources.live.window(reference, version, window.from_time, window.to_time)
            report = examine(reference, live, configuration)
        return _check(model, version, reference.id if reference else None, window, report, trigger, self._clock())


def _check(
    model: str,
    version: str,
    profile_id: UUID | None,
    window: Window,
    report: QualityReport,
    trigger: Trigger,
    now: datetime,
) -> QualityCheck:
    return QualityCheck(
        id=UUID(uuid7(now)),
        model=model,
        version=version,
        profile_id=profile_id,
        window=window,
        status=report.status,
        row_count=report.row_count,
        violation_count=report.violation_count,
        summary=report.summary,
        findings=report.findings,
        trigger=trigger,
        create_time=now,
    )


def _stored(check: QualityCheck) -> StoredCheck:
    return StoredCheck(
        check_id=check.id,
        model=check.model,
        version=check.version,
        status=check.status,
        create_time=check.create_time,
        overview=convert.check_proto(replace(check, findings=())).SerializeToString(),
        document=convert.check_proto(check).SerializeToString(),
    )


def _position(position: list[Any] | None) -> UUID | None:
    """Read what a token of ours says; it is not signed, so it is looked at like any input."""
    match position:
        case None:
            return None
        case [str(text)] if (found := find_id(text)) is not None:
            return found
    raise pages.unknown_token()
