"""The trainer's process: `python -m services.trainer` serves; with `migrate` it only brings its schema up to date."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from services.common.blobs import BlobStore, open_blobs
from services.common.clients import client_of
from services.common.keys import KeyRing
from services.common.metrics import MetricsServer
from services.common.migrate import migrate
from services.common.postgres import Database
from services.common.process import run
from services.common.scratch import Scratch
from services.common.server import Server
from services.common.traces import open_traces
from services.trainer.datasets.assembly import open_datasets
from services.trainer.parts import Parts
from services.trainer.registering.profiling import ReferenceProfiles
from services.trainer.runs.assembly import open_runs
from services.trainer.scripts.assembly import open_scripts
from services.trainer.settings import TrainerSettings
from services.trainer.validating.assembly import open_validations
from services.trainer.workers.assembly import open_outside

SCHEMA = "trainer"
MIGRATIONS = Path(__file__).with_name("migrations")


def migrate_schema(settings: TrainerSettings) -> tuple[str, ...]:
    """Bring the schema up to date; names what was applied."""
    return migrate(settings.database_url.get_secret_value(), SCHEMA, MIGRATIONS)


def build(settings: TrainerSettings, stack: ExitStack) -> Server:
    """Build the trainer on what its settings name; what is opened on the way, the stack closes."""
    keys = KeyRing(settings.keys_file)
    keys.open()
    database = stack.enter_context(Database.from_settings(settings, name="penstock-trainer"))
    blobs = _blobs(settings)
    stack.callback(blobs.close)
    metrics = MetricsServer(settings.host, settings.metrics_port)
    traces = open_traces("trainer", settings, stack)
    open_client = partial(
        client_of,
        settings,
        registry=settings.registry_address,
        inference=settings.inference_address,
        monitoring=settings.monitoring_address or None,
    )
    # Recipes that run as another user look for their folder below it.
    scratch = Scratch(settings.trainer_work_folder, "penstock-trainer-", mode=0o711)
    scratch.open()
    stack.callback(scratch.close)
    parts = Parts(settings, database, blobs, open_client, metrics.registry, stack, scratch.folder)
    datasets, dataset_services, dataset_checks = open_datasets(parts)
    scripts, script_services = open_scripts(parts)
    outside = open_outside(parts)
    profiles = ReferenceProfiles(open_client, monitoring=bool(settings.monitoring_address))
    run_services, run_checks = open_runs(parts, datasets, scripts, outside, profiles)
    validation_services, validation_checks = open_validations(parts, datasets)
    served = (*run_services, *validation_services, *dataset_services, *script_services, *outside.services)
    checks = (database.check, blobs.check, *dataset_checks, *run_checks, *validation_checks)
    return Server(settings, served, keys=keys, metrics=metrics, checks=checks, traces=traces)


def _blobs(settings: TrainerSettings) -> BlobStore:
    access_key, secret_key = settings.blob_access_key, settings.blob_secret_key
    return open_blobs(
        settings.blob_url,
        prefix="trainer",
        access_key=access_key.get_secret_value() if access_key else None,
        secret_key=secret_key.get_secret_value() if secret_key else None,
    )


if __name__ == "__main__":
    sys.exit(run("trainer", sys.argv[1:], TrainerSettings, build, migrate=migrate_schema))
