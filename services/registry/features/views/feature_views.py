"""The use cases of views."""

from __future__ import annotations

from services.common import pages
from services.common.keys import caller
from services.registry.features.models import NewView, View, ViewChange
from services.registry.features.store.transaction import FeatureStore

PAGE_SIZE = 50
MOST_VERSIONS = 2**31 - 1


class FeatureViews:
    """Makes, lists, changes and deletes views."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store

    def create(self, new: NewView) -> tuple[View, bool]:
        """Make a view or its next version; gives it, and whether the newest was the same already.

        Raises:
            FailedPrecondition: the view is about another entity (ENTITY_CHANGED).
        """
        with self._store.transaction() as tables:
            tables.views.lock_name(new.name, new.entity)
            newest = tables.views.find(new.name)
            if newest is not None and _same(newest, new):
                return newest, True
            return tables.views.insert(new, caller().name), False

    def get(self, name: str, version: int) -> View:
        """Find a version, 0: the newest; raises NotFound."""
        with self._store.transaction() as tables:
            return tables.views.get(name, version)

    def page(self, *, entity: str, name: str, page_size: int, page_token: str) -> tuple[list[View], str]:
        """List the newest version of each view, or all versions of one, with the token of the next page."""
        size = pages.page_size(page_size, default=PAGE_SIZE)
        filters = {"entity": entity, "name": name}
        position = pages.decode(page_token, filters)
        expected = int if name else str
        if position is not None and (len(position) != 1 or type(position[0]) is not expected):
            raise pages.unknown_token()
        with self._store.transaction() as tables:
            if name:
                before = position[0] if position else MOST_VERSIONS
                found = tables.views.versions(name, before=before, limit=size + 1)
            else:
                found = tables.views.newest(entity, after=position[0] if position else "", limit=size + 1)
        if len(found) <= size:
            return found, ""
        last = found[size - 1]
        return found[:size], pages.encode([last.version if name else last.name], filters)

    def update(self, name: str, version: int, change: ViewChange) -> View:
        """Change a version, 0: the newest; raises NotFound."""
        with self._store.transaction() as tables:
            return tables.views.update(tables.views.get(name, version), change)

    def delete(self, name: str, version: int) -> None:
        """Delete a version with its values; raises NotFound."""
        with self._store.transaction() as tables:
            tables.views.delete(tables.views.get(name, version))


def _same(view: View, new: NewView) -> bool:
    """Say whether values mean the same: descriptions are not asked."""
    return _meaning(view) == _meaning(new)


def _meaning(view: View | NewView) -> object:
    features = [(each.name, each.type, each.expression, each.computation) for each in view.features]
    return features, sorted((each.name, each.type) for each in view.request_values)
