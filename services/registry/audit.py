"""The entries of the audit log: who changed what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something: a caller's key name and role; the registry itself has no role."""

    name: str
    role: str


# What the registry does by itself.
REGISTRY = Actor("registry", "")


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change; `before` and `after` hold JSON values, only of the fields that differ."""

    audit_id: int
    time: datetime
    caller: str
    role: str
    action: str
    model: str
    version: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    note: str


@dataclass(frozen=True, slots=True)
class AuditFilters:
    """Which changes; "" and None: all. The times are from `start_time` on and before `end_time`."""

    model: str = ""
    version: str = ""
    caller: str = ""
    action: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
