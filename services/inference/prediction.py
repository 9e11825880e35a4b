"""The use case of both front doors: resolve, read the inputs, run, and leave an event behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from penstock.ids import uuid7
from services.common.errors import DomainError, FailedPrecondition, InvalidArgument
from services.inference import prediction_spans
from services.inference.caching.engine import CachingEngine
from services.inference.confidence import Confidence
from services.inference.engine.engine import Engine, InferenceAnswer, InferenceRequest
from services.inference.events.events import Event, EventLog
from services.inference.following.catalog import Catalog
from services.inference.lookups.lookups import EntityInputs, FeatureLookups
from services.inference.models import Caller, Lookup, ResolvedVersion, Signature
from services.inference.tensors import Tensor

ReadInputs = Callable[[Signature], dict[str, Tensor]]
Inputs = ReadInputs | EntityInputs
"""Reads the tensors once the signature is known; or names entities, of which the rest is looked up."""
OnCancel = Callable[[Callable[[], None]], bool]
MAX_CONFIDENCES = 10_000


@dataclass(slots=True)  # not frozen, which takes three times as long to make
class Prediction:
    """The answer. `confidences`: one a row, where the model is a classifier.

    `cache` says what the response cache had: "HIT", "MISS", or "" where it was not asked; `lookup` what came from a
    feature view, if anything did.
    """

    inference_id: str
    version: ResolvedVersion
    outputs: dict[str, Tensor]
    confidences: list[float]
    latency_ms: float
    cache: str = ""
    lookup: Lookup | None = None


Outcome = Prediction | Exception
Done = Callable[[Outcome], None]


class Predictor:
    """Answers predictions and records each, the failed ones too."""

    def __init__(
        self,
        catalog: Catalog,
        engine: Engine | CachingEngine,
        events: EventLog,
        lookups: FeatureLookups | None = None,
    ) -> None:
        """`lookups` fill the inputs of requests that name entities; None where there are no such requests."""
        self._catalog = catalog
        self._lookups = lookups
        self._engine = engine
        self._events = events
        self._confidences: dict[str, Confidence] = {}

    def predict(
        self,
        model: str,
        version: str,
        read_inputs: Inputs,
        caller: Caller,
        *,
        outputs: tuple[str, ...] = (),
        timeout_s: float | None = None,
        queue_timeout_s: float = 0.0,
        priority: int = 0,
        skip_cache: bool = False,
        any_priority: bool = False,
        on_cancel: OnCancel,
    ) -> Prediction:
        """Run one request on this thread, or on another's that runs it together with theirs.

        Args:
            model: its name.
            version: a selector; '' is PRODUCTION, else the latest.
            read_inputs: reads the tensors once the signature is known, or names entities.
            caller: goes into the event.
            outputs: the outputs wanted; none named: all.
            timeout_s: the time left, from now; None: for as long as it takes.
            queue_timeout_s: how long the request may wait before it runs; 0: as long as its version says.
            priority: 1 goes first while several wait; 0: the version's default level.
            any_priority: a level that the version does not have is its default one, as with Triton, and no error.
            skip_cache: neither look into the response cache nor keep the answer there.
            on_cancel: takes a callback for when the client goes away; says False where it has gone already.

        Raises:
            DomainError: see `Engine.submit`, `Catalog.resolve` and `FeatureLookups.fill`.
        """
        attempt = _Attempt(model, caller)
        try:
            request = self._request(
                attempt, version, read_inputs, outputs, timeout_s, queue_timeout_s, priority, skip_cache, any_priority
            )
            if not on_cancel(request.cancel):
                request.cancel()
            answer = self._engine.infer(request)
            if answer.error is not None:
                raise answer.error
            return self._answered(attempt, answer)
        except Exception as error:
            self._failed(attempt, error)
            raise

    def submit(
        self,
        model: str,
        version: str,
        read_inputs: Inputs,
        caller: Caller,
        done: Done,
        *,
        outputs: tuple[str, ...] = (),
        timeout_s: float | None = None,
        queue_timeout_s: float = 0.0,
        priority: int = 0,
        skip_cache: bool = False,
        any_priority: bool = False,
    ) -> Callable[[], None]:
        """Run one request without waiting for it; see `predict` for the arguments.

        `done` is called once, with the prediction or with what `predict` would raise: here where the request is
        refused at once, else on whichever thread has the answer. It must be quick and must not raise.

        Returns:
            What to call when nobody wants the answer any more: a request that has not begun is dropped.
        """
        attempt = _Attempt(model, caller)
        try:
            request = self._request(
                attempt, version, read_inputs, outputs, timeout_s, queue_timeout_s, priority, skip_cache, any_priority
            )
        except Exception as error:  # noqa: BLE001 - whoever asked must hear of it, whatever it is
            self._failed(attempt, error)
            done(error)
            return _nothing
        self._engine.submit(request, partial(self._hand_over, attempt, done))
        return request.cancel

    def _request(
        self,
        attempt: _Attempt,
        version: str,
        read_inputs: Inputs,
        outputs: tuple[str, ...],
        timeout_s: float | None,
        queue_timeout_s: float,
        priority: int,
        skip_cache: bool,
        any_priority: bool,
    ) -> InferenceRequest:
        event = attempt.event
        deadline_ns = 0 if timeout_s is None else time.monotonic_ns() + int(timeout_s * 1e9)
        attempt.resolved = event.resolved = resolved = self._catalog.resolve(event.model, version)
        if priority > 1 and not any_priority:
            _check_priority(priority, resolved)
        if isinstance(read_inputs, EntityInputs):
            inputs = self._filled(event, resolved, read_inputs, timeout_s)
        else:
            inputs = read_inputs(resolved.signature)
        event.inputs = inputs
        return InferenceRequest(
            event.model,
            version,
            inputs,
            outputs=outputs,
            deadline_ns=deadline_ns,
            timeout_ns=int(queue_timeout_s * 1e9),
            resolved=resolved,
            priority=priority,
            skip_cache=skip_cache,
        )

    def _filled(
        self, event: Event, version: ResolvedVersion, asked: EntityInputs, left_s: float | None
    ) -> dict[str, Tensor]:
        if self._lookups is None:
            raise FailedPrecondition("entities are not looked up here; send all inputs", reason="NO_FEATURE_VIEW")
        inputs, event.lookup = self._lookups.fill(version, asked, left_s)
        return inputs

    def _hand_over(self, attempt: _Attempt, done: Done, answer: InferenceAnswer) -> None:
        outcome: Outcome
        try:
            if answer.error is not None:
                raise answer.error
            outcome = self._answered(attempt, answer)
        except Exception as error:  # noqa: BLE001 - as in submit
            self._failed(attempt, error)
            outcome = error
        done(outcome)

    def _answered(self, attempt: _Attempt, answer: InferenceAnswer) -> Prediction:
        event = attempt.event
        resolved = attempt.resolved
        confidence = self._confidences.get(resolved.key) or self._confidence(resolved)
        event.confidences = confidences = confidence.read(answer.outputs)
        event.outputs = answer.outputs
        event.row_count = answer.row_count
        event.latency_ms = latency_ms = (time.perf_counter_ns() - attempt.began_ns) / 1e6
        if event.trace.recorded:
            prediction_spans.record(event.trace, event.inference_id, answer)
        self._events.record(event)
        return Prediction(
            event.inference_id, resolved, answer.outputs, confidences, latency_ms, answer.cache, event.lookup
        )

    def _failed(self, attempt: _Attempt, error: Exception) -> None:
        event = attempt.event
        event.error_code = error.reason if isinstance(error, DomainError) else "INTERNAL"
        event.latency_ms = (time.perf_counter_ns() - attempt.began_ns) / 1e6
        self._events.record(event)

    def _confidence(self, version: ResolvedVersion) -> Confidence:
        if len(self._confidences) >= MAX_CONFIDENCES:
            self._confidences.clear()  # versions come and go; what is still asked for is back with its next request
        return self._confidences.setdefault(version.key, Confidence(version.signature))


class _Attempt:
    """A prediction under way: its event, when it began, and, once that is known, which version answers."""

    __slots__ = ("began_ns", "event", "resolved")
    resolved: ResolvedVersion

    def __init__(self, model: str, caller: Caller) -> None:
        self.began_ns = time.perf_counter_ns()
        self.event = Event(uuid7(), model, caller)


def _check_priority(priority: int, version: ResolvedVersion) -> None:
    levels = max(1, version.serving.priority_levels)
    if priority > levels:
        sentence = f"{priority} came; {version.model} {version.version} has {levels}: send 1 to {levels}, or 0"
        raise InvalidArgument.field("priority", sentence, reason="INVALID_FIELD")


def _nothing() -> None:
    """Cancel what is over."""
