"""Joins requests into one run, row upon row, and gives each its own rows of the answer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from services.inference.engine.requests import InferenceRequest, Ticket
from services.inference.models import ModelFailed
from services.inference.runtimes.runtime import Run, Session
from services.inference.tensors import Tensor


class WrongRowCount(ModelFailed):
    """The model gave another number of rows than it was sent, so nobody can tell whose is which."""

    default_reason = "WRONG_ROW_COUNT"


def run_alone(ticket: Ticket, session: Session, *, has_rows: bool) -> None:
    """Run one request on its own arrays, no copy; with `has_rows`, raises WrongRowCount where others come back."""
    request, answer = ticket.request, ticket.answer
    timings = answer.timings
    began_ns = time.monotonic_ns()
    prepare = getattr(session, "prepare", None)
    if prepare is None:
        outputs = session.run(request.inputs, request.outputs)
    else:
        outputs = _run_for(request, prepare(request.inputs))
    ran_ns = time.monotonic_ns()
    if has_rows:
        _check_rows(outputs, ticket.rows)
    answer.outputs = outputs
    answer.row_count = ticket.rows
    timings.queue_ns = began_ns - ticket.began_ns - timings.compute_input_ns
    timings.compute_infer_ns = ran_ns - began_ns
    timings.compute_output_ns = time.monotonic_ns() - ran_ns


def _run_for(request: InferenceRequest, run: Run) -> dict[str, Tensor]:
    """Run for as long as somebody waits; see `CancellableSession`."""
    request.on_cancel = run.cancel
    try:
        if request.cancelled:
            run.cancel()
        return run()
    finally:
        request.on_cancel = None


def run_joined(tickets: Sequence[Ticket], session: Session) -> None:
    """Run several of one join key as one: their rows are copied together once, and each is given views of the answer.

    Raises what the run raises, and WrongRowCount; then nobody has been given anything.
    """
    rows = sum(ticket.rows for ticket in tickets)
    first = tickets[0].request
    began_ns = time.monotonic_ns()
    inputs = {name: np.concatenate([ticket.request.inputs[name] for ticket in tickets]) for name in first.inputs}
    joined_ns = time.monotonic_ns()
    outputs = session.run(inputs, first.outputs)
    ran_ns = time.monotonic_ns()
    _check_rows(outputs, rows)
    start = 0
    for ticket in tickets:
        answer = ticket.answer
        end = start + ticket.rows
        answer.outputs = {name: tensor[start:end] for name, tensor in outputs.items()}
        answer.row_count = ticket.rows
        start = end
    split_ns = time.monotonic_ns()
    for ticket in tickets:
        timings = ticket.answer.timings
        timings.queue_ns = began_ns - ticket.began_ns - timings.compute_input_ns
        timings.compute_input_ns += joined_ns - began_ns
        timings.compute_infer_ns = ran_ns - joined_ns
        timings.compute_output_ns = split_ns - ran_ns


def _check_rows(outputs: Mapping[str, Tensor], rows: int) -> None:
    for name, tensor in outputs.items():
        shape = tensor.shape
        if not shape or shape[0] != rows:
            raise WrongRowCount(f"the model was sent {rows} rows and gave {name!r} of shape {list(shape)}")
