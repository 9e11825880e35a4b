"""Stage moves: promoting, going live, rolling back."""

from __future__ import annotations

from services.common.errors import Aborted, FailedPrecondition
from services.common.keys import Role, caller, require
from services.registry.audit import REGISTRY
from services.registry.auditing import version_changed
from services.registry.evaluations import objection
from services.registry.models import Approval, Model, ModelVersion, Promotion, Stage, TransitionKind, VersionState
from services.registry.stages import check_approval, check_move, next_stage, steps
from services.registry.store import Store, Tables


class Promotions:
    """Moves versions between stages.

    Whoever asks for a move decides on what stands at that moment. So it is read before the model's lock is waited
    for, and compared under the lock: of two promotions at once the second finds another world, and loses.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def promote(self, model: str, version: str, to_stage: Stage | None, approval: Approval) -> Promotion:
        """Move a version to a stage; None: the next one.

        Raises:
            NotFound: MODEL_NOT_FOUND, VERSION_NOT_FOUND.
            FailedPrecondition: STAGE_MOVE_FORBIDDEN, VERSION_NOT_READY, EVALUATION_REQUIRED, CRITERIA_NOT_MET.
            InvalidArgument: APPROVAL_REQUIRED.
            PermissionDenied: into PRODUCTION, the caller is no admin (ROLE_TOO_WEAK).
            Aborted: another move came first (CONCURRENT_PROMOTION).
        """
        with self._store.read() as tables:
            seen_model = tables.models.get(model)
            seen = tables.versions.get(seen_model, version)
        stage = to_stage or next_stage(seen.stage)
        check_going_live(stage, approval)
        check_move(seen.stage, stage)
        with self._store.write() as tables:
            locked = tables.models.lock(model)
            current = tables.versions.get(locked, version)
            if (current.version_id, current.stage) != (seen.version_id, seen.stage) or (
                stage is Stage.PRODUCTION and locked.live_transition_id != seen_model.live_transition_id
            ):
                raise _lost()
            replaced = move(tables, locked, current, stage, approval)
            return _outcome(tables, "PromoteVersion", current, replaced, approval)

    def roll_back(self, model: str, approval: Approval) -> Promotion:
        """Make the predecessor of the live version live again.

        Raises:
            NotFound: MODEL_NOT_FOUND.
            FailedPrecondition: NOTHING_LIVE, NO_PREDECESSOR; the predecessor was deleted (VERSION_DELETED).
            InvalidArgument: APPROVAL_REQUIRED.
            Aborted: another move came first (CONCURRENT_PROMOTION).
        """
        check_going_live(Stage.PRODUCTION, approval)
        with self._store.read() as tables:
            seen = tables.models.get(model)
        with self._store.write() as tables:
            locked = tables.models.lock(model)
            if locked.live_transition_id != seen.live_transition_id:
                raise _lost()
            return _outcome(tables, "RollbackModel", *_revive_predecessor(tables, locked, approval), approval)


def check_going_live(stage: Stage, approval: Approval) -> None:
    """Let a request pass that may ask for this stage: PRODUCTION needs the role, an approver and a note.

    Raises:
        PermissionDenied: ROLE_TOO_WEAK.
        InvalidArgument: APPROVAL_REQUIRED.
    """
    if stage is Stage.PRODUCTION:
        require(caller(), Role.ADMIN, "a move into PRODUCTION")
    check_approval(stage, approval)


def move(tables: Tables, model: Model, version: ModelVersion, stage: Stage, approval: Approval) -> ModelVersion | None:
    """Move a version, the model being locked. Into PRODUCTION it replaces what is live, which is archived and given.

    Raises:
        FailedPrecondition: STAGE_MOVE_FORBIDDEN, VERSION_NOT_READY, EVALUATION_REQUIRED, CRITERIA_NOT_MET.
    """
    check_move(version.stage, stage)
    if version.state is VersionState.FAILED and stage not in (Stage.DEVELOPMENT, Stage.ARCHIVED):
        raise FailedPrecondition(
            f"version {version.version!r} is FAILED: it moves to DEVELOPMENT and ARCHIVED only; register a "
            "corrected file under another version, or call RevalidateVersion",
            reason="VERSION_NOT_READY",
        )
    if stage is Stage.STAGING and (objected := objection(tables, model, version)) is not None:
        raise objected
    replaced = None
    previous = None
    if stage is Stage.PRODUCTION:
        if not version.ready:
            raise FailedPrecondition(
                f"version {version.version!r} is {version.state}; only a READY version goes live",
                reason="VERSION_NOT_READY",
            )
        previous = model.live_transition_id
        replaced = _archive_live(tables, model, TransitionKind.REPLACE, approval)
    transition_id = tables.transitions.append(
        version, stage, TransitionKind.PROMOTE, approval, previous_live_transition_id=previous
    )
    tables.versions.move(version.version_id, transition_id)
    if stage is Stage.PRODUCTION:
        tables.models.set_live(model.model_id, transition_id)
    return replaced


def climb(tables: Tables, model: Model, version: ModelVersion) -> None:
    """Move a version that became READY to the stage that its registration asked for, step by step.

    What has gone live since the registration is not replaced, for whoever registered did not know of it: the
    version then stays in STAGING. Where the model has success criteria, it stays below STAGING until they are met.
    The caller writes down in the audit log what became of the version.
    """
    approval = Approval(version.created_by, version.requested_approved_by, version.requested_note)
    for stage in steps(version.stage, version.requested_stage):
        live = tables.versions.find_live_number(model) or 0
        if stage is Stage.PRODUCTION and live != version.parent_deployment_number:
            return
        if stage is Stage.STAGING and objection(tables, model, version) is not None:
            return
        replaced = move(tables, model, version, stage, approval)
        if replaced is not None:
            after = tables.versions.get_by_id(replaced.version_id)
            version_changed(tables, "Validate", replaced, after, note=approval.note, actor=REGISTRY)
        version = tables.versions.get_by_id(version.version_id)


def _revive_predecessor(tables: Tables, model: Model, approval: Approval) -> tuple[ModelVersion, ModelVersion | None]:
    if model.live_transition_id is None:
        raise FailedPrecondition(f"no version of model {model.name!r} is live; promote one", reason="NOTHING_LIVE")
    in_force = tables.transitions.get(model.live_transition_id)
    if in_force.previous_live_transition_id is None:
        raise FailedPrecondition(
            f"version {in_force.version!r} of model {model.name!r} is the first that went live; promote another",
            reason="NO_PREDECESSOR",
        )
    earlier = tables.transitions.get(in_force.previous_live_transition_id)
    revived = tables.versions.get_by_id(earlier.version_id)
    if revived.delete_time is not None:
        raise FailedPrecondition(
            f"version {revived.version!r}, which was live before, was deleted; restore it, or promote another",
            reason="VERSION_DELETED",
        )
    replaced = _archive_live(tables, model, TransitionKind.ROLLBACK, approval)
    transition_id = tables.transitions.append(revived, Stage.PRODUCTION, TransitionKind.ROLLBACK, approval)
    tables.versions.move(revived.version_id, transition_id)
    # Back on the older promotion, whose own predecessor is where the next rollback leads.
    tables.models.set_live(model.model_id, earlier.transition_id)
    return revived, replaced


def _archive_live(tables: Tables, model: Model, kind: TransitionKind, approval: Approval) -> ModelVersion | None:
    if model.live_transition_id is None:
        return None
    live = tables.versions.get_by_id(tables.transitions.get(model.live_transition_id).version_id)
    tables.versions.move(live.version_id, tables.transitions.append(live, Stage.ARCHIVED, kind, approval))
    return live


def _outcome(
    tables: Tables, action: str, moved: ModelVersion, replaced: ModelVersion | None, approval: Approval
) -> Promotion:
    """Log what moved, and read it as it stands then."""
    tables.changes.record()
    promotion = Promotion(
        version=tables.versions.get_by_id(moved.version_id),
        replaced=tables.versions.get_by_id(replaced.version_id) if replaced else None,
    )
    for before, after in ((replaced, promotion.replaced), (moved, promotion.version)):
        version_changed(tables, action, before, after, note=approval.note)
    return promotion


def _lost() -> Aborted:
    return Aborted(
        "another move of this model came first; look at what is live now and decide anew",
        reason="CONCURRENT_PROMOTION",
    )
