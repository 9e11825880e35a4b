"""References by what they are asked for: a profile never changes, so each is read once and kept at hand."""

from __future__ import annotations

import threading
from collections import OrderedDict
from uuid import UUID

from services.common.errors import NotFound
from services.monitoring.profiles.models import Reference
from services.monitoring.profiles.store.profiles import ProfileStore

MAX_KEPT = 64


class References:
    """Profiles with their features, the last used in memory."""

    def __init__(self, store: ProfileStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: OrderedDict[UUID, Reference] = OrderedDict()

    def get(self, profile_id: UUID) -> Reference:
        """Give a profile.

        Raises:
            NotFound: there is none of this id (PROFILE_NOT_FOUND).
        """
        with self._lock:
            reference = self._kept.get(profile_id)
            if reference is not None:
                self._kept.move_to_end(profile_id)
                return reference
        profile = self._store.find(profile_id)
        if profile is None:
            raise no_profile(f"there is no profile {profile_id}")
        with self._lock:
            self._kept[profile_id] = profile.reference
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return profile.reference

    def find_attached(self, model: str, version: str) -> Reference | None:
        """Give what a version is compared with now; None where it is with nothing."""
        profile_id = self._store.find_attached(model, version)
        return None if profile_id is None else self.get(profile_id)


def no_profile(sentence: str) -> NotFound:
    """Say that a profile is not there."""
    return NotFound(f"{sentence}; `penstock profile list` names those that there are", reason="PROFILE_NOT_FOUND")
