"""The state machine of a version and the table of stages, every pair of them."""

from __future__ import annotations

import itertools

import pytest

from services.common.errors import FailedPrecondition, InvalidArgument
from services.registry.models import Approval, Stage, VersionState
from services.registry.stages import birth_stage, check_approval, check_move, next_stage, steps

D, C, S, P, A = Stage
ALLOWED = {
    (D, C), (D, A),
    (C, S), (C, D), (C, A),
    (S, P), (S, C), (S, D), (S, A),
    (A, D), (A, C), (A, S),
}  # fmt: skip
STATE_CHANGES = {
    ("UPLOADING", "VALIDATING"),
    ("VALIDATING", "READY"),
    ("VALIDATING", "FAILED"),
    ("FAILED", "VALIDATING"),
}


@pytest.mark.parametrize(("from_stage", "to_stage"), sorted(ALLOWED))
def test_an_allowed_move_passes(from_stage: Stage, to_stage: Stage) -> None:
    check_move(from_stage, to_stage)


@pytest.mark.parametrize(("from_stage", "to_stage"), sorted(set(itertools.product(Stage, Stage)) - ALLOWED))
def test_every_other_move_is_refused_and_the_ways_out_are_named(from_stage: Stage, to_stage: Stage) -> None:
    with pytest.raises(FailedPrecondition, match=from_stage) as refused:
        check_move(from_stage, to_stage)
    assert refused.value.reason == "STAGE_MOVE_FORBIDDEN"


def test_production_is_left_only_by_replacement_or_rollback() -> None:
    with pytest.raises(FailedPrecondition, match="RollbackModel"):
        check_move(P, A)


def test_an_archived_version_is_told_how_to_go_live_again() -> None:
    with pytest.raises(FailedPrecondition, match="STAGING first"):
        check_move(A, P)


def test_the_next_stage_is_one_up_and_there_is_none_above_production() -> None:
    assert [next_stage(stage) for stage in (D, C, S)] == [C, S, P]
    for stage in (P, A):
        with pytest.raises(FailedPrecondition) as refused:
            next_stage(stage)
        assert refused.value.reason == "STAGE_MOVE_FORBIDDEN"


@pytest.mark.parametrize(
    ("approval", "field"), [(Approval("ada", "", "why"), "approved_by"), (Approval("ada", "bob", " "), "note")]
)
def test_only_production_needs_an_approver_and_a_note(approval: Approval, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_approval(P, approval)
    assert (refused.value.reason, refused.value.violations[0].field) == ("APPROVAL_REQUIRED", field)
    check_approval(S, approval)
    check_approval(P, Approval("ada", "bob", "why"))


def test_a_version_is_born_in_development_or_candidate() -> None:
    assert [birth_stage(stage) for stage in (None, D, C, S, P)] == [D, D, C, C, C]
    with pytest.raises(InvalidArgument):
        birth_stage(A)


def test_a_later_stage_is_reached_step_by_step() -> None:
    assert steps(D, P) == (C, S, P)
    assert steps(C, C) == steps(S, C) == steps(A, P) == steps(D, A) == ()


@pytest.mark.parametrize(("before", "after"), [*itertools.product(VersionState, VersionState)])
def test_a_version_changes_its_state_only_as_the_table_says(before: VersionState, after: VersionState) -> None:
    if (before, after) in STATE_CHANGES:
        assert before.after(after) is after
    else:
        with pytest.raises(FailedPrecondition) as refused:
            before.after(after)
        assert refused.value.reason == "WRONG_STATE"
