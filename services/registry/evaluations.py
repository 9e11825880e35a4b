"""How well versions did, and whether that is well enough."""

from __future__ import annotations

from services.common import pages
from services.common.errors import FailedPrecondition
from services.common.keys import caller
from services.registry.auditing import caller_as_actor
from services.registry.models import Model, ModelVersion, Page, RequestKey
from services.registry.positions import last_number, page_of
from services.registry.store import Store, Tables
from services.registry.training import Evaluation, NewEvaluation

DEFAULT_PAGE_SIZE = 50
_RECORD = "RecordEvaluation"


class Evaluations:
    """Keeps evaluations, each judged by the criteria that stand when it comes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def record(self, new: NewEvaluation) -> Evaluation:
        """Keep an evaluation, or give the one that the same request made before.

        Raises:
            NotFound: MODEL_NOT_FOUND, VERSION_NOT_FOUND.
            FailedPrecondition: the request_id came with another body (REQUEST_ID_REUSED).
        """
        key = RequestKey(caller().name, _RECORD, new.request_id, new.body_sha256)
        with self._store.write() as tables:
            # Looked for before the lock, for the model may be gone since; and again, for others may have made it now.
            made = tables.requests.find_evaluation(key)
            if made is not None:
                return tables.evaluations.get_by_id(made)
            model = tables.models.lock(new.model)
            made = tables.requests.find_evaluation(key)
            if made is not None:
                return tables.evaluations.get_by_id(made)
            version = tables.versions.get(model, new.version)
            shortfalls = model.training_config.shortfalls(new.metrics, new.failure)
            evaluation_id = tables.evaluations.insert(version, new, shortfalls=shortfalls, evaluated_by=key.caller)
            tables.requests.insert(key, model.model_id, version.version_id, evaluation_id)
            evaluation = tables.evaluations.get_by_id(evaluation_id)
            told = {"id": evaluation_id, "metrics": dict(new.metrics), "dataset": new.dataset}
            told |= {"failure": new.failure} if new.failure else {}
            tables.audit.append(
                caller_as_actor(),
                _RECORD,
                model.name,
                version.version,
                after={"evaluation": {**told, "passed": evaluation.passed}},
                note=new.note,
            )
            return evaluation

    def list_evaluations(self, model: str, *, version: str, page_size: int, page_token: str) -> Page[Evaluation]:
        """List the evaluations of a model, or of one version, the newest first; raises NotFound."""
        size = pages.page_size(page_size, default=DEFAULT_PAGE_SIZE)
        filters = {"model": model, "version": version}
        position = pages.decode(page_token, filters)
        with self._store.read() as tables:
            found_model = tables.models.get(model)
            found = tables.evaluations.page(
                found_model,
                version=tables.versions.get(found_model, version, deleted=True) if version else None,
                before=last_number(position),
                limit=size + 1,
            )
        return page_of(found, size, filters, lambda evaluation: [evaluation.evaluation_id])


def objection(tables: Tables, model: Model, version: ModelVersion) -> FailedPrecondition | None:
    """Say why a version may not be tried in STAGING: it was not evaluated, could not be, or fell short; None: it may.

    It is judged by the criteria that stand now, on what its latest evaluation measured. The latest counts: one that
    could not be tried is not let through for what it could do before.
    """
    if not model.training_config.success_criteria:
        return None
    latest = tables.evaluations.find_latest(version)
    if latest is None:
        return FailedPrecondition(
            f"model {model.name!r} has success criteria, and version {version.version!r} was never evaluated; call "
            "RecordEvaluation with what it measured",
            reason="EVALUATION_REQUIRED",
        )
    shortfalls = model.training_config.shortfalls(latest.metrics, latest.failure)
    if not shortfalls:
        return None
    return FailedPrecondition(
        f"version {version.version!r} falls short of what model {model.name!r} must reach: {'; '.join(shortfalls)}",
        reason="CRITERIA_NOT_MET",
    )
