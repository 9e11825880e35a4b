"""Parquet files of strangers, read in a process that has only so much memory and time, and nothing else.

A page says itself how large it is once it is unpacked, whatever the footer says of it; the library believes it. So the
file is parsed where that can hurt nobody, and of what comes back only a sound frame is taken.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from pathlib import Path

import structlog

from services.common.children.child import Ended, TooMuch, run_child, signal_name
from services.common.errors import FailedPrecondition, InvalidArgument
from services.monitoring.profiles.frame_bytes import (
    COLUMN_BYTES,
    FRAME,
    KIND_BYTES,
    NO_SECCOMP,
    OUT_OF_MEMORY,
    REFUSAL,
    UNPROTECTED,
)
from services.monitoring.profiles.frames import Frame
from services.monitoring.profiles.reference import MAX_FEATURES, Columns
from services.monitoring.profiles.sampling import MAX_BYTES
from services.monitoring.profiles.sound_frames import Unsound, frame_from

_log = structlog.get_logger(__name__)
MEMORY_LIMIT_BYTES = 1536 * 1024 * 1024
"""For a row group, and the rows that are kept while they are put together."""
TIMEOUT_S = 300.0
_CHILD = "services.monitoring.profiles.parquet_child"
_REASONS = frozenset({"MALFORMED_FILE", "TOO_MANY_FEATURES", "TOO_LARGE", "UNKNOWN_COLUMN"})
_DIAGNOSTICS_BYTES = 4096
_MAX_SENTENCE_CHARS = 4_000


def read_parquet(
    path: Path,
    columns: Columns,
    *,
    require_sandbox: bool = False,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
    timeout_s: float = TIMEOUT_S,
) -> Frame:
    """Read a file's rows, or a uniform sample where they are too many.

    Raises:
        InvalidArgument: MALFORMED_FILE, TOO_MANY_FEATURES, TOO_LARGE, UNKNOWN_COLUMN (an ignored one is not there).
        FailedPrecondition: with `require_sandbox`, where the kernel gives no seccomp (SANDBOX_UNAVAILABLE).
    """
    most_columns = MAX_FEATURES + len(columns.named)
    settings = {
        "file": path.name,
        "most_columns": most_columns,
        "require_sandbox": require_sandbox,
        "memory_limit_bytes": memory_limit_bytes,
        "cpu_limit_s": int(timeout_s) + 1,
        "parent_pid": os.getpid(),
    }
    with tempfile.TemporaryFile(dir=path.parent) as ignored:
        ignored.write(json.dumps(sorted(columns.ignored)).encode())
        ignored.seek(0)
        try:
            ended = run_child(
                _CHILD,
                json.dumps(settings),
                path.parent,
                deadline=time.monotonic() + timeout_s,
                # Of a sample, beside what is counted of it, each row has a place in columns that it has nothing in.
                limit_bytes=2 * MAX_BYTES + COLUMN_BYTES * (most_columns + 1),
                stdin=ignored,
            )
        except TimeoutError:
            raise _too_slow(timeout_s) from None
        except TooMuch:
            raise _malformed("its reader answered with more than any file has") from None
    return _frame(ended, most_columns, memory_limit_bytes, timeout_s)


def _frame(ended: Ended, most_columns: int, memory_limit_bytes: int, timeout_s: float) -> Frame:
    kind, answer = bytes(ended.said[:KIND_BYTES]), memoryview(ended.said)[KIND_BYTES:]
    if ended.returncode == -signal.SIGXCPU:
        raise _too_slow(timeout_s)
    if kind == OUT_OF_MEMORY or ended.returncode == -signal.SIGKILL or b"bad_alloc" in ended.complained:
        sentence = f"reading the file takes more than the {memory_limit_bytes >> 20:,} MiB of memory that it may"
        raise InvalidArgument(f"{sentence}; write smaller row groups, or send a sample of its rows", reason="TOO_LARGE")
    if ended.returncode < 0:
        raise _malformed(f"it ended its reader ({signal_name(-ended.returncode)})")
    if ended.returncode == 0 and kind == REFUSAL:
        raise _refusal(bytes(answer))
    if ended.returncode == 0 and kind == UNPROTECTED:
        message = (
            "this server demands a sandbox that its kernel does not give (seccomp is missing), so the file was not "
            "read; send CSV or JSONL, or unset PENSTOCK_PROFILE_REQUIRE_SANDBOX"
        )
        raise FailedPrecondition(message, reason="SANDBOX_UNAVAILABLE")
    if ended.returncode or kind != FRAME:
        said = ended.complained[-_DIAGNOSTICS_BYTES:].decode(errors="replace")
        _log.warning("file not read", exit_code=ended.returncode, diagnostics=said)
        raise _malformed(f"its reader gave up (exit code {ended.returncode})")
    if NO_SECCOMP.encode() in ended.complained:
        _log.warning("file read without a sandbox", reason=NO_SECCOMP)
    try:
        return frame_from(answer, most_columns)
    except Unsound:
        raise _malformed("what its reader answered is no rows") from None


def _refusal(answer: bytes) -> InvalidArgument:
    try:
        reason, sentence = json.loads(answer)
    except ValueError:
        reason = sentence = None
    if reason not in _REASONS or not isinstance(sentence, str) or len(sentence) > _MAX_SENTENCE_CHARS:
        return _malformed("its reader gave no reason")
    return InvalidArgument(sentence, reason=reason)


def _too_slow(timeout_s: float) -> InvalidArgument:
    sentence = f"the file was not read within {timeout_s:g} s; send a sample of its rows"
    return InvalidArgument(sentence, reason="TOO_LARGE")


def _malformed(sentence: str) -> InvalidArgument:
    return InvalidArgument(
        f"the file is no Parquet that can be read: {sentence}; write it anew", reason="MALFORMED_FILE"
    )
