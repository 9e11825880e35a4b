"""What is asked of the engine, what it answers, and the ticket that a request holds while it is on its way."""

from __future__ import annotations

import enum
import logging
import threading
import time
from _thread import LockType, allocate_lock
from collections.abc import Callable, Hashable, Mapping

from services.common.errors import Cancelled, DeadlineExceeded, ResourceExhausted
from services.inference.engine.statistics import Timings
from services.inference.models import ModelFailed, ResolvedVersion
from services.inference.tensors import Tensor

log = logging.getLogger(__name__)


class InferenceRequest:
    """One request: `inputs` by name, the `outputs` wanted (none named: all).

    `deadline_ns` is on the monotonic clock, 0 for none. `timeout_ns` is how long it may wait before it runs; 0: as long
    as its version says. `priority` 1 is served first; 0, or one that the version does not have, is the version's
    default. `skip_cache`: neither look into the response cache nor keep the answer there. A front door that has
    resolved the version already (to read features by name, say) hands it over as `resolved`.
    """

    __slots__ = (
        "cancelled",
        "deadline_ns",
        "inputs",
        "model",
        "on_cancel",
        "outputs",
        "priority",
        "resolved",
        "skip_cache",
        "timeout_ns",
        "version",
    )

    def __init__(
        self,
        model: str,
        version: str,
        inputs: Mapping[str, Tensor],
        *,
        outputs: tuple[str, ...] = (),
        deadline_ns: int = 0,
        timeout_ns: int = 0,
        resolved: ResolvedVersion | None = None,
        priority: int = 0,
        skip_cache: bool = False,
    ) -> None:
        self.model = model
        self.version = version
        self.inputs = inputs
        self.outputs = outputs
        self.deadline_ns = deadline_ns
        self.timeout_ns = timeout_ns
        self.priority = priority
        self.resolved = resolved
        self.skip_cache = skip_cache
        self.cancelled = False
        self.on_cancel: Callable[[], None] | None = None
        """Set by the engine while the request waits, or runs where a run can be cancelled."""

    def cancel(self) -> None:
        """Say that nobody waits any more: work that has not begun is dropped. Safe from any thread."""
        self.cancelled = True
        on_cancel = self.on_cancel
        if on_cancel is not None:
            on_cancel()


class InferenceAnswer:
    """What became of a request: `outputs`, or an `error`. `version` is None where not even that was found.

    `cache` says what the response cache had: "HIT", "MISS", or "" where it was not asked.
    """

    __slots__ = ("cache", "error", "outputs", "row_count", "timings", "version")

    def __init__(self) -> None:
        self.cache = ""
        self.version: ResolvedVersion | None = None
        self.outputs: dict[str, Tensor] = {}
        self.error: Exception | None = None
        self.row_count = 0
        self.timings = Timings()


Done = Callable[[InferenceAnswer], None]
"""Takes an answer, on whichever thread has it."""


class State(enum.Enum):
    """Where a ticket is. It changes under its lane's lock alone."""

    NEW = enum.auto()
    WAITING = enum.auto()
    """In the queue; or a leader that waits for others to join it."""
    TAKEN = enum.auto()
    """Out of the queue: in a batch, or answered."""
    LEADS = enum.auto()
    """It is to run the next batch."""


class Ticket:
    """One request on its way through its lane. Whoever waits for it lends a thread, or hears by `done`."""

    __slots__ = (
        "answer",
        "began_ns",
        "done",
        "handed",
        "key",
        "level",
        "request",
        "rows",
        "start_by_ns",
        "state",
        "wake",
    )

    def __init__(self, request: InferenceRequest, done: Done | None, began_ns: int) -> None:
        self.request = request
        self.answer = InferenceAnswer()
        self.done = done
        self.began_ns = began_ns
        self.start_by_ns = request.deadline_ns
        self.state = State.NEW
        self.level = 0
        self.rows = 1
        self.key: Hashable = None
        """Requests of the same key can be joined; None: with no other."""
        self.handed = False
        """Leads because it was handed the lead, not because it found the model idle."""
        self.wake: LockType = allocate_lock()
        """Whoever waits acquired it once, and sleeps in acquiring it again; `release` wakes it."""

    def tell(self) -> None:
        """Hand the answer over to whoever waits for it."""
        if self.done is None:
            self.wake.release()
            return
        try:
            self.done(self.answer)
        except Exception:
            # It was called; what it did with the answer is its own affair, and no neighbour's.
            log.exception("a request's answer could not be handed over")

    def find_reason_to_drop(self, now_ns: int) -> Exception | None:
        """Cancelled, or DeadlineExceeded(REQUEST_TIMEOUT), where nobody waits for it any more; else None."""
        if self.request.cancelled:
            return cancelled_error()
        return late_error() if self.start_by_ns and now_ns >= self.start_by_ns else None

    def patience_s(self) -> float:
        """Give the time until it must have begun, as a lock takes it: -1 is for ever."""
        if not self.start_by_ns:
            return -1
        return min(max(0.0, (self.start_by_ns - time.monotonic_ns()) / 1e9), threading.TIMEOUT_MAX)

    def remaining_s(self, now_ns: int, at_most_s: float) -> float:
        """The time left to begin in; raises what `find_reason_to_drop` finds."""
        reason = self.find_reason_to_drop(now_ns)
        if reason is not None:
            raise reason
        return min(at_most_s, (self.start_by_ns - now_ns) / 1e9) if self.start_by_ns else at_most_s


def cancelled_error() -> Cancelled:
    """The answer to one whose caller went away."""
    return Cancelled("the caller went away; the request was dropped")


def late_error() -> DeadlineExceeded:
    """The answer to one that did not begin in time."""
    return DeadlineExceeded("Request timeout expired", reason="REQUEST_TIMEOUT")


def queue_full_error(sentence: str) -> ResourceExhausted:
    """The answer to one for which there is no room; Triton's clients look for its first words."""
    return ResourceExhausted(f"Exceeds maximum queue size: {sentence}", reason="QUEUE_FULL")


def as_error(raised: BaseException) -> Exception:
    """What a caller is to hear of whatever a run raised, an interpreter's exit for example."""
    if isinstance(raised, Exception):
        return raised
    return ModelFailed(f"the model ended its run with {type(raised).__name__}")
