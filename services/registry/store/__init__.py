"""The registry's tables: a transaction, and in it a table object for each noun."""

from __future__ import annotations

from services.registry.store.transaction import CONSTRAINTS, Store, Tables

__all__ = ["CONSTRAINTS", "Store", "Tables"]
