"""Another life of the registry's database: for after a restore from a backup."""

from __future__ import annotations

import structlog

from services.common.postgres import Database
from services.registry.settings import RegistrySettings
from services.registry.store import Store

_log = structlog.get_logger(__name__)


def begin_epoch(settings: RegistrySettings) -> None:
    """Say that the database was restored: whoever watches it begins anew, and serves what it knows until then.

    Without it a watcher that had come further than the backup would take later changes for ones that it knows.

    Raises:
        Unavailable: the database is away.
    """
    with (
        Database.from_settings(settings, name="penstock-registry-restored") as database,
        Store(database).write() as tables,
    ):
        epoch = tables.changes.begin_epoch()
    _log.info("a new epoch begins", epoch=epoch)
