"""The stages of a version: one table of moves, and the guards in front of them."""

from __future__ import annotations

from collections.abc import Mapping

from services.common.errors import FailedPrecondition, InvalidArgument
from services.registry.models import Approval, Stage

MOVES: Mapping[Stage, tuple[Stage, ...]] = {
    Stage.DEVELOPMENT: (Stage.CANDIDATE, Stage.ARCHIVED),
    Stage.CANDIDATE: (Stage.STAGING, Stage.DEVELOPMENT, Stage.ARCHIVED),
    Stage.STAGING: (Stage.PRODUCTION, Stage.CANDIDATE, Stage.DEVELOPMENT, Stage.ARCHIVED),
    Stage.PRODUCTION: (),
    Stage.ARCHIVED: (Stage.STAGING, Stage.CANDIDATE, Stage.DEVELOPMENT),
}
# The way up; a registration that asks for a later stage walks it step by step.
LADDER = (Stage.DEVELOPMENT, Stage.CANDIDATE, Stage.STAGING, Stage.PRODUCTION)


def next_stage(stage: Stage) -> Stage:
    """Give the stage after this one on the way up.

    Raises:
        FailedPrecondition: there is none (STAGE_MOVE_FORBIDDEN).
    """
    if stage in LADDER[:-1]:
        return LADDER[LADDER.index(stage) + 1]
    raise FailedPrecondition(f"no stage comes after {stage}; {_ways_out(stage)}", reason="STAGE_MOVE_FORBIDDEN")


def check_move(from_stage: Stage, to_stage: Stage) -> None:
    """Let a move pass that stands in the table.

    Raises:
        FailedPrecondition: it does not (STAGE_MOVE_FORBIDDEN).
    """
    if to_stage not in MOVES[from_stage]:
        what = f"is in {to_stage} already" if from_stage is to_stage else f"cannot move from {from_stage} to {to_stage}"
        raise FailedPrecondition(f"the version {what}; {_ways_out(from_stage)}", reason="STAGE_MOVE_FORBIDDEN")


def check_approval(to_stage: Stage, approval: Approval) -> None:
    """Let a move pass that has the approval that its stage needs.

    Raises:
        InvalidArgument: PRODUCTION without an approver or a note (APPROVAL_REQUIRED).
    """
    if to_stage is not Stage.PRODUCTION:
        return
    for name, value in (("approved_by", approval.approved_by), ("note", approval.note)):
        if not value.strip():
            raise InvalidArgument.field(
                name, "empty; what goes live needs who approved it and why", reason="APPROVAL_REQUIRED"
            )


def birth_stage(requested: Stage | None) -> Stage:
    """Give the stage that a version is born in. Those above CANDIDATE are reached by moves, once it is READY.

    Raises:
        InvalidArgument: ARCHIVED was asked for (INVALID_STAGE).
    """
    if requested is Stage.ARCHIVED:
        raise InvalidArgument.field(
            "stage", f"got ARCHIVED; a new version may ask for {', '.join(LADDER)}", reason="INVALID_STAGE"
        )
    return Stage.DEVELOPMENT if requested in (None, Stage.DEVELOPMENT) else Stage.CANDIDATE


def steps(from_stage: Stage, to_stage: Stage) -> tuple[Stage, ...]:
    """Give the stages to go through, one step up at a time; none where `to_stage` is not above."""
    if from_stage not in LADDER or to_stage not in LADDER:
        return ()
    return LADDER[LADDER.index(from_stage) + 1 : LADDER.index(to_stage) + 1]


def _ways_out(stage: Stage) -> str:
    if stage is Stage.PRODUCTION:
        return "PRODUCTION is left by promoting another version, which archives this one, or by RollbackModel"
    if stage is Stage.ARCHIVED:
        return (
            f"from ARCHIVED it can move to {', '.join(MOVES[stage])}; to go live again move to STAGING first, "
            "or call RollbackModel"
        )
    return f"from {stage} it can move to {', '.join(MOVES[stage])}"
