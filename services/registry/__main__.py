"""The registry's process: `python -m services.registry` serves; with `migrate` it only brings its schema up to date."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from penstock.api.registry.v1 import registry_pb2_grpc
from services.common.blobs import BlobStore, open_blobs
from services.common.keys import KeyRing
from services.common.metrics import MetricsServer
from services.common.migrate import migrate
from services.common.postgres import Database
from services.common.process import run
from services.common.server import Server, Service
from services.registry.catalog import Catalog
from services.registry.downloads import Downloads
from services.registry.housekeeping import Housekeeping
from services.registry.metrics import RegistryMetrics
from services.registry.promotions import Promotions
from services.registry.servicer import ENDLESS, NAME, ROLES, RegistryServicer, UseCases
from services.registry.settings import RegistrySettings
from services.registry.store import CONSTRAINTS, Store
from services.registry.store.changes import CHANGES_CHANNEL
from services.registry.store.validations import VALIDATIONS_CHANNEL
from services.registry.uploads import Uploads
from services.registry.validation.validator import ValidationLimits, Validator
from services.registry.validations import Validations
from services.registry.wakes import Wakes
from services.registry.watches import Watches

SCHEMA = "registry"
MIGRATIONS = Path(__file__).with_name("migrations")


def migrate_schema(settings: RegistrySettings) -> tuple[str, ...]:
    """Bring the schema up to date; names what was applied."""
    return migrate(settings.database_url.get_secret_value(), SCHEMA, MIGRATIONS)


def build(settings: RegistrySettings, stack: ExitStack) -> Server:
    """Build the registry on what its settings name; what is opened on the way, the stack closes."""
    keys = KeyRing(settings.keys_file)
    keys.open()
    database = stack.enter_context(Database.from_settings(settings, name="penstock-registry", constraints=CONSTRAINTS))
    blobs = _open_blobs(settings)
    stack.callback(blobs.close)
    metrics = MetricsServer(settings.host, settings.metrics_port)
    use_cases = _open_use_cases(settings, stack, database, blobs, RegistryMetrics(metrics.registry))
    registry = Service(
        name=NAME,
        register=partial(
            registry_pb2_grpc.add_RegistryServiceServicer_to_server,
            RegistryServicer(use_cases),  # type: ignore[abstract] # what is not there yet answers UNIMPLEMENTED
        ),
        roles=ROLES,
        endless=ENDLESS,
    )
    return Server(settings, (registry,), keys=keys, metrics=metrics, checks=(database.check, blobs.check))


def _open_use_cases(
    settings: RegistrySettings, stack: ExitStack, database: Database, blobs: BlobStore, metrics: RegistryMetrics
) -> UseCases:
    store = Store(database)
    validations = Validations(
        store,
        blobs,
        Validator(
            ValidationLimits(
                timeout_s=settings.validation_timeout_ms / 1000,
                memory_limit_bytes=settings.validation_memory_bytes,
            )
        ),
        threads=settings.validation_threads,
        lease_s=settings.validation_lease_ms / 1000,
        finished=metrics.validations,
    )
    watches = Watches(store, bookmark_s=settings.watch_bookmark_ms / 1000)
    housekeeping = Housekeeping(
        store,
        kept_revisions=settings.kept_revisions,
        interval_s=settings.housekeeping_interval_ms / 1000,
        versions=metrics.versions,
    )
    listener = database.listen([CHANGES_CHANNEL, VALIDATIONS_CHANNEL], poll_interval_s=settings.poll_interval_ms / 1000)
    wakes = Wakes(listener, {CHANGES_CHANNEL: watches.wake, VALIDATIONS_CHANNEL: validations.wake})
    for part in (validations, housekeeping, wakes):
        part.open()
        stack.callback(part.close)
    return UseCases(
        catalog=Catalog(store),
        uploads=Uploads(store, blobs, max_bytes=settings.max_upload_bytes, uploaded_bytes=metrics.uploaded_bytes),
        downloads=Downloads(store, blobs),
        promotions=Promotions(store),
        validations=validations,
        watches=watches,
    )


def _open_blobs(settings: RegistrySettings) -> BlobStore:
    access_key, secret_key = settings.blob_access_key, settings.blob_secret_key
    return open_blobs(
        settings.blob_url,
        prefix="registry",
        access_key=access_key.get_secret_value() if access_key else None,
        secret_key=secret_key.get_secret_value() if secret_key else None,
    )


if __name__ == "__main__":
    sys.exit(run("registry", sys.argv[1:], RegistrySettings, build, migrate=migrate_schema))
