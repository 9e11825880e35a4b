"""Aliases: names that a model's owners point at its versions."""

from __future__ import annotations

from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from services.registry.auditing import caller_as_actor
from services.registry.models import Model, ModelVersion
from services.registry.store import Store, Tables

MAX_ALIASES = 64


def check_no_alias(model: Model, version: str) -> None:
    """Let the name of a version to come pass that is no alias of its model, for it would take the alias over.

    Raises:
        FailedPrecondition: it is one (VERSION_IS_ALIAS).
    """
    if version in model.aliases:
        raise FailedPrecondition(
            f"{version!r} is an alias of model {model.name!r}, which points at version {model.aliases[version]!r}; "
            "delete the alias first, or choose another version",
            reason="VERSION_IS_ALIAS",
        )


class Aliases:
    """Points aliases at versions; inference follows at once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def set(self, model: str, alias: str, version: str) -> tuple[ModelVersion, str]:
        """Point an alias at a READY version.

        Returns:
            The version, and the one that the alias pointed at before; "" where it is new or pointed there already.

        Raises:
            NotFound: MODEL_NOT_FOUND, VERSION_NOT_FOUND.
            FailedPrecondition: VERSION_NOT_READY; a version bears the name (ALIAS_IS_VERSION).
            InvalidArgument: the model has as many as it may (TOO_MANY).
        """
        with self._store.write() as tables:
            locked = tables.models.lock(model)
            found = tables.versions.get(locked, version)
            previous = locked.aliases.get(alias, "")
            if previous == found.version:
                return found, ""
            _check(tables, locked, alias, found)
            actor = caller_as_actor()
            tables.aliases.set(locked, alias, found, actor.name)
            tables.audit.append(
                actor,
                "SetAlias",
                locked.name,
                found.version,
                before={"aliases": {alias: previous}} if previous else None,
                after={"aliases": {alias: found.version}},
            )
            tables.changes.record()
            return tables.versions.get_by_id(found.version_id), previous

    def delete(self, model: str, alias: str) -> None:
        """Remove an alias; raises NotFound (MODEL_NOT_FOUND, ALIAS_NOT_FOUND)."""
        with self._store.write() as tables:
            locked = tables.models.lock(model)
            if not tables.aliases.delete(locked, alias):
                raise NotFound(
                    f"model {model!r} has no alias {alias!r}; it has {', '.join(sorted(locked.aliases)) or 'none'}",
                    reason="ALIAS_NOT_FOUND",
                )
            pointed_at = locked.aliases[alias]
            before = {"aliases": {alias: pointed_at}}
            tables.audit.append(caller_as_actor(), "DeleteAlias", locked.name, pointed_at, before=before)


def _check(tables: Tables, model: Model, alias: str, version: ModelVersion) -> None:
    if not version.ready:
        raise FailedPrecondition(
            f"version {version.version!r} is {version.state}; an alias points at a READY version only",
            reason="VERSION_NOT_READY",
        )
    if alias not in model.aliases and len(model.aliases) >= MAX_ALIASES:
        raise InvalidArgument.field(
            "alias", f"model {model.name!r} has {MAX_ALIASES} aliases, the most allowed; delete one", reason="TOO_MANY"
        )
    bearer = tables.versions.find(model, alias, deleted=True)
    # The name of a version that was deleted and never was READY is free.
    if bearer is not None and (bearer.ready or bearer.delete_time is None):
        raise FailedPrecondition(
            f"model {model.name!r} has a version {alias!r}, which would hide the alias; choose another name",
            reason="ALIAS_IS_VERSION",
        )
