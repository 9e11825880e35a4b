"""Whose an upload is."""

from __future__ import annotations

import uuid

from services.common import checks
from services.common.errors import NotFound
from services.common.keys import Role, caller
from services.registry.parts.models import Upload


def owned(upload: Upload | None, upload_id: str) -> Upload:
    """Give an upload back if it is there and the caller's, or the caller an admin; raises NotFound (UPLOAD_NOT_FOUND).

    To others it does not exist, so that nobody learns of other people's.
    """
    if upload is None or (upload.created_by != caller().name and caller().role < Role.ADMIN):
        raise _unknown(upload_id)
    return upload


def upload_id(value: str) -> str:
    """Give an upload's id back, as it is written here; raises NotFound (UPLOAD_NOT_FOUND) for what can't be one."""
    try:
        return str(uuid.UUID(value))
    except ValueError:
        raise _unknown(value) from None


def _unknown(upload_id: str) -> NotFound:
    return NotFound(
        f"no upload {checks.shown(upload_id)} of yours; it may have expired, 7 days after its last part: begin anew",
        reason="UPLOAD_NOT_FOUND",
    )
