"""The states of a retraining request: one table of moves."""

from __future__ import annotations

from collections.abc import Mapping

from services.common.errors import FailedPrecondition
from services.monitoring.retraining.models import State

MOVES: Mapping[State, tuple[State, ...]] = {
    State.PENDING: (State.APPROVED, State.REJECTED, State.EXPIRED),
    # FAILED at once where the trainer refuses: the model has no training config, say. REJECTED: withdrawn.
    State.APPROVED: (State.TRAINING, State.FAILED, State.REJECTED, State.EXPIRED),
    State.TRAINING: (State.COMPLETED, State.FAILED),
    State.REJECTED: (),
    State.EXPIRED: (),
    State.COMPLETED: (),
    State.FAILED: (),
}
OPEN = tuple(state for state, ways_out in MOVES.items() if ways_out)
"""A model has at most one request in these; see migrations/0011_retraining.sql."""


def check_move(from_state: State, to_state: State) -> None:
    """Let a move pass that stands in the table.

    Raises:
        FailedPrecondition: it does not (WRONG_STATE).
    """
    if to_state in MOVES[from_state]:
        return
    ways_out = " or ".join(state.name for state in MOVES[from_state])
    if from_state is to_state:
        then = f"; from here it becomes {ways_out}" if ways_out else ""
        raise FailedPrecondition(f"the request is {from_state.name} already{then}", reason="WRONG_STATE")
    raise FailedPrecondition(
        f"the request is {from_state.name} and cannot become {to_state.name}; "
        + (f"from here it becomes {ways_out}" if ways_out else "it is over: ask for another retraining"),
        reason="WRONG_STATE",
    )
