"""Transactions: what of alerts changes together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from psycopg import Connection
from psycopg.rows import DictRow

from services.common.errors import Aborted, AlreadyExists, DomainError
from services.common.postgres import Database
from services.monitoring.alerts.store.alerts import AlertTable
from services.monitoring.alerts.store.changes import RuleChangeTable
from services.monitoring.alerts.store.requests import RequestTable
from services.monitoring.alerts.store.rules import RuleTable
from services.monitoring.alerts.store.silences import SilenceTable
from services.monitoring.store.durability import make_durable

AlertConnection = Connection[DictRow]
"""A connection inside a transaction."""

CONSTRAINTS: Mapping[str, Callable[[], DomainError]] = {
    "alert_rules_name_key": lambda: AlreadyExists(
        "there is a rule of this name for the same model and version; update it, or choose another name",
        reason="RULE_EXISTS",
    ),
    "alerts_one_open": lambda: Aborted(
        "another replica has just opened this alert; it is judged again at the next turn", reason="ALERT_OPENED"
    ),
}


class Tables:
    """The tables of alerts, inside one transaction on `connection`."""

    def __init__(self, connection: AlertConnection) -> None:
        self.connection = connection
        self.rules = RuleTable(connection)
        self.changes = RuleChangeTable(connection)
        self.alerts = AlertTable(connection)
        self.silences = SilenceTable(connection)
        self.requests = RequestTable(connection)


class AlertStore:
    """Rules, alerts and silences in a database."""

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
        """Change the tables, durably: an alert that a crash forgot would be told again under another id.

        Lock rules' rows before their alerts, several by their ids: everyone does, so nobody waits in a circle.
        """
        with self._database.transaction(CONSTRAINTS) as connection:
            make_durable(connection)
            yield Tables(connection)
