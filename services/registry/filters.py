"""What a list is narrowed to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.registry.models import Framework, Stage, VersionState


@dataclass(frozen=True, slots=True)
class ModelFilters:
    """Which models: those with all of the labels, and with words that the query's words begin."""

    labels: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    show_deleted: bool = False


@dataclass(frozen=True, slots=True)
class VersionFilters:
    """Which versions; `model` "": of all. A label counts on the version or on its model."""

    model: str = ""
    stage: Stage | None = None
    state: VersionState | None = None
    framework: Framework | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    show_deleted: bool = False
