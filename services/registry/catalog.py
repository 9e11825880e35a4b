"""Looking at models and versions, and making an empty model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import datetime
from typing import Any

from services.common import pages, versions
from services.common.errors import AlreadyExists, NotFound
from services.common.keys import caller
from services.registry.checks import MAX_NAME_CHARS
from services.registry.filters import ModelFilters, VersionFilters
from services.registry.models import (
    Candidate,
    Item,
    Model,
    ModelVersion,
    NewModel,
    Page,
    RequestKey,
    Stage,
    Transition,
)
from services.registry.store import Store

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
            inserted = tables.models.insert(new.name, new.description, created_by=key.caller)
            made = tables.requests.find_result(key)
            if made is not None:
                return tables.models.get_by_id(made[0])
            if not inserted:
                raise AlreadyExists(
                    f"a model {new.name!r} exists already; use it, or choose another name", reason="MODEL_EXISTS"
                )
            model = tables.models.get(new.name)
            tables.requests.insert(key, model.model_id)
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
            found = tables.models.page(filters, after=_last_name(position), limit=size + 1)
        return _page(found, size, bound, lambda model: [model.name])

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
            found = tables.versions.page(
                filters,
                model=tables.models.get(filters.model, deleted=filters.show_deleted) if filters.model else None,
                before=_last_number(position),
                limit=size + 1,
            )
        return _page(found, size, bound, lambda version: [version.version_id])

    def resolve(self, model: str, selector: str) -> ModelVersion:
        """Find the READY version that a selector means: see `common.versions`.

        Raises:
            NotFound: MODEL_NOT_FOUND; VERSION_NOT_FOUND where the selector is no version, stage or `latest`;
                NO_VERSION_READY where what it means is not READY.
        """
        with self._store.read() as tables:
            found = tables.models.get(model)
            chosen = versions.resolve(tables.versions.candidates([found])[found.model_id], selector)
            if chosen is None or not chosen.ready:
                raise _unresolved(model, selector, chosen)
            return tables.versions.get_by_id(chosen.version_id)

    def list_transitions(self, model: str, *, version: str, page_size: int, page_token: str) -> Page[Transition]:
        """List the stage moves of a model, or of one version, the newest first; raises NotFound."""
        size = pages.page_size(page_size, default=DEFAULT_PAGE_SIZE)
        filters = {"model": model, "version": version}
        position = pages.decode(page_token, filters)
        with self._store.read() as tables:
            found_model = tables.models.get(model)
            found = tables.transitions.page(
                found_model,
                version=tables.versions.get(found_model, version) if version else None,
                before=_last_number(position),
                limit=size + 1,
            )
        return _page(found, size, filters, lambda transition: [transition.transition_id])

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


def _last_name(position: list[Any] | None) -> str:
    """Read where a page by names begins; "" is the first."""
    match position:
        case None:
            return ""
        case [str(name)] if len(name) <= MAX_NAME_CHARS and "\0" not in name:
            return name
        case _:
            raise pages.unknown_token()


def _last_number(position: list[Any] | None) -> int | None:
    """Read where a page by numbers begins; None is the first."""
    match position:
        case None:
            return None
        case [int(number)] if not isinstance(number, bool) and 0 <= number < 2**63:
            return number
        case _:
            raise pages.unknown_token()


def _page(
    found: tuple[Item, ...], size: int, filters: dict[str, Any], position: Callable[[Item], list[Any]]
) -> Page[Item]:
    """Make a page of what was read, which is one more than it may hold where there are more."""
    return Page(found[:size], len(found) > size, lambda item: pages.encode(position(item), filters))


def _unresolved(model: str, selector: str, chosen: Candidate | None) -> NotFound:
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
        f"model {model!r} has no version {selector!r}; send one of its versions, a stage, 'latest', or nothing",
        reason="VERSION_NOT_FOUND",
    )
