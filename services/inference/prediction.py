"""The use case of both front doors: resolve, read the inputs, run, and leave an event behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from penstock.ids import uuid7
from services.common.errors import DomainError
from services.inference.confidence import Confidence
from services.inference.engine.engine import Engine, InferenceRequest
from services.inference.events.events import Event, EventLog
from services.inference.following.catalog import Catalog
from services.inference.models import Caller, ResolvedVersion, Signature
from services.inference.tensors import Tensor

ReadInputs = Callable[[Signature], dict[str, Tensor]]
OnCancel = Callable[[Callable[[], None]], bool]
MAX_CONFIDENCES = 10_000


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer. `confidences`: one a row, where the model is a classifier."""

    inference_id: str
    version: ResolvedVersion
    outputs: dict[str, Tensor]
    confidences: list[float]
    latency_ms: float


class Predictor:
    """Answers predictions and records each, the failed ones too."""

    def __init__(self, catalog: Catalog, engine: Engine, events: EventLog) -> None:
        self._catalog = catalog
        self._engine = engine
        self._events = events
        self._confidences: dict[str, Confidence] = {}

    def predict(
        self,
        model: str,
        version: str,
        read_inputs: ReadInputs,
        caller: Caller,
        *,
        outputs: tuple[str, ...] = (),
        timeout_s: float | None = None,
        on_cancel: OnCancel,
    ) -> Prediction:
        """Run one request.

        Args:
            model: its name.
            version: a selector; '' is PRODUCTION, else the latest.
            read_inputs: reads the tensors once the signature is known.
            caller: goes into the event.
            outputs: the outputs wanted; none named: all.
            timeout_s: the time left, from now.
            on_cancel: takes a callback for when the client goes away; says False where it has gone already.

        Raises:
            DomainError: see `Engine.submit` and `Catalog.resolve`.
        """
        began_ns = time.perf_counter_ns()
        event = Event(uuid7(), model, caller)
        try:
            resolved = self._catalog.resolve(model, version)
            event.resolved = resolved
            event.inputs = inputs = read_inputs(resolved.signature)
            deadline_ns = 0 if timeout_s is None else time.monotonic_ns() + int(timeout_s * 1e9)
            request = InferenceRequest(
                model, version, inputs, outputs=outputs, deadline_ns=deadline_ns, resolved=resolved
            )
            if not on_cancel(request.cancel):
                request.cancel()
            answer = self._engine.infer(request)
            if answer.error is not None:
                raise answer.error
            confidences = (self._confidences.get(resolved.key) or self._confidence(resolved)).read(answer.outputs)
        except Exception as error:
            event.error_code = error.reason if isinstance(error, DomainError) else "INTERNAL"
            event.latency_ms = (time.perf_counter_ns() - began_ns) / 1e6
            self._events.record(event)
            raise
        event.outputs = answer.outputs
        event.row_count = answer.row_count
        event.confidences = confidences
        event.latency_ms = latency_ms = (time.perf_counter_ns() - began_ns) / 1e6
        self._events.record(event)
        return Prediction(event.inference_id, resolved, answer.outputs, confidences, latency_ms)

    def _confidence(self, version: ResolvedVersion) -> Confidence:
        if len(self._confidences) >= MAX_CONFIDENCES:
            self._confidences.clear()  # versions come and go; what is still asked for is back with its next request
        return self._confidences.setdefault(version.key, Confidence(version.signature))
