"""Files of strangers, read in a process that has only so much memory and time, and nothing else.

Of what comes back only sound rows are taken: every batch is validated in full before anything looks at its values.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import structlog

from services.common.children.child import Ended, TooMuch, run_child, signal_name
from services.common.errors import DomainError, FieldViolation, InvalidArgument
from services.trainer.datasets.kinds import ColumnType, DatasetFormat
from services.trainer.datasets.rows.arrow import types_of
from services.trainer.datasets.rows.child import NO_SECCOMP, OUT_OF_MEMORY, REFUSED, Settings
from services.trainer.datasets.rows.limits import RowLimits, TooLarge, unreadable

_log = structlog.get_logger(__name__)
_CHILD: Final = "services.trainer.datasets.rows.child"
_REASONS: Final = frozenset({"MALFORMED_ROWS", "TOO_MANY", "TOO_LARGE", "UNKNOWN_COLUMN"})
_DIAGNOSTICS_BYTES: Final = 4_096
_MAX_SENTENCE_CHARS: Final = 4_000
_FRAMING_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What reading a file may take."""

    rows: RowLimits
    memory_bytes: int
    timeout_s: float


def read_file(
    path: Path,
    form: DatasetFormat,
    declared: Mapping[str, ColumnType],
    limits: ReadLimits,
    folder: Path,
    check: Callable[[], None],
    *,
    delimiter: str = "",
) -> Iterator[pa.RecordBatch]:
    """Give a file's rows in their order, of `ColumnType`s alone; at least one batch, which says the columns.

    `check` is called while the file is read, and may raise: its reader is ended then.

    Raises:
        InvalidArgument: MALFORMED_ROWS, TOO_MANY, UNKNOWN_COLUMN.
        ResourceExhausted: TOO_LARGE.
    """
    answer = folder / "rows.arrow"
    settings = Settings(
        str(path.absolute()),
        form,
        declared,
        limits.rows,
        limits.memory_bytes,
        int(limits.timeout_s) + 1,
        os.getpid(),
        delimiter,
    )
    with answer.open("wb") as into:
        try:
            ended = run_child(
                _CHILD,
                settings.written(),
                folder,
                deadline=time.monotonic() + limits.timeout_s,
                limit_bytes=limits.rows.max_unpacked_bytes + _FRAMING_BYTES,
                into=into,
                check=check,
            )
        except TimeoutError:
            raise _too_slow(limits) from None
        except TooMuch:
            sentence = f"the rows unpack to more than the {limits.rows.max_unpacked_bytes:,} bytes that are allowed"
            raise TooLarge(f"{sentence}; send fewer at a time") from None
    _check_ended(ended, limits)
    yield from _sound(answer)
    answer.unlink()


def _sound(answer: Path) -> Iterator[pa.RecordBatch]:
    try:
        with pa.memory_map(str(answer)) as source, pa.ipc.open_stream(source) as stream:
            types_of(stream.schema)
            yield pa.RecordBatch.from_pylist([], schema=stream.schema)
            for batch in stream:
                batch.validate(full=True)
                yield batch
    except (pa.ArrowException, ValueError) as error:
        raise unreadable(f"what its reader answered is no rows ({type(error).__name__}); write the file anew") from None


def _check_ended(ended: Ended, limits: ReadLimits) -> None:
    if ended.returncode == -signal.SIGXCPU:
        raise _too_slow(limits)
    if ended.returncode in (OUT_OF_MEMORY, -signal.SIGKILL) or b"bad_alloc" in ended.complained:
        sentence = f"reading the file takes more than the {limits.memory_bytes >> 20:,} MiB of memory that it may"
        raise TooLarge(f"{sentence}; write smaller row groups, or send fewer rows at a time")
    if ended.returncode == REFUSED:
        raise _refusal(bytes(ended.complained))
    if ended.returncode < 0:
        raise unreadable(f"the file ended its reader ({signal_name(-ended.returncode)}); write it anew")
    if ended.returncode:
        said = ended.complained[-_DIAGNOSTICS_BYTES:].decode(errors="replace")
        _log.warning("file not read", exit_code=ended.returncode, diagnostics=said)
        raise unreadable(f"the file's reader gave up (exit code {ended.returncode}); write it anew")
    if NO_SECCOMP.encode() in ended.complained:
        _log.warning("file read without a sandbox", reason=NO_SECCOMP)


def _refusal(complained: bytes) -> DomainError:
    try:
        reason, sentence, row = json.loads(complained.rstrip().rpartition(b"\n")[2])
    except ValueError:
        reason, sentence, row = "", "", ""
    if reason not in _REASONS or not isinstance(sentence, str) or len(sentence) > _MAX_SENTENCE_CHARS:
        return unreadable("the file's reader gave no reason; write it anew")
    if reason == "TOO_LARGE":
        return TooLarge(sentence)
    where = f"rows[{row}]" if row else "rows"
    metadata = {"row": str(row)} if row else {}
    return InvalidArgument(sentence, reason=reason, violations=(FieldViolation(where, sentence),), metadata=metadata)


def _too_slow(limits: ReadLimits) -> TooLarge:
    return TooLarge(f"the file was not read within {limits.timeout_s:g} s; send fewer rows at a time")
