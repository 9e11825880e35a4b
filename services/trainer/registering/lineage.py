"""What a version's metadata says of the run that made it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.values import to_struct
from services.trainer.registering.models import Registration

MAX_FIELD_BYTES: Final = 12 * 1024
"""Of the free fields together; the registry takes 16 KiB, in an encoding of its own."""
MAX_LISTED_BYTES: Final = 4 * 1024
"""Of one list, such as the columns; of a longer one its length is said."""
MAX_REVISION_CHARS: Final = 256
ORIGIN: Final = "training"


def source_of(registration: Registration) -> registry.Source:
    """Say where a version came from: the dataset, by its name and the digest of its rows."""
    digest = registration.dataset_digest
    if len(digest) > MAX_REVISION_CHARS:  # of several datasets: one that stands for all
        digest = hashlib.sha256(digest.encode()).hexdigest()
    return registry.Source(
        origin=ORIGIN,
        reference=registration.dataset or f"run {registration.run_id}",
        revision=digest,
    )


def metadata_of(registration: Registration) -> registry.Metadata:
    """Say what the version is and how it was made: columns, label, classes, run, recipe, config, dataset, code."""
    outcome = registration.outcome
    said: dict[str, Any] = {
        "training_run_id": registration.run_id,
        "recipe": registration.recipe,
        "config_version": registration.config_version,
        "dataset": registration.dataset,
        "dataset_digest": registration.dataset_digest,
        "code_sha256": outcome.code_sha256,
        "label_column": outcome.label,
        "created_by": registration.created_by,
        **_listed("columns", [column.name for column in outcome.features]),
        **_listed("classes", outcome.classes),
    }
    fields = {name: value for name, value in said.items() if value or value == 0}
    for name, value in (*outcome.metadata.items(), ("environment", dict(outcome.environment))):
        if name not in fields and value and _bytes({**fields, name: value}) <= MAX_FIELD_BYTES:
            fields[name] = value
    return registry.Metadata(task_type=outcome.task_type, tags=["trained"], fields=to_struct(fields))


def _listed(name: str, values: Sequence[str]) -> Mapping[str, Any]:
    listed = list(values)
    if _bytes(listed) <= MAX_LISTED_BYTES:
        return {name: listed}
    return {f"{name.removesuffix('s')}_count": len(listed)}


def _bytes(value: Any) -> int:
    return len(json.dumps(value, default=str).encode())
