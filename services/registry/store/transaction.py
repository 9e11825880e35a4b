"""Transactions: what changes together, and the one revision that it gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from psycopg import Connection
from psycopg.rows import DictRow

from services.common.errors import Aborted, AlreadyExists, DomainError
from services.common.postgres import Database
from services.registry.store.aliases import AliasTable
from services.registry.store.audit import AuditTable
from services.registry.store.blobs import BlobTable
from services.registry.store.changes import ChangeTable
from services.registry.store.deletions import DeletionTable
from services.registry.store.evaluations import EvaluationTable
from services.registry.store.garbage import GarbageTable
from services.registry.store.models import ModelTable
from services.registry.store.requests import RequestTable
from services.registry.store.transitions import TransitionTable
from services.registry.store.uploads import UploadTable
from services.registry.store.validations import ValidationTable
from services.registry.store.versions import VersionTable

CONSTRAINTS: Mapping[str, Callable[[], DomainError]] = {
    "versions_version_key": lambda: AlreadyExists(
        "this model has a version of this name already, which stays as it is; choose another version",
        reason="VERSION_EXISTS",
    ),
    "versions_one_production": lambda: Aborted(
        "another promotion of this model came first; look at what is live now and decide anew",
        reason="CONCURRENT_PROMOTION",
    ),
}


class Tables:
    """The registry's tables, inside one transaction."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self.audit = AuditTable(connection)
        self.blobs = BlobTable(connection)
        self.changes = ChangeTable(connection)
        self.aliases = AliasTable(connection, self.changes)
        self.deletions = DeletionTable(connection, self.changes)
        self.evaluations = EvaluationTable(connection)
        self.garbage = GarbageTable(connection)
        self.models = ModelTable(connection)
        self.requests = RequestTable(connection)
        self.transitions = TransitionTable(connection)
        self.uploads = UploadTable(connection)
        self.validations = ValidationTable(connection)
        self.versions = VersionTable(connection, self.changes)


class Store:
    """The registry's schema in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def read(self) -> Iterator[Tables]:
        """Look at the tables as they stood at one moment; nothing can be written."""
        with self._database.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield Tables(connection)

    @contextmanager
    def write(self) -> Iterator[Tables]:
        """Change the tables. The versions that change together get one revision, the last thing before the commit.

        Lock a model's row before its versions: everyone does, so nobody waits in a circle.
        """
        with self._database.transaction(CONSTRAINTS) as connection:
            tables = Tables(connection)
            yield tables
            tables.changes.record()
