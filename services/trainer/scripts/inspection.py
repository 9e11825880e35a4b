"""Scripts of strangers, read in a process that has only so much memory and time, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from services.common.children.child import Ended, TooMuch, run_child, signal_name
from services.common.errors import DomainError, FieldViolation, InvalidArgument
from services.trainer.scripts.child import NO_SECCOMP, OUT_OF_MEMORY, REFUSED, Settings
from services.trainer.scripts.models import Contents
from services.trainer.scripts.sources import ScriptTooLarge

_log = structlog.get_logger(__name__)
_CHILD: Final = "services.trainer.scripts.child"
_MEMORY_BYTES: Final = 512 * 1024 * 1024
_TIMEOUT_S: Final = 120.0
_CPU_S: Final = 60
_ANSWER_BYTES: Final = 4 * 1024 * 1024
_MAX_SENTENCE_CHARS: Final = 16_000
_DIAGNOSTICS_BYTES: Final = 4_096
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
    except TimeoutError:
        raise _too_much(f"is not compiled within {_TIMEOUT_S:g} s") from None
    except TooMuch:
        raise _unreadable("its reader says too much") from None
    _check_ended(ended)
    try:
        said = json.loads(ended.said)
        sizes = {str(path): int(size_bytes) for path, size_bytes in said["files"].items()}
        return Contents(bool(said["packed"]), str(said["entry"]), sizes)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _unreadable("its reader gave no answer") from None


def _check_ended(ended: Ended) -> None:
    if ended.returncode == -signal.SIGXCPU:
        raise _too_much(f"takes more than {_CPU_S} s to compile")
    if ended.returncode in (OUT_OF_MEMORY, -signal.SIGKILL):
        raise _too_much(f"takes more than {_MEMORY_BYTES >> 20} MiB of memory to compile")
    if ended.returncode == REFUSED:
        raise _refusal(bytes(ended.complained))
    if ended.returncode < 0:
        raise _unreadable(f"it ended the compiler ({signal_name(-ended.returncode)})")
    if ended.returncode:
        said = ended.complained[-_DIAGNOSTICS_BYTES:].decode(errors="replace")
        _log.warning("script not read", exit_code=ended.returncode, diagnostics=said)
        raise _unreadable(f"its reader gave up (exit code {ended.returncode})")
    if NO_SECCOMP.encode() in ended.complained:
        _log.warning("script read without a sandbox", reason=NO_SECCOMP)


def _refusal(complained: bytes) -> DomainError:
    try:
        reason, sentence, field = json.loads(complained.rstrip().rpartition(b"\n")[2])
    except ValueError:
        reason, sentence, field = "", "", ""
    if reason not in _REASONS or not isinstance(sentence, str) or len(sentence) > _MAX_SENTENCE_CHARS:
        return _unreadable("its reader gave no reason")
    if reason == "TOO_LARGE":
        return ScriptTooLarge(sentence)
    violations = (FieldViolation(str(field), sentence),) if field else ()
    return InvalidArgument(sentence, reason=reason, violations=violations)


def _too_much(what: str) -> ScriptTooLarge:
    return ScriptTooLarge(f"the script {what}; send fewer and smaller Python files")


def _unreadable(what: str) -> InvalidArgument:
    return InvalidArgument(f"the script can't be read: {what}; write it anew", reason="SYNTAX_ERROR")
