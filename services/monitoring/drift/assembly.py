"""Putting this part of monitoring together."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.server import Service
from services.monitoring.parts import Parts


def assemble(parts: Parts) -> Sequence[Service]:  # noqa: ARG001 - nothing is built of it yet
    """Build the part on what others have built, add its chores, and give what it serves."""
    return ()
