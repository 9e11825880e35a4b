"""Retraining requests: asked for by people and by what was found, decided by people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from penstock.ids import uuid7
from services.common import pages
from services.common.errors import FailedPrecondition, NotFound
from services.common.keys import caller
from services.monitoring.alerts.models import Alert
from services.monitoring.alerts.store.rules import RuleTable
from services.monitoring.configuration.configurations import Configurations
from services.monitoring.drift.models import DriftCheck
from services.monitoring.feature_views.subjects import view_of
from services.monitoring.ids import find_id
from services.monitoring.models import Retention
from services.monitoring.retraining import causes, safety
from services.monitoring.retraining.models import (
    MONITORING,
    Cause,
    Draft,
    Past,
    Reason,
    Request,
    RequestFilters,
    State,
    Step,
)
from services.monitoring.retraining.states import MOVES, check_move
from services.monitoring.retraining.store.causes import CauseStore, Transaction
from services.monitoring.retraining.store.labels import LabelStore
from services.monitoring.retraining.store.related import RelatedRequests
from services.monitoring.retraining.store.requests import RequestStore

Clock = Callable[[], datetime]
DEFAULT_PAGE_SIZE = 100
MOST_COUNTED = 100_000
"""Labelled rows are counted up to here, or to `min_labels` where that is more."""
Counted = dict[tuple[str, datetime | None, int], int]
"""Labelled rows of a model since a time, as far as `min_labels` asks: a turn has one, so that they are counted once."""


class RetrainingRequests:
    """See the module. `wake` has what was decided looked after at once; `live` names a model's version in PRODUCTION,
    '' where none is.
    """

    def __init__(
        self,
        requests: RequestStore,
        related: RelatedRequests,
        queue: CauseStore,
        labels: LabelStore,
        configurations: Configurations,
        retention: Retention,
        clock: Clock,
        wake: Callable[[], None],
        live: Callable[[str], str] = lambda _model: "",
    ) -> None:
        self._store = requests
        self._related = related
        self._causes = queue
        self._labels = labels
        self._configurations = configurations
        self._retention = retention
        self._clock = clock
        self._wake = wake
        self._live = live

    def create(self, draft: Draft) -> Request:
        """Ask for a retraining by hand.

        Raises:
            FailedPrecondition: the safety rules are against it (see `safety`), or the request_id came with another
                request (REQUEST_ID_REUSED).
        """
        first = self._first(draft)
        if first is not None:
            return first
        now, past = self._clock(), self._store.past(draft.model)
        version = draft.version or self.current_version(draft.model)
        configuration = self._configurations.effective(draft.model, version).retraining
        safety.check_open(configuration, past, draft.model)
        if not draft.force:
            safety.check_interval(configuration, past, now)
        label_count = self._count_labels(draft.model, past, now, enough=configuration.min_labels)
        if not draft.force:
            safety.check_labels(configuration, label_count)
        request = Request(
            id=UUID(uuid7()),
            model=draft.model,
            version=version,
            state=State.PENDING,
            reason=Reason.MANUAL,
            details={"note": draft.note, "forced": draft.force},
            alert_id=None,
            check_id=None,
            label_count=label_count,
            requested_by=caller().name,
            create_time=now,
            expire_time=now + configuration.expiry,
        )
        try:
            self._store.add(request, request_id=draft.request_id, body_sha256=draft.body_sha256, note=draft.note)
        except FailedPrecondition:
            first = self._first(draft)  # the same request may have come twice at once
            if first is None:
                raise
            return first
        return request

    def _first(self, draft: Draft) -> Request | None:
        if not draft.request_id:
            return None
        return self._store.find_first(caller().name, draft.request_id, draft.body_sha256)

    def get(self, retraining_id: UUID) -> tuple[Request, Sequence[Step]]:
        """Give a request and its history; raises NotFound (REQUEST_NOT_FOUND)."""
        found = self._store.find(retraining_id)
        if found is None:
            raise _unknown(retraining_id)
        return found, self._store.history(retraining_id)

    def page(self, filters: RequestFilters, *, size: int, token: str) -> tuple[Sequence[Request], str]:
        """List requests, the newest first, and the token of the next page; empty on the last.

        Raises:
            InvalidArgument: the size or the token.
        """
        size = pages.page_size(size, default=DEFAULT_PAGE_SIZE)
        bound_to = {"model": filters.model, "states": sorted(state.name for state in filters.states)}
        found = self._store.page(filters, before=_position(pages.decode(token, bound_to)), limit=size + 1)
        if len(found) <= size:
            return found, ""
        return found[:size], pages.encode([str(found[size - 1].id)], bound_to)

    def approve(self, retraining_id: UUID, note: str) -> Request:
        """Have the model trained: the trainer is asked at once, where there is one.

        Raises:
            NotFound: REQUEST_NOT_FOUND.
            FailedPrecondition: it is not PENDING, or has just expired (WRONG_STATE).
        """
        approved = self._decide(retraining_id, State.APPROVED, note)
        self._wake()
        return approved

    def reject(self, retraining_id: UUID, note: str) -> Request:
        """Decline, or withdraw what was approved while no trainer has it; raises as `approve`."""
        return self._decide(retraining_id, State.REJECTED, note)

    def _decide(self, retraining_id: UUID, state: State, note: str) -> Request:
        now = self._clock()
        with self._store.changing(retraining_id) as change:
            if change is None:
                raise _unknown(retraining_id)
            standing = change.request
            is_over = State.EXPIRED in MOVES[standing.state] and standing.expire_time <= now
            check_move(State.EXPIRED if is_over else standing.state, state)
            decided = replace(
                standing, state=state, decided_by=caller().name, decide_time=now, decision_note=note, message=""
            )
            if state is State.APPROVED:
                expiry = self._configurations.effective(standing.model, standing.version).retraining.approval_expiry
                decided = replace(decided, expire_time=now + expiry, message="It waits for the trainer.")
            return change.write(decided, Step(now, state, decided.decided_by, note))

    def consider_check(self, connection: Transaction, check: DriftCheck) -> None:
        """Raise a request for a check by schedule, results and all, where it found drift that is large enough.

        Both are kept in the one transaction that is given, so that neither is without the other. Whether a request
        comes of it is decided within seconds, by the safety rules, and again for as long as the drift stands; so it is
        for alerts.
        """
        if view_of(check.model):  # what is trained is a model
            return
        cause = causes.of_check(check, self._configurations.effective(check.model, check.version))
        if cause is not None:
            self._causes.add(cause, connection)

    def consider_alert(self, connection: Transaction, alert: Alert) -> None:
        """Raise a request for an alert that has begun to fire, where it is one for drift, errors or accuracy.

        Both are kept in the one transaction that is given, so that neither is without the other.
        """
        rule = RuleTable(connection).find(alert.rule_id)
        if rule is None or view_of(alert.target.model):
            return
        effective = self._configurations.effective(alert.target.model, alert.target.version)
        cause = causes.of_alert(alert, rule, effective)
        if cause is not None:
            self._causes.add(cause, connection)

    def raise_for(self, cause: Cause, counted: Counted) -> Request:
        """Ask for a retraining on behalf of the service; labels that were `counted` are not counted again.

        Raises:
            FailedPrecondition: the safety rules are against it.
        """
        now, past = self._clock(), self._store.past(cause.model)
        configuration = self._configurations.effective(cause.model, cause.version).retraining
        standing = past.open_request
        if standing is not None and _is_for(standing, cause):
            self._join(standing, cause)
        safety.check_open(configuration, past, cause.model)
        safety.check_interval(configuration, past, now)
        safety.check_declined(configuration, past, now)
        key = (cause.model, past.train_time, configuration.min_labels)
        if key not in counted:
            counted[key] = self._count_labels(cause.model, past, now, enough=configuration.min_labels)
        label_count = counted[key]
        safety.check_labels(configuration, label_count)
        request = Request(
            id=UUID(uuid7()),
            model=cause.model,
            version=cause.version,
            state=State.PENDING,
            reason=cause.reason,
            details=cause.details,
            alert_id=cause.alert_id,
            check_id=cause.check_id,
            label_count=label_count,
            requested_by=MONITORING,
            create_time=now,
            expire_time=now + configuration.expiry,
        )
        self._store.add(request)
        return request

    def join(self, cause: Cause) -> None:
        """Have the request that a cause's check has raised answer its alert too, or else the one that is open for it.

        An alert may have waited before it fired, and be about a later check by then.
        """
        found = self._related.of_check(cause.check_id, limit=1) if cause.check_id else []
        standing = self._store.past(cause.model).open_request
        if not found and standing is not None and _is_for(standing, cause):
            found = [standing]
        for request in found:
            self._join(request, cause)

    def last_version(self, model: str) -> str:
        """Name the version that answered last; empty: none has."""
        return self._labels.last_version(model)

    def current_version(self, model: str) -> str:
        """Name the version that a retraining of the model as a whole is for: the live one, and only where none is known
        the one that answered last, which may be a canary, or one that was asked for by name; empty: none has.
        """
        return self._live(model) or self.last_version(model)

    def past(self, model: str) -> Past:
        """Say what a model's retrainings so far mean for another."""
        return self._store.past(model)

    def _join(self, request: Request, cause: Cause) -> None:
        """Have a request name the alert and the check that would have raised it too, where it names none."""
        with self._store.changing(request.id) as change:
            if change is not None:
                alert_id = change.request.alert_id or (cause.alert_id if cause.raises else None)
                check_id = change.request.check_id or cause.check_id
                joined = replace(change.request, alert_id=alert_id, check_id=check_id)
                if joined != change.request:
                    change.write(joined)
                change.link(cause.alert_id)

    def _count_labels(self, model: str, past: Past, now: datetime, *, enough: int) -> int:
        kept_since = self._retention.oldest(now)
        limit = max(MOST_COUNTED, enough)
        return self._labels.count(model, since=past.train_time, first_time=kept_since, now=now, limit=limit)


def _is_for(request: Request, cause: Cause) -> bool:
    return (request.version, request.reason) == (cause.version, cause.reason)


def _unknown(retraining_id: UUID) -> NotFound:
    return NotFound(
        f"retraining request {retraining_id} is not known; `penstock retraining list` shows those that are",
        reason="REQUEST_NOT_FOUND",
    )


def _position(position: list[Any] | None) -> UUID | None:
    """Read what a token of ours says; it is not signed, so it is looked at like any input."""
    match position:
        case None:
            return None
        case [str(text)] if (found := find_id(text)) is not None:
            return found
    raise pages.unknown_token()
