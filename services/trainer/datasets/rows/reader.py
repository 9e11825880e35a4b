"""Files of strangers, read in a process that has only so much memory and time, and nothing else.

Of what comes back only sound rows are taken: every batch is validated in full before anything looks at its values.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from services.common.children.child import TooMuch, run_child
from services.common.children.readers import Broken, OutOfMemory, Refused, check_read
from services.common.errors import DomainError, FieldViolation, InvalidArgument
from services.trainer.datasets.kinds import ColumnType, DatasetFormat
from services.trainer.datasets.rows.arrow import types_of
from services.trainer.datasets.rows.child import Settings
from services.trainer.datasets.rows.limits import RowLimits, TooLarge, unreadable

_CHILD: Final = "services.trainer.datasets.rows.child"
_REASONS: Final = frozenset({"MALFORMED_ROWS", "TOO_MANY", "TOO_LARGE", "UNKNOWN_COLUMN"})
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
            if b"bad_alloc" in ended.complained:
                raise OutOfMemory
            check_read(ended, "rows", reasons=_REASONS, max_sentence_chars=_MAX_SENTENCE_CHARS)
        except TimeoutError:
            raise TooLarge(f"the file was not read within {limits.timeout_s:g} s; send fewer rows at a time") from None
        except OutOfMemory:
            sentence = f"reading the file takes more than the {limits.memory_bytes >> 20:,} MiB of memory that it may"
            raise TooLarge(f"{sentence}; write smaller row groups, or send fewer rows at a time") from None
        except TooMuch:
            sentence = f"the rows unpack to more than the {limits.rows.max_unpacked_bytes:,} bytes that are allowed"
            raise TooLarge(f"{sentence}; send fewer at a time") from None
        except Refused as refused:
            raise _refusal(refused) from None
        except Broken as broken:
            raise unreadable(f"the file can't be read: {broken}; write it anew") from None
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


def _refusal(refused: Refused) -> DomainError:
    if refused.reason == "TOO_LARGE":
        return TooLarge(refused.sentence)
    where, metadata = (f"rows[{refused.place}]", {"row": refused.place}) if refused.place else ("rows", {})
    violations = (FieldViolation(where, refused.sentence),)
    return InvalidArgument(refused.sentence, reason=refused.reason, violations=violations, metadata=metadata)
