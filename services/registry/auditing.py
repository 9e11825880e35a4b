"""The audit log: every change is written in the transaction that makes it, and can be asked for."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from services.common import pages
from services.common.keys import caller
from services.registry.audit import Actor, AuditEntry, AuditFilters
from services.registry.models import Model, ModelVersion, Page
from services.registry.positions import last_number
from services.registry.store import Store, Tables

DEFAULT_PAGE_SIZE = 50
MAX_FILES_SHOWN = 100
_MODEL_FIELDS = (
    "description", "tags", "labels", "training_config", "serving_settings", "capture_policy", "delete_time",
)  # fmt: skip
_VERSION_FIELDS = (
    "framework", "state", "failure_reason", "stage", "source_version", "source", "training_run_id", "metadata",
    "serving_settings", "capture_policy", "description", "labels", "aliases", "ollama", "delete_time",
)  # fmt: skip


class Audit:
    """Answers who changed what."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def list_entries(self, filters: AuditFilters, *, page_size: int, page_token: str) -> Page[AuditEntry]:
        """List changes, the newest first."""
        size = pages.page_size(page_size, default=DEFAULT_PAGE_SIZE)
        bound = dataclasses.asdict(filters)
        position = pages.decode(page_token, bound)
        with self._store.read() as tables:
            found, more = tables.audit.page(filters, before=last_number(position), limit=size)
        return Page(found, more, lambda entry: pages.encode([entry.audit_id], bound))


def caller_as_actor() -> Actor:
    """Say who makes the request that this thread works on."""
    return Actor(caller().name, caller().role.name.lower())


def model_changed(
    tables: Tables,
    action: str,
    before: Model | None,
    after: Model | None,
    *,
    note: str = "",
    actor: Actor | None = None,
) -> None:
    """Log what an action changed of a model; nothing where nothing differs. None: it was not there, or is gone."""
    told = difference(_model_fields(before), _model_fields(after))
    model = after or before
    if model is not None and told != ({}, {}):
        tables.audit.append(actor or caller_as_actor(), action, model.name, before=told[0], after=told[1], note=note)


def version_changed(
    tables: Tables,
    action: str,
    before: ModelVersion | None,
    after: ModelVersion | None,
    *,
    note: str = "",
    actor: Actor | None = None,
) -> None:
    """Log what an action changed of a version; nothing where nothing differs. None: it was not there, or is gone."""
    told = difference(_version_fields(before), _version_fields(after))
    version = after or before
    if version is not None and told != ({}, {}):
        tables.audit.append(
            actor or caller_as_actor(),
            action,
            version.model,
            version.version,
            before=told[0],
            after=told[1],
            note=note,
        )


def difference(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Give what differs of two JSON objects, as it was and as it is; of objects in them too.

    Of one alone, which is new or gone, everything that is not empty; None stands for the other.
    """
    if before is None or after is None:
        return _filled(before), _filled(after)
    was: dict[str, Any] = {}
    now: dict[str, Any] = {}
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = difference(old, new)
            if inner != ({}, {}):
                was[key], now[key] = inner
        elif old != new or (key in before) != (key in after):
            was.update({key: old} if key in before else {})
            now.update({key: new} if key in after else {})
    return was, now


def _filled(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if values is None:
        return None
    inner = {key: _filled(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    return {key: value for key, value in inner.items() if value not in (None, "", [], {}, 0, False)}


def _model_fields(model: Model | None) -> dict[str, Any] | None:
    return None if model is None else _fields(model, _MODEL_FIELDS)


def _version_fields(version: ModelVersion | None) -> dict[str, Any] | None:
    if version is None:
        return None
    files = {file.path: file.sha256 for file in version.files[:MAX_FILES_SHOWN]}
    return {
        **_fields(version, _VERSION_FIELDS),
        "files": files,
        "file_count": len(version.files),
        "size_bytes": version.size_bytes,
    }


def _fields(found: Model | ModelVersion, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: _json(getattr(found, name)) for name in names}


def _json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _json({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {key: _json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(each) for each in value]
    if isinstance(value, bytes):
        # Who changed it is what is asked for; up to a mebibyte of tensors would drown that.
        return f"sha256:{hashlib.sha256(value).hexdigest()}"
    return value.isoformat() if hasattr(value, "isoformat") else value
