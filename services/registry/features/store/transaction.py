"""Transactions of the feature store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import Connection
from psycopg.rows import DictRow

from services.common.postgres import Database
from services.registry.features.store.samples import SampleTable
from services.registry.features.store.values import ValueTable
from services.registry.features.store.views import ViewTable


class FeatureTables:
    """The tables, inside one transaction."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self.views = ViewTable(connection)
        self.values = ValueTable(connection)
        self.samples = SampleTable(connection)


class FeatureStore:
    """The feature store's schema in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def transaction(self) -> Iterator[FeatureTables]:
        """Look at the tables and change them: all of it, or nothing."""
        with self._database.transaction() as connection:
            yield FeatureTables(connection)
