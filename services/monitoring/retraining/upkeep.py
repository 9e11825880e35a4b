"""What retraining does by itself: requests expire, and causes are weighed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import structlog

from services.common.errors import DeadlineExceeded, FailedPrecondition
from services.monitoring.chores import Turn
from services.monitoring.retraining.models import Cause, State, Step
from services.monitoring.retraining.requests import RetrainingRequests
from services.monitoring.retraining.store.causes import CauseStore
from services.monitoring.retraining.store.requests import RequestStore

_log = structlog.get_logger(__name__)
Clock = Callable[[], datetime]
_CHUNK = 100


class Upkeep:
    """See the module. Safe to run twice and at once: the table of moves and the one open request see to it."""

    def __init__(self, requests: RetrainingRequests, store: RequestStore, queue: CauseStore, clock: Clock) -> None:
        self._requests = requests
        self._store = store
        self._queue = queue
        self._clock = clock

    def work(self, turn: Turn) -> None:
        """Do what there is to do now: the chore."""
        self._expire(turn)
        while causes := self._queue.first(limit=_CHUNK):
            for cause in causes:
                if not turn.renew():
                    return
                self._weigh(cause)

    def _expire(self, turn: Turn) -> None:
        after, now = None, self._clock()
        while chunk := self._store.standing(State.PENDING, after=after, limit=_CHUNK):
            for request in chunk:
                if not turn.renew():
                    return
                if request.expire_time > now:
                    continue
                with self._store.changing(request.id) as change:
                    if change is not None and change.request.state is State.PENDING:
                        note = "Nobody decided in time."
                        expired = replace(change.request, state=State.EXPIRED, message=note)
                        change.write(expired, Step(now, State.EXPIRED, note=note))
            after = chunk[-1].id

    def _weigh(self, cause: Cause) -> None:
        """Raise a request or not, and have done with the cause: what goes on comes again with the next check."""
        if not cause.raises:
            self._requests.join(cause)
            self._queue.drop(cause)
            return
        told = {"model": cause.model, "version": cause.version, "reason": cause.reason.name}
        try:
            request = self._requests.raise_for(cause)
        except (FailedPrecondition, DeadlineExceeded) as why:
            # Neither may the one that takes too long to count keep the others from their turn.
            _log.info("no retraining asked for", **told, why=why.reason, message=why.message)
        else:
            _log.info("retraining asked for", **told, retraining_id=str(request.id))
        self._queue.drop(cause)
