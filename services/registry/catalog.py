"""Looking at models and versions, and making an empty model."""

from __future__ import annotations

import dataclasses
from datetime import datetime

from services.common import pages, versions
from services.common.errors import AlreadyExists, FailedPrecondition, NotFound
from services.common.keys import caller
from services.registry.auditing import model_changed
from services.registry.filters import ModelFilters, VersionFilters
from services.registry.models import (
    Model,
    ModelVersion,
    NewModel,
    Page,
    RequestKey,
    Stage,
    Transition,
)
from services.registry.positions import last_name, last_number, page_of
from services.registry.store import Store, Tables

DEFAULT_PAGE_SIZE = 50
_CREATE = "CreateModel"


class Catalog:
    """Answers what there is."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create_model(self, new: NewModel) -> Model:
        """Create a model without versions, or give the one that the same request made before.

        Raises:
            AlreadyExists: the name is taken (MODEL_EXISTS).
            FailedPrecondition: the request_id came with another body (REQUEST_ID_REUSED).
        """
        key = RequestKey(caller().name, _CREATE, new.request_id, new.body_sha256)
        with self._store.write() as tables:
            # Looked for before the name is taken, which may be free since; and again, for others may have made it now.
            made = tables.requests.find_result(key)
            if made is not None:
                return tables.models.get_by_id(made[0])
            inserted = tables.models.insert(
                new.name, new.description, labels=new.labels, tags=new.tags, created_by=key.caller
            )
            made = tables.requests.find_result(key)
            if made is not None:
                return tables.models.get_by_id(made[0])
            if not inserted:
                raise _taken(new.name, tables.models.get(new.name, deleted=True))
            model = tables.models.get(new.name)
            tables.requests.insert(key, model.model_id)
            model_changed(tables, _CREATE, None, model)
            return model

    def get_model(self, name: str) -> Model:
        """Find a model; raises NotFound (MODEL_NOT_FOUND)."""
        with self._store.read() as tables:
            return tables.models.get(name)

    def list_models(self, filters: ModelFilters, *, page_size: int, page_token: str) -> Page[Model]:
        """List models by name."""
        size = pages.page_size(page_size, default=DEFAULT_PAGE_SIZE)
        bound = dataclasses.asdict(filters)
        position = pages.decode(page_token, bound)
        with self._store.read() as tables:
            found = tables.models.page(filters, after=last_name(position), limit=size + 1)
        return page_of(found, size, bound, lambda model: [model.name])

    def get_version(self, model: str, version: str) -> ModelVersion:
        """Find a version; raises NotFound (MODEL_NOT_FOUND, VERSION_NOT_FOUND)."""
        with self._store.read() as tables:
            return tables.versions.get(tables.models.get(model), version)

    def list_versions(self, filters: VersionFilters, *, page_size: int, page_token: str) -> Page[ModelVersion]:
        """List versions, the newest first; raises NotFound (MODEL_NOT_FOUND)."""
        size = pages.page_size(page_size, default=DEFAULT_PAGE_SIZE)
        bound = dataclasses.asdict(filters)
        position = pages.decode(page_token, bound)
        with self._store.read() as tables:
            found, more = tables.versions.page(
                filters,
                model=tables.models.get(filters.model, deleted=filters.show_deleted) if filters.model else None,
                before=last_number(position),
                limit=size,
            )
        return Page(found, more, lambda version: pages.encode([version.version_id], bound))

    def resolve(self, model: str, selector: str) -> ModelVersion:
        """Find the READY version that a selector means: see `common.versions`.

        Raises:
            NotFound: MODEL_NOT_FOUND; VERSION_NOT_FOUND where the selector is no version, stage, alias or `latest`;
                NO_VERSION_READY where what it means is not READY.
        """
        with self._store.read() as tables:
            found = tables.models.get(model)
            chosen = _chosen(tables, found, selector)
            if chosen is None or not chosen.ready:
                raise _unresolved(model, selector, chosen)
            return chosen

    def list_transitions(self, model: str, *, version: str, page_size: int, page_token: str) -> Page[Transition]:
        """List the stage moves of a model, or of one version, the newest first; raises NotFound."""
        size = pages.page_size(page_size, default=DEFAULT_PAGE_SIZE)
        filters = {"model": model, "version": version}
        position = pages.decode(page_token, filters)
        with self._store.read() as tables:
            found_model = tables.models.get(model)
            found = tables.transitions.page(
                found_model,
                version=tables.versions.get(found_model, version, deleted=True) if version else None,
                before=last_number(position),
                limit=size + 1,
            )
        return page_of(found, size, filters, lambda transition: [transition.transition_id])

    def get_live_version(self, model: str, time: datetime | None) -> tuple[ModelVersion, datetime]:
        """Find what was live at a time (None: now), and since when; raises NotFound (NOTHING_LIVE)."""
        with self._store.read() as tables:
            transition = tables.transitions.find_live_at(tables.models.get(model), time)
            if transition is None:
                when = (
                    "is live; promote one" if time is None else f"was live at {time.isoformat()}; ask for a later time"
                )
                raise NotFound(f"no version of model {model!r} {when}", reason="NOTHING_LIVE")
            return tables.versions.get_by_id(transition.version_id), transition.promoted_time


def open_model(tables: Tables, name: str) -> Model:
    """Lock the model that a version is registered for; a missing one is created.

    Raises:
        FailedPrecondition: it was deleted, and can be restored (MODEL_DELETED).
    """
    inserted = tables.models.insert(name, created_by=caller().name)
    model = tables.models.lock(name, deleted=True)
    check_not_deleted(model)
    if inserted:
        model_changed(tables, "RegisterVersion", None, model)
    return model


def check_not_deleted(model: Model) -> None:
    """Let a model pass that a version may be registered for.

    Raises:
        FailedPrecondition: it was deleted, and can be restored (MODEL_DELETED).
    """
    if model.delete_time is not None:
        raise FailedPrecondition(
            f"model {model.name!r} was deleted; call RestoreModel, or take another name until it is purged",
            reason="MODEL_DELETED",
        )


def _chosen(tables: Tables, model: Model, selector: str) -> ModelVersion | None:
    """Follow the rule of `common.versions`, reading no more versions than the one that it leads to."""
    exact = tables.versions.find(model, selector) if selector else None
    if exact is not None:
        return exact
    if selector in ("", versions.LATEST):
        live = tables.versions.find_newest_in(model, Stage.PRODUCTION) if selector == "" else None
        version_id = live or model.latest_version_id
    else:
        stage = Stage.__members__.get(selector.upper())
        staged = tables.versions.find_newest_in(model, stage) if stage else None
        version_id = staged or tables.aliases.find(model, selector)
    return None if version_id is None else tables.versions.get_by_id(version_id)


def _taken(name: str, model: Model) -> AlreadyExists:
    advice = "use it" if model.delete_time is None else "it was deleted, and RestoreModel brings it back; do that"
    return AlreadyExists(f"a model {name!r} exists already; {advice}, or choose another name", reason="MODEL_EXISTS")


def _unresolved(model: str, selector: str, chosen: ModelVersion | None) -> NotFound:
    if chosen is not None:
        return NotFound(
            f"version {chosen.version!r} of model {model!r} is {chosen.state}, and only a READY one can be served",
            reason="NO_VERSION_READY",
        )
    if selector in ("", versions.LATEST) or selector.upper() in Stage.__members__:
        where = f" in {selector.upper()}" if selector.upper() in Stage.__members__ else ""
        return NotFound(
            f"model {model!r} has no READY version{where}; ListVersions shows what it has", reason="NO_VERSION_READY"
        )
    return NotFound(
        f"model {model!r} has no version {selector!r}; send one of its versions, a stage, an alias, "
        "'latest', or nothing",
        reason="VERSION_NOT_FOUND",
    )
