"""Which traces are recorded: as their callers chose, or a share by the trace's id."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState, get_current_span
from opentelemetry.util.types import Attributes

LOW_BITS = 2**64


class ShareSampler(Sampler):
    """Records a share that may change, and nothing at 0; a trace that was begun elsewhere as it was begun."""

    def __init__(self, share: Callable[[], float]) -> None:
        self._share = share

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,  # noqa: ARG002 - the base class gives the arguments
        kind: SpanKind | None = None,  # noqa: ARG002
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,  # noqa: ARG002
        trace_state: TraceState | None = None,  # noqa: ARG002
    ) -> SamplingResult:
        """Decide; by the id, so that all services that sample a share decide alike."""
        share = self._share()
        parent = get_current_span(parent_context).get_span_context()
        begins_here = not parent.is_valid
        chosen = trace_id % LOW_BITS < share * LOW_BITS if begins_here else parent.trace_flags.sampled and share > 0
        decision = Decision.RECORD_AND_SAMPLE if chosen else Decision.DROP
        return SamplingResult(decision, attributes if chosen else None, None if begins_here else parent.trace_state)

    def get_description(self) -> str:
        """Name it."""
        return "share"
