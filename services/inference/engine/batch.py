"""Joins requests into one run, row upon row, and gives each its own rows of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from services.inference.engine.requests import Ticket
from services.inference.models import ModelFailed
from services.inference.tensors import Tensor


class WrongRowCount(ModelFailed):
    """The model gave another number of rows than it was sent, so nobody can tell whose is which."""

    default_reason = "WRONG_ROW_COUNT"


def join(tickets: Sequence[Ticket]) -> dict[str, Tensor]:
    """Copy the rows of all together, once, in the order of the tickets; their join keys are equal."""
    return {
        name: np.concatenate([ticket.request.inputs[name] for ticket in tickets]) for name in tickets[0].request.inputs
    }


def split(tickets: Sequence[Ticket], outputs: Mapping[str, Tensor]) -> None:
    """Give each its rows, as views of the joined answer: no copy."""
    start = 0
    for ticket in tickets:
        end = start + ticket.rows
        ticket.answer.outputs = {name: tensor[start:end] for name, tensor in outputs.items()}
        start = end


def check_rows(outputs: Mapping[str, Tensor], rows: int) -> None:
    """Pass where every output has as many rows as were sent; raises ModelFailed(WRONG_ROW_COUNT)."""
    for name, tensor in outputs.items():
        shape = tensor.shape
        if not shape or shape[0] != rows:
            raise WrongRowCount(f"the model was sent {rows} rows and gave {name!r} of shape {list(shape)}")
