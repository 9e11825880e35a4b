"""Scripts, put together."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.server import Service
from services.trainer.parts import Parts
from services.trainer.recipes.catalogue import Catalogue
from services.trainer.scripts import servicer
from services.trainer.scripts.catalog import Scripts
from services.trainer.scripts.store import ScriptStore
from services.trainer.scripts.uploads import Uploads


def open_scripts(parts: Parts) -> tuple[Scripts, Sequence[Service]]:
    """Open what scripts need; gives what runs call, and the services."""
    store = ScriptStore(parts.database)
    scripts = Scripts(store, parts.blobs)
    catalogue = Catalogue(scripts_enabled=parts.settings.trainer_scripts_enabled)
    uploads = Uploads(store, parts.blobs, catalogue, parts.work_folder)
    return scripts, (servicer.service(scripts, uploads),)
