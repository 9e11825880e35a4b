"""A registry that dies at one point of an upload, as by kill -9: PENSTOCK_TEST_CRASH_POINT says at which."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from services.common.process import run
from services.registry import intake
from services.registry.__main__ import build
from services.registry.parts import assemblies
from services.registry.reservations import Reservations
from services.registry.settings import RegistrySettings
from services.registry.storage import migrate_schema
from services.registry.store.requests import RequestTable
from services.registry.store.uploads import UploadTable
from services.registry.uploads import Uploads

EXIT_CODE = 86

# Point → what is patched, and whether it dies before or after that.
POINTS: dict[str, tuple[Any, str, bool]] = {
    "spooled": (intake, "entries", True),
    "received": (Reservations, "reserve", True),
    "reserved": (Reservations, "reserve", False),
    "published": (Uploads, "_insert", True),
    "rows_written": (RequestTable, "insert", False),
    "committed": (Uploads, "_insert", False),
    "part_published": (UploadTable, "put_part", True),
    "part_written": (UploadTable, "put_part", False),
    "assembling": (assemblies.Assemblies, "_joined", True),
    "assembled": (UploadTable, "set_finished", True),
    "finished": (assemblies.Assemblies, "_assemble", False),
}


def arm(point: str) -> None:
    """Die at a point; `reserved*2` is the second time that it is reached."""
    name, _, times = point.partition("*")
    place, attribute, before = POINTS[name]
    original: Callable[..., Any] = getattr(place, attribute)
    left = int(times or 1)

    def dying(*arguments: Any, **more: Any) -> Any:
        nonlocal left
        left -= 1
        if before and not left:
            os._exit(EXIT_CODE)
        result = original(*arguments, **more)
        if not left:
            os._exit(EXIT_CODE)
        return result

    setattr(place, attribute, dying)


if __name__ == "__main__":
    arm(os.environ["PENSTOCK_TEST_CRASH_POINT"])
    sys.exit(run("registry", sys.argv[1:], RegistrySettings, build, migrate=migrate_schema))
