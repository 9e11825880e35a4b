"""What retraining does by itself: requests expire, and new causes are weighed; `Watch` weighs those that stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import structlog

from services.common.errors import DomainError, Unavailable
from services.monitoring.chores import Turn
from services.monitoring.retraining.models import Cause, State, Step
from services.monitoring.retraining.requests import Counted, RetrainingRequests
from services.monitoring.retraining.store.causes import CauseStore
from services.monitoring.retraining.store.requests import RequestStore

_log = structlog.get_logger(__name__)
Clock = Callable[[], datetime]
_CHUNK = 100
_EXPIRING = {State.PENDING: "Nobody decided in time.", State.APPROVED: "No trainer took it in time."}


class Upkeep:
    """See the module. Safe to run twice and at once: the table of moves and the one open request see to it."""

    def __init__(self, requests: RetrainingRequests, store: RequestStore, queue: CauseStore, clock: Clock) -> None:
        self._requests = requests
        self._store = store
        self._queue = queue
        self._clock = clock

    def work(self, turn: Turn) -> None:
        """Do what there is to do now: the chore."""
        for state, note in _EXPIRING.items():
            self._expire(turn, state, note)
        counted: Counted = {}
        while causes := self._queue.new(limit=_CHUNK):
            for cause in causes:
                if not turn.renew():
                    return
                self._weigh(cause, counted)
                self._queue.set_weighed(cause)
        self._queue.drop_ended(self._clock())

    def _expire(self, turn: Turn, state: State, note: str) -> None:
        after, now = None, self._clock()
        while chunk := self._store.standing(state, after=after, limit=_CHUNK):
            for request in chunk:
                if not turn.renew():
                    return
                if request.expire_time > now:
                    continue
                with self._store.changing(request.id) as change:
                    if change is not None and change.request.state is state:
                        expired = replace(change.request, state=State.EXPIRED, message=note)
                        change.write(expired, Step(now, State.EXPIRED, note=note))
            after = chunk[-1].id

    def _weigh(self, cause: Cause, counted: Counted) -> None:
        """Raise a request or not."""
        if not cause.raises:
            self._requests.join(cause)
            return
        told = {"model": cause.model, "version": cause.version, "reason": cause.reason.name}
        try:
            request = self._requests.raise_for(cause, counted)
        except Unavailable:
            raise
        except DomainError as why:
            # Nor may the one that takes too long to count keep the others from their turn.
            _log.info("no retraining asked for", **told, why=why.reason, message=why.message)
        else:
            _log.info("retraining asked for", **told, retraining_id=str(request.id))
