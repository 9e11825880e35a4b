"""Where a prediction's time went, as spans of its trace: made once it is over, from what the engine measured."""

from __future__ import annotations

import time

from services.common.traces import Trace
from services.inference.engine.requests import InferenceAnswer


def record(trace: Trace, inference_id: str, answer: InferenceAnswer) -> None:
    """Record `infer`, and within it one after another `queue`, `batch` and `compute`.

    `queue` is the wait for a free and loaded session, `batch` the checks and the joining of inputs, `compute` the run
    of the model and the reading of its outputs; a run that several requests shared is in the trace of each.
    """
    timings = answer.timings
    end_ns = time.time_ns()
    at_ns = end_ns - timings.total_ns
    attributes: dict[str, str | int] = {"penstock.inference_id": inference_id, "penstock.row_count": answer.row_count}
    if answer.version is not None:
        attributes |= {"penstock.model": answer.version.model, "penstock.version": answer.version.version}
    if answer.cache:
        attributes["penstock.cache"] = answer.cache
    infer = trace.child("infer", at_ns, end_ns, attributes)
    for name, took_ns in (
        ("queue", timings.queue_ns),
        ("batch", timings.compute_input_ns),
        ("compute", timings.compute_infer_ns + timings.compute_output_ns),
    ):
        if timings.compute_infer_ns:  # what the response cache answered was never there
            infer.child(name, at_ns, at_ns + took_ns)
        at_ns += took_ns
