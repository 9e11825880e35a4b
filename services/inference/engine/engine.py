"""The engine: whole tensors in, whole tensors out, and one answer for each request whatever happens.

    resolve → check inputs → session → run → answer

Front doors, streams and jobs all call `submit(request, done)`. Today every request runs at once on its caller's
thread; batching will change when and on which thread `done` is called, and nothing else that a caller sees.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from services.common.errors import Cancelled, DeadlineExceeded, ResourceExhausted
from services.inference.engine.signature import SignatureCheck
from services.inference.engine.statistics import Timings, VersionStatistics
from services.inference.models import ResolvedVersion
from services.inference.runtimes.runtime import Session
from services.inference.sessions.cached_session import CachedSession
from services.inference.tensors import Tensor

log = logging.getLogger(__name__)


class Resolver(Protocol):
    """Knows which version a name means right now."""

    def resolve(self, model: str, version: str) -> ResolvedVersion:
        """Find the version, where '' means the default one; raises NotFound. Called for every request."""
        ...


class Sessions(Protocol):
    """Has the models in memory; see `SessionCache`."""

    def acquire(self, version: ResolvedVersion, timeout_s: float) -> CachedSession:
        """Return the version's session, loading it if need be."""
        ...

    def release(self, entry: CachedSession) -> None:
        """Give a session back."""
        ...


class InferenceRequest:
    """One request: `inputs` by name, the `outputs` wanted (none named: all).

    `deadline_ns` is on the monotonic clock, 0 for none. A front door that has resolved the version already (to read
    features by name, say) hands it over as `resolved`. `priority`: 1 goes first, 0 is the version's default level.
    `skip_cache`: neither look into the response cache nor keep the answer there.
    """

    __slots__ = (
        "cancelled",
        "deadline_ns",
        "inputs",
        "model",
        "outputs",
        "priority",
        "resolved",
        "skip_cache",
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
        resolved: ResolvedVersion | None = None,
        priority: int = 0,
        skip_cache: bool = False,
    ) -> None:
        self.model = model
        self.version = version
        self.inputs = inputs
        self.outputs = outputs
        self.deadline_ns = deadline_ns
        self.resolved = resolved
        self.priority = priority
        self.skip_cache = skip_cache
        self.cancelled = False

    def cancel(self) -> None:
        """Say that nobody waits any more: work that has not begun is dropped. Safe from any thread."""
        self.cancelled = True

    def remaining_s(self, now_ns: int, at_most_s: float) -> float:
        """The time left of a request with a deadline; raises Cancelled, or DeadlineExceeded where there is none."""
        if self.cancelled:
            raise Cancelled("the caller went away; the request was dropped")
        if now_ns >= self.deadline_ns:
            raise DeadlineExceeded("Request timeout expired", reason="REQUEST_TIMEOUT")
        return min(at_most_s, (self.deadline_ns - now_ns) / 1e9)


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


class Tracked:
    """Work that `Engine.track` holds a session for; whoever does it may say how many rows it was."""

    __slots__ = ("row_count", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.row_count = 1


class _Lane:
    """One version's way through the engine. The versions of a model share its lock and its number in flight."""

    __slots__ = ("check", "model", "statistics")

    def __init__(self, version: ResolvedVersion, model: _Model) -> None:
        self.check = SignatureCheck(version.signature)
        self.statistics = VersionStatistics(version)
        self.model = model


class _Model:
    __slots__ = ("in_flight", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.in_flight = 0


class Engine:
    """Runs requests. `max_in_flight` bounds one model's share of the pool, so that no model takes it all;
    `load_wait_s` bounds how long a request without a deadline waits for its model to be loaded.
    """

    def __init__(
        self, resolver: Resolver, sessions: Sessions, *, max_in_flight: int = 64, load_wait_s: float = 60.0
    ) -> None:
        self._resolver = resolver
        self._sessions = sessions
        self._max_in_flight = max_in_flight
        self._load_wait_s = load_wait_s
        self._lanes: dict[str, _Lane] = {}
        self._keys: dict[tuple[str, str], str] = {}
        self._models: dict[str, _Model] = {}
        self._adding = threading.Lock()

    def submit(self, request: InferenceRequest, done: Callable[[InferenceAnswer], None]) -> None:
        """Run the request, and call `done` exactly once with its answer. Never raises what the request caused.

        `answer.error` is a DomainError: what the resolver and the session cache raise, InvalidArgument from the
        signature check, ResourceExhausted(QUEUE_FULL), DeadlineExceeded, Cancelled, ModelFailed; anything else is a
        defect, handed on for the front door to log. `done` runs on whichever thread has the answer: it must be
        quick and must not raise.
        """
        began_ns = time.monotonic_ns()
        answer = InferenceAnswer()
        lane: _Lane | None = None
        entered = False
        try:
            version = request.resolved or self._resolver.resolve(request.model, request.version)
            answer.version = version
            lane = self._lanes.get(version.key) or self._add_lane(version)
            self._enter(lane, version)
            entered = True
            self._run(request, lane, version, answer, began_ns)
        except Exception as error:  # noqa: BLE001 - whoever asked must hear of it, whatever it is
            answer.error = error
        finally:
            answer.timings.total_ns = time.monotonic_ns() - began_ns
            if lane is not None:
                self._count(answer, lane, entered=entered)
            try:
                done(answer)
            except Exception:
                # It was called; what it did with the answer is its own affair, and no neighbour's.
                log.exception("a request's answer could not be handed over")

    def infer(self, request: InferenceRequest) -> InferenceAnswer:
        """Submit, and wait for the answer: what a blocking handler calls."""
        answers: list[InferenceAnswer] = []
        self.submit(request, answers.append)
        return answers[0]

    @contextmanager
    def track(self, version: ResolvedVersion, *, deadline_ns: int = 0) -> Iterator[Tracked]:
        """Hold a version's session for work that is not one run, such as a stream of tokens.

        The work takes a place in flight and is counted as one request once the block ends: as a success, or as what
        it raised. Leaving a generator half-way (its `close`) counts as cancelled. Within the block only the model's
        own time should pass: what waits for a slow reader holds the place and the session as well.

        Raises ResourceExhausted(QUEUE_FULL) and what the session cache raises; a deadline on the monotonic clock
        bounds the wait for the load alone.
        """
        began_ns = time.monotonic_ns()
        request = InferenceRequest(version.model, version.version, {}, deadline_ns=deadline_ns)
        answer = InferenceAnswer()
        lane = self._lanes.get(version.key) or self._add_lane(version)
        entered = False
        try:
            self._enter(lane, version)
            entered = True
            wait_s = request.remaining_s(began_ns, self._load_wait_s) if deadline_ns else self._load_wait_s
            entry = self._sessions.acquire(version, wait_s)
            try:
                run_ns = time.monotonic_ns()
                answer.timings.queue_ns = run_ns - began_ns
                tracked = Tracked(entry.session)
                yield tracked
                answer.row_count = tracked.row_count
                answer.timings.compute_infer_ns = time.monotonic_ns() - run_ns
            finally:
                self._sessions.release(entry)
        except GeneratorExit:
            answer.error = Cancelled("the caller went away; the stream was ended")
            raise
        except Exception as error:
            answer.error = error
            raise
        finally:
            answer.timings.total_ns = time.monotonic_ns() - began_ns
            self._count(answer, lane, entered=entered)

    def statistics(self) -> list[VersionStatistics]:
        """Copy the statistics of every version that was ever asked for, in the order of their first requests."""
        copies = []
        for lane in list(self._lanes.values()):
            with lane.model.lock:
                copies.append(lane.statistics.snapshot())
        return copies

    def _add_lane(self, version: ResolvedVersion) -> _Lane:
        with self._adding:
            model = self._models.setdefault(version.model, _Model())
            lane = self._lanes.setdefault(version.key, _Lane(version, model))
            before = self._keys.get((version.model, version.version))
            if before is not None and before != version.key:
                # Registered anew with other bytes: whoever counts by name must meet one of the two only.
                self._lanes.pop(before, None)
            self._keys[version.model, version.version] = version.key
            return lane

    def _enter(self, lane: _Lane, version: ResolvedVersion) -> None:
        limit = version.serving.max_in_flight or self._max_in_flight
        model = lane.model
        with model.lock:
            if model.in_flight < limit:
                model.in_flight += 1
                lane.statistics.in_flight += 1
                return
        raise ResourceExhausted(
            f"Exceeds maximum queue size: {limit} requests for {version.model} are in flight; try again later",
            reason="QUEUE_FULL",
        )

    def _run(
        self,
        request: InferenceRequest,
        lane: _Lane,
        version: ResolvedVersion,
        answer: InferenceAnswer,
        began_ns: int,
    ) -> None:
        """Check, get the session, run. The check comes first: a bad request loads no model."""
        timings = answer.timings
        check_ns = time.monotonic_ns()
        lane.check.check(request.inputs)
        if request.outputs:
            lane.check.check_outputs(request.outputs)
        checked_ns = time.monotonic_ns()
        wait_s = self._load_wait_s
        if request.deadline_ns or request.cancelled:
            wait_s = request.remaining_s(checked_ns, wait_s)
        entry = self._sessions.acquire(version, wait_s)
        try:
            if request.cancelled:  # while the model was being loaded
                request.remaining_s(checked_ns, wait_s)
            run_ns = time.monotonic_ns()
            answer.outputs = entry.session.run(request.inputs, request.outputs)
            ran_ns = time.monotonic_ns()
        finally:
            self._sessions.release(entry)
        answer.row_count = lane.check.row_count(request.inputs)
        timings.compute_input_ns = checked_ns - check_ns
        timings.queue_ns = run_ns - began_ns - timings.compute_input_ns
        timings.compute_infer_ns = ran_ns - run_ns
        timings.compute_output_ns = time.monotonic_ns() - ran_ns

    def _count(self, answer: InferenceAnswer, lane: _Lane, *, entered: bool) -> None:
        """Count before answering: a caller that has its answer finds it in the statistics."""
        with lane.model.lock:
            if entered:
                lane.model.in_flight -= 1
                lane.statistics.in_flight -= 1
            if answer.error is None:
                lane.statistics.count_success(answer.row_count, answer.timings)
            else:
                lane.statistics.count_failure(answer.error, answer.timings.total_ns)
