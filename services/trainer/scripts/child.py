"""The process that reads one script of a stranger: `… child SETTINGS > answer`, an object of JSON.

The compiler may be brought to its knees, so it runs in a sandbox, which closes before it sees a byte. A script that is
refused ends the process with REFUSED, the last line of stderr saying why.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from services.common.children.complaints import NO_SECCOMP, OUT_OF_MEMORY, REFUSED, complaint
from services.common.children.sandbox import SandboxLimits, address_space_bytes, enter
from services.common.errors import DomainError, InvalidArgument
from services.trainer.scripts.sources import ScriptTooLarge, contents_of

_LIBRARIES = (
    "zlib", "zipfile", "encodings.cp437", "encodings.cp1252", "encodings.iso8859_15", "unicodedata", "traceback",
)  # fmt: skip
"""Imported by themselves on first use, which is too late in a sandbox; the encodings are those of files' names, and of
Python beside UTF-8 and Latin-1."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the parent asks for; the memory is what the script may take beside the libraries."""

    file: str
    entry: str
    memory_limit_bytes: int
    cpu_limit_s: int
    parent_pid: int

    def written(self) -> str:
        """Write it as the child's argument."""
        return json.dumps(asdict(self))


def main() -> None:
    """Read the settings, close the sandbox, read the script, answer, and leave without clean-up."""
    settings = Settings(**json.loads(sys.argv[1]))
    for name in _LIBRARIES:
        importlib.import_module(name)
    source = io.BytesIO(Path(settings.file).read_bytes())
    memory_limit_bytes = settings.memory_limit_bytes + address_space_bytes()
    sandbox = enter(SandboxLimits(memory_limit_bytes, settings.cpu_limit_s), settings.parent_pid)
    if "seccomp" not in sandbox:
        sys.stderr.write(NO_SECCOMP + "\n")
    code = 0
    try:
        sys.stdout.write(json.dumps(asdict(contents_of(source, settings.entry))))
    except (InvalidArgument, ScriptTooLarge) as refusal:
        _complain(refusal)
        code = REFUSED
    except MemoryError:
        code = OUT_OF_MEMORY
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _complain(refusal: DomainError) -> None:
    field = refusal.violations[0].field if isinstance(refusal, InvalidArgument) and refusal.violations else ""
    sys.stderr.write(complaint(refusal.reason, refusal.message, field))


if __name__ == "__main__":
    main()
