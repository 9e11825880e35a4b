"""The registry's process: `python -m services.registry` serves.

With `migrate` it only brings its schema up to date; with `restored`, for after a restore from a backup, it has everyone
who watches it begin anew.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial

from penstock.api.registry.v1 import administration_pb2_grpc, registry_pb2_grpc, uploads_pb2_grpc
from services.common.blobs import BlobStore
from services.common.keys import KeyRing
from services.common.metrics import MetricsServer
from services.common.postgres import Database
from services.common.process import run
from services.common.server import Server, Service
from services.common.traces import open_traces
from services.registry import encode
from services.registry.administration import servicer as administration_servicer
from services.registry.aliases import Aliases
from services.registry.auditing import Audit
from services.registry.catalog import Catalog
from services.registry.deletions import Deletions
from services.registry.downloads import Downloads
from services.registry.editing import Editing
from services.registry.epochs import begin_epoch
from services.registry.evaluations import Evaluations
from services.registry.features import servicer as features_servicer
from services.registry.features.store.transaction import FeatureStore
from services.registry.features.views import servicer as views_servicer
from services.registry.garbage import Garbage
from services.registry.housekeeping import Housekeeping
from services.registry.intake import Intake
from services.registry.metrics import RegistryMetrics
from services.registry.parts import servicer as uploads_servicer
from services.registry.parts.part_uploads import PartUploads
from services.registry.promotions import Promotions
from services.registry.servicer import ENDLESS, NAME, ROLES, RegistryServicer, UseCases
from services.registry.settings import RegistrySettings
from services.registry.snapshots import Snapshots
from services.registry.storage import migrate_schema, open_registry_blobs
from services.registry.store import CONSTRAINTS, Store
from services.registry.store.changes import CHANGES_CHANNEL
from services.registry.store.validations import VALIDATIONS_CHANNEL
from services.registry.uploads import Uploads
from services.registry.validations import Validations
from services.registry.wakes import Wakes
from services.registry.watches import Watches


def build(settings: RegistrySettings, stack: ExitStack) -> Server:
    """Build the registry on what its settings name; what is opened on the way, the stack closes."""
    keys = KeyRing(settings.keys_file)
    keys.open()
    database = stack.enter_context(Database.from_settings(settings, name="penstock-registry", constraints=CONSTRAINTS))
    blobs = open_registry_blobs(settings)
    stack.callback(blobs.close)
    metrics = MetricsServer(settings.host, settings.metrics_port)
    store, counted = Store(database), RegistryMetrics(metrics.registry)
    garbage = Garbage(store, blobs, grace_s=settings.blob_grace_ms / 1000, metrics=counted.garbage)
    use_cases = _open_use_cases(settings, stack, database, blobs, garbage, counted)
    registry = Service(
        name=NAME,
        register=partial(
            registry_pb2_grpc.add_RegistryServiceServicer_to_server,
            RegistryServicer(use_cases),
        ),
        roles=ROLES,
        endless=ENDLESS,
    )
    administration = Service(
        name=administration_servicer.NAME,
        register=partial(
            administration_pb2_grpc.add_AdministrationServiceServicer_to_server,
            administration_servicer.AdministrationServicer(Audit(store), garbage),
        ),
        roles=administration_servicer.ROLES,
    )
    part_uploads = PartUploads.from_settings(settings, store, blobs, uploaded_bytes=counted.uploaded_bytes)
    stack.callback(part_uploads.close)
    uploads = Service(
        name=uploads_servicer.NAME,
        register=partial(
            uploads_pb2_grpc.add_UploadServiceServicer_to_server, uploads_servicer.UploadServicer(part_uploads)
        ),
        roles=uploads_servicer.ROLES,
    )
    features = FeatureStore(database)
    services = (
        registry,
        administration,
        uploads,
        features_servicer.service(features, settings),
        views_servicer.service(features),
    )
    traces = open_traces("registry", settings, stack)
    return Server(settings, services, keys=keys, metrics=metrics, checks=(database.check, blobs.check), traces=traces)


def _open_use_cases(
    settings: RegistrySettings,
    stack: ExitStack,
    database: Database,
    blobs: BlobStore,
    garbage: Garbage,
    metrics: RegistryMetrics,
) -> UseCases:
    store = Store(database)
    validations = Validations.from_settings(settings, store, blobs, finished=metrics.validations)
    watches = Watches(
        store,
        Snapshots(store),
        bookmark_s=settings.watch_bookmark_ms / 1000,
        measure=lambda version: encode.version(version).ByteSize(),
    )
    housekeeping = Housekeeping(
        store,
        garbage,
        kept_revisions=settings.kept_revisions,
        interval_s=settings.housekeeping_interval_ms / 1000,
        garbage_interval_s=settings.garbage_interval_ms / 1000,
        versions=metrics.versions,
    )
    listener = database.listen([CHANGES_CHANNEL, VALIDATIONS_CHANNEL], poll_interval_s=settings.poll_interval_ms / 1000)
    wakes = Wakes(listener, {CHANGES_CHANNEL: watches.wake, VALIDATIONS_CHANNEL: validations.wake})
    for part in (validations, housekeeping, wakes):
        part.open()
        stack.callback(part.close)
    return UseCases(
        aliases=Aliases(store),
        catalog=Catalog(store),
        deletions=Deletions(store, retention_s=settings.deleted_retention_ms / 1000),
        editing=Editing(store),
        evaluations=Evaluations(store),
        uploads=Uploads(store, Intake.from_settings(settings, store, blobs, uploaded_bytes=metrics.uploaded_bytes)),
        downloads=Downloads(store, blobs),
        promotions=Promotions(store),
        validations=validations,
        watches=watches,
    )


if __name__ == "__main__":
    sys.exit(
        run(
            "registry",
            sys.argv[1:],
            RegistrySettings,
            build,
            migrate=migrate_schema,
            commands={"restored": begin_epoch},
        )
    )
