"""What the registry's processes stand on: its schema in PostgreSQL, and its part of the blob store."""

from __future__ import annotations

from pathlib import Path

from services.common.blobs import BlobStore, open_blobs
from services.common.migrate import migrate
from services.registry.settings import StorageSettings

SCHEMA = "registry"
MIGRATIONS = Path(__file__).with_name("migrations")
FEATURES_SCHEMA = "features"
FEATURES_MIGRATIONS = Path(__file__).parent / "features" / "migrations"


def migrate_schema(settings: StorageSettings) -> tuple[str, ...]:
    """Bring the schemas up to date; names what was applied."""
    url = settings.database_url.get_secret_value()
    return (*migrate(url, SCHEMA, MIGRATIONS), *migrate(url, FEATURES_SCHEMA, FEATURES_MIGRATIONS))


def open_registry_blobs(settings: StorageSettings) -> BlobStore:
    """Open the registry's own part of the blob store."""
    access_key, secret_key = settings.blob_access_key, settings.blob_secret_key
    return open_blobs(
        settings.blob_url,
        prefix="registry",
        access_key=access_key.get_secret_value() if access_key else None,
        secret_key=secret_key.get_secret_value() if secret_key else None,
    )
