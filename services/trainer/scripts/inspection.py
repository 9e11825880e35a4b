"""Scripts of strangers, read in a process that has only so much memory and time, and nothing else."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from services.common.children.child import TooMuch, run_child
from services.common.children.readers import Broken, OutOfMemory, Refused, check_read
from services.common.errors import DomainError, FieldViolation, InvalidArgument
from services.trainer.scripts.child import Settings
from services.trainer.scripts.models import Contents
from services.trainer.scripts.sources import ScriptTooLarge

_CHILD: Final = "services.trainer.scripts.child"
_MEMORY_BYTES: Final = 512 * 1024 * 1024
_TIMEOUT_S: Final = 120.0
_CPU_S: Final = 60
_ANSWER_BYTES: Final = 4 * 1024 * 1024
_MAX_SENTENCE_CHARS: Final = 16_000
_REASONS: Final = frozenset(
    {
        "INVALID_ENTRY", "ENTRY_NOT_FOUND", "SYNTAX_ERROR", "NO_TRAIN", "NO_FILES", "DUPLICATE_PATH",
        "RESERVED_NAME", "COMPILED_CODE", "ARCHIVE_UNREADABLE", "ARCHIVE_UNSAFE", "ARCHIVE_TOO_LARGE", "TOO_LARGE",
    }
)  # fmt: skip


def inspect_script(path: Path, entry: str, folder: Path, check: Callable[[], None]) -> Contents:
    """Say what is in a script; `folder` is where its reader starts. Nothing of it is run.

    `check` is called while it is read, and may raise: its reader is ended then.

    Raises:
        InvalidArgument, ScriptTooLarge: see `sources.contents_of`.
    """
    settings = Settings(str(path.absolute()), entry, _MEMORY_BYTES, _CPU_S, os.getpid())
    deadline = time.monotonic() + _TIMEOUT_S
    try:
        ended = run_child(_CHILD, settings.written(), folder, deadline=deadline, limit_bytes=_ANSWER_BYTES, check=check)
        check_read(ended, "script", reasons=_REASONS, max_sentence_chars=_MAX_SENTENCE_CHARS)
    except TimeoutError:
        raise _too_much(f"takes more than {_CPU_S} s of the processor to compile, or {_TIMEOUT_S:g} s in all") from None
    except OutOfMemory:
        raise _too_much(f"takes more than {_MEMORY_BYTES >> 20} MiB of memory to compile") from None
    except TooMuch:
        raise _unreadable("its reader says too much") from None
    except Refused as refused:
        raise _refusal(refused) from None
    except Broken as broken:
        raise _unreadable(str(broken)) from None
    try:
        said = json.loads(ended.said)
        sizes = {str(path): int(size_bytes) for path, size_bytes in said["files"].items()}
        return Contents(bool(said["packed"]), str(said["entry"]), sizes)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _unreadable("its reader gave no answer") from None


def _refusal(refused: Refused) -> DomainError:
    if refused.reason == "TOO_LARGE":
        return ScriptTooLarge(refused.sentence)
    violations = (FieldViolation(refused.place, refused.sentence),) if refused.place else ()
    return InvalidArgument(refused.sentence, reason=refused.reason, violations=violations)


def _too_much(what: str) -> ScriptTooLarge:
    return ScriptTooLarge(f"the script {what}; send fewer and smaller Python files")


def _unreadable(what: str) -> InvalidArgument:
    return InvalidArgument(f"the script can't be read: {what}; write it anew", reason="SYNTAX_ERROR")
