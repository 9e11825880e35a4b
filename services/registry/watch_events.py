"""What a watcher gets. Each event names the epoch that its revision belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from services.registry.models import ModelVersion


@dataclass(frozen=True, slots=True)
class Change:
    """The versions that changed up to a revision, as they stand there."""

    epoch: str
    revision: int
    versions: tuple[ModelVersion, ...]


@dataclass(frozen=True, slots=True)
class SnapshotPart:
    """Some of the versions that stood at a revision; `complete` on the last part."""

    epoch: str
    revision: int
    versions: tuple[ModelVersion, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Nothing up to the revision is missing."""

    epoch: str
    revision: int
