"""Files of rows in the places that a setting allows, read in a process that has only so much memory and time."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import structlog
from google.protobuf.message import DecodeError

from penstock.api.features.v1 import features_pb2 as pb
from services.common.allowed_files import AllowedFiles, write_scratch
from services.common.errors import DomainError, FailedPrecondition, InvalidArgument
from services.registry.features import convert
from services.registry.features.imports.models import Block, FileSource, SourceColumns
from services.registry.features.models import View

_log = structlog.get_logger(__name__)
MEMORY_LIMIT_BYTES: Final = 1536 * 1024 * 1024
MAX_BLOCK_BYTES: Final = 64 * 1024 * 1024
DIAGNOSTICS_BYTES: Final = 4_096
_CHILD: Final = "services.registry.features.imports.reader_child"
# As common/children starts them: -I ignores the folder and the environment that we were started in.
_START: Final = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
_ROOT: Final = Path(__file__).resolve().parents[4]
_REASONS: Final = frozenset(
    {"MALFORMED_FILE", "MISSING_VALUE", "RAGGED", "UNKNOWN_COLUMN", "UNKNOWN_FEATURE", "WRONG_TYPE"}
)
_MAX_SENTENCE_CHARS: Final = 4_000


class FileReading:
    """Brings a file to a folder of our own, and reads it there block by block."""

    def __init__(
        self, source: FileSource, allowed: AllowedFiles, *, max_bytes: int, folder: Path | None, timeout_s: float,
        require_sandbox: bool,
    ) -> None:  # fmt: skip
        self._source = source
        self._allowed = allowed
        self._max_bytes = max_bytes
        self._folder = folder
        self._timeout_s = timeout_s
        self._require_sandbox = require_sandbox
        self._stopped = False
        self._process: subprocess.Popen[bytes] | None = None

    def blocks(self, view: View, columns: SourceColumns, now_us: int) -> Iterator[Block]:
        """Give the file's rows.

        Raises:
            InvalidArgument: URI_NOT_ALLOWED, TOO_LARGE, MALFORMED_FILE, MISSING_VALUE, RAGGED, UNKNOWN_COLUMN,
                UNKNOWN_FEATURE, WRONG_TYPE.
            NotFound: INPUT_NOT_FOUND.
            Unavailable: INPUT_UNAVAILABLE, SCRATCH_FULL.
            FailedPrecondition: SANDBOX_UNAVAILABLE.
        """
        if not self._allowed.allows(self._source.uri):
            sentence = f"the file lies in no place that PENSTOCK_FEATURE_ROOTS allows ({self._allowed.places})"
            raise InvalidArgument.field("file.uri", sentence, reason="URI_NOT_ALLOWED")
        with tempfile.TemporaryDirectory(prefix="penstock-features-", dir=self._folder) as folder:
            path = Path(folder) / "rows"
            self._bring(path)
            for message in self._messages(path, view, columns, now_us):
                rows = convert.rows(message.rows, view, most=convert.MAX_BLOCK_ROWS)
                yield Block(rows, convert.create_times(message, len(rows.keys)))

    def stop(self) -> None:
        """See `Reading.stop`."""
        self._stopped = True
        if self._process is not None:
            _kill(self._process)

    def _bring(self, path: Path) -> None:
        size_bytes = 0
        with path.open("xb") as out:
            for chunk in self._allowed.chunks(self._source.uri):
                size_bytes += len(chunk)
                if size_bytes > self._max_bytes:
                    sentence = f"the file has more than the {self._max_bytes:,} bytes that are allowed"
                    raise InvalidArgument(f"{sentence}; divide it", reason="TOO_LARGE")
                write_scratch(out, chunk)
                if self._stopped:
                    return

    def _messages(
        self, path: Path, view: View, columns: SourceColumns, now_us: int
    ) -> Iterator[pb.ImportFeaturesRequest]:
        if self._stopped:
            return
        settings = {
            "file": path.name,
            "format": self._source.format.value,
            "kinds": {each.name: each.type.value for each in view.stored if not each.expression},
            "columns": {
                "key": columns.key, "event_time": columns.event_time, "create_time": columns.create_time,
                "ignored": sorted(columns.ignored),
            },
            "now_us": now_us,
            "memory_limit_bytes": MEMORY_LIMIT_BYTES,
            "cpu_limit_s": int(self._timeout_s) + 1,
            "parent_pid": os.getpid(),
            "require_sandbox": self._require_sandbox,
        }  # fmt: skip
        with tempfile.TemporaryFile(dir=path.parent) as complaints:
            process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-c", _START, str(_ROOT), _CHILD, json.dumps(settings)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env={},
                cwd=path.parent,
                start_new_session=True,
            )
            self._process = process
            try:
                yield from self._answers(process)
            except _Ended:
                process.wait()
                if not self._stopped:
                    raise _unread(process.returncode, complaints) from None
            finally:
                _kill(process)
                if process.stdout:
                    process.stdout.close()
                process.wait()

    def _answers(self, process: subprocess.Popen[bytes]) -> Iterator[pb.ImportFeaturesRequest]:
        deadline = time.monotonic() + self._timeout_s
        while True:
            kind, length = struct.unpack(">cI", _read(process, 5, deadline))
            if length > MAX_BLOCK_BYTES:
                raise _malformed("a block of its rows is too large; its texts or lists are")
            content = _read(process, length, deadline)
            match kind:
                case b"B":
                    message = pb.ImportFeaturesRequest()
                    try:
                        message.ParseFromString(content)
                    except DecodeError:
                        raise _malformed("what its reader answered is no rows") from None
                    yield message
                case b"E":
                    return
                case b"R":
                    raise _refusal(content)
                case b"U":
                    message_text = (
                        "this server demands a sandbox that its kernel does not give (seccomp is missing), so the file "
                        "was not read; write the rows yourself, or unset PENSTOCK_FEATURE_REQUIRE_SANDBOX"
                    )
                    raise FailedPrecondition(message_text, reason="SANDBOX_UNAVAILABLE")
                case b"M":
                    raise _too_much_memory()
                case _:
                    raise _malformed("what its reader answered is no rows")


class _Ended(Exception):
    """The child ended in the midst of an answer."""


def _read(process: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
    assert process.stdout is not None  # noqa: S101 - it was asked for
    found = bytearray()
    handle = process.stdout.fileno()
    while len(found) < size:
        ready, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise InvalidArgument("the file was not read in the time that is allowed; divide it", reason="TOO_LARGE")
        chunk = os.read(handle, min(size - len(found), 1024 * 1024))
        if not chunk:
            raise _Ended
        found += chunk
    return bytes(found)


def _kill(process: subprocess.Popen[bytes]) -> None:
    # The whole group, before its leader is reaped, so that the number is still its own.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS has the second for a group that ended
            os.killpg(process.pid, signal.SIGKILL)


def _unread(returncode: int, complaints: IO[bytes]) -> DomainError:
    complaints.seek(0)
    said = complaints.read(DIAGNOSTICS_BYTES).decode(errors="replace")
    if returncode == -signal.SIGKILL or "bad_alloc" in said:
        return _too_much_memory()
    _log.warning("file of features not read", exit_code=returncode, diagnostics=said)
    return _malformed(f"it ended its reader (exit code {returncode})")


def _refusal(answer: bytes) -> InvalidArgument:
    try:
        reason, sentence = json.loads(answer)
    except ValueError:
        reason = sentence = None
    if reason not in _REASONS or not isinstance(sentence, str) or len(sentence) > _MAX_SENTENCE_CHARS:
        return _malformed("its reader gave no reason")
    return InvalidArgument(sentence, reason=reason)


def _too_much_memory() -> InvalidArgument:
    sentence = f"reading the file takes more than the {MEMORY_LIMIT_BYTES >> 20:,} MiB of memory that it may"
    return InvalidArgument(f"{sentence}; write smaller row groups", reason="TOO_LARGE")


def _malformed(sentence: str) -> InvalidArgument:
    return InvalidArgument(f"the file cannot be read: {sentence}; write it anew", reason="MALFORMED_FILE")
