"""The validator's process: `python -m services.registry.validation` validates what is registered, as a queue gives it.

It answers health and metrics, and nothing else: whatever it needs is in the registry's database and blob store.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

from services.common.keys import KeyRing
from services.common.metrics import MetricsServer
from services.common.postgres import Database
from services.common.process import run
from services.common.server import Server
from services.registry.metrics import RegistryMetrics
from services.registry.storage import migrate_schema, open_registry_blobs
from services.registry.store import CONSTRAINTS, Store
from services.registry.store.validations import VALIDATIONS_CHANNEL
from services.registry.validation.settings import ValidatorSettings
from services.registry.validations import Validations
from services.registry.wakes import Wakes


def build(settings: ValidatorSettings, stack: ExitStack) -> Server:
    """Build the validator on what its settings name; what is opened on the way, the stack closes."""
    keys = KeyRing(settings.keys_file)
    keys.open()
    database = stack.enter_context(Database.from_settings(settings, name="penstock-validator", constraints=CONSTRAINTS))
    blobs = open_registry_blobs(settings)
    stack.callback(blobs.close)
    metrics = MetricsServer(settings.host, settings.metrics_port)
    finished = RegistryMetrics(metrics.registry).validations
    validations = Validations.from_settings(settings, Store(database), blobs, finished=finished)
    listener = database.listen([VALIDATIONS_CHANNEL], poll_interval_s=settings.poll_interval_ms / 1000)
    for part in (validations, Wakes(listener, {VALIDATIONS_CHANNEL: validations.wake})):
        part.open()
        stack.callback(part.close)
    return Server(settings, (), keys=keys, metrics=metrics, checks=(database.check, blobs.check))


if __name__ == "__main__":
    sys.exit(run("registry.validation", sys.argv[1:], ValidatorSettings, build, migrate=migrate_schema))
