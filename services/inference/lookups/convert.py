"""Look-ups: the ids of entities as both front doors have them, and what was looked up as the contracts carry it."""

from __future__ import annotations

from penstock.api.features.v1.feature_lookups_pb2 import FeatureLookup
from services.inference.models import Lookup


def lookup_message(lookup: Lookup, *, with_keys: bool = True) -> FeatureLookup:
    """Write what was looked up."""
    return FeatureLookup(
        view=lookup.view,
        version=lookup.version,
        names=lookup.names,
        keys=lookup.keys if with_keys else (),
        event_times_us=lookup.event_times_us,
        substituted_count=lookup.substituted_count,
    )
