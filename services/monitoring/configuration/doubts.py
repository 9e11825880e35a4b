"""What in a configuration looks like a mistake: said, and kept all the same, as it may come before what it is for."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from services.monitoring.configuration.models import Own, Scope
from services.monitoring.configuration.store import FeatureStore
from services.monitoring.known_models import KnownModels, did_you_mean

MAX_FEATURES = 10
"""Of those that nobody knows, so many are named."""


def there_are(names: Collection[str]) -> str:
    """Name some of what there is."""
    more = f" and {len(names) - MAX_FEATURES:,} more" if len(names) > MAX_FEATURES else ""
    return f"; there are {', '.join(sorted(names)[:MAX_FEATURES])}{more}"


class Doubts:
    """Holds what scopes say against what there is. Threads may share it."""

    def __init__(self, models: KnownModels, features: FeatureStore) -> None:
        self.models = models
        self._features = features

    def of(self, scope: Scope, own: Own) -> list[str]:
        """Say what looks like a mistake: a model that nobody knows, and ignored features that no row has."""
        doubt = self.models.doubt(scope.model)
        return [doubt] if doubt else self._of_ignored(scope, own)

    def _of_ignored(self, scope: Scope, own: Own) -> list[str]:
        ignored = own.get("drift", {}).get("ignored_features", ())
        return [f"drift.ignored_features: {doubt}" for doubt in self.of_features(scope.model, ignored)]

    def of_features(self, model: str, names: Collection[str]) -> list[str]:
        """Say of each name that no profile and no traffic of a model has such a feature; "" is any model.

        Nothing where there is neither as yet: then nobody can tell.
        """
        known = self._features.names(model) if names else frozenset()
        if not known:
            return []
        whose = f"of {model}" if model else "of any model"
        unknown = islice((name for name in names if name not in known), MAX_FEATURES)
        return [
            f"no profile and no traffic {whose} has a feature {name!r}{did_you_mean(name, known) or there_are(known)}"
            for name in unknown
        ]
