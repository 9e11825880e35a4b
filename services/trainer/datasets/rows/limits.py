"""What rows may be, and how it is said that some are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from services.common.errors import FieldViolation, InvalidArgument, ResourceExhausted

MAX_CELL_BYTES: Final = 1024 * 1024
"""Of one value: a text, or a list as it is written."""
MAX_ROW_BYTES: Final = 4 * 1024 * 1024
BATCH_ROWS: Final = 8_192
BATCH_BYTES: Final = 16 * 1024 * 1024
_SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True)
class RowLimits:
    """The most that a dataset may have; `max_unpacked_bytes` as values in memory, whatever the file packs them to."""

    max_rows: int
    max_columns: int
    max_unpacked_bytes: int


class TooLarge(ResourceExhausted):
    """Rows beyond a limit: the same again is refused again."""

    default_reason = "TOO_LARGE"
    retryable = False


def malformed(row: int, sentence: str, *, column: str = "") -> InvalidArgument:
    """Make the error for a row, 1 the first below the names of the columns."""
    where = f"row {row}" + (f", column {shown(column)}" if column else "")
    return InvalidArgument(
        f"{where}: {sentence}",
        reason="MALFORMED_ROWS",
        violations=(FieldViolation(f"rows[{row}]", f"{where}: {sentence}"),),
        metadata={"row": str(row)},
    )


def unreadable(sentence: str) -> InvalidArgument:
    """Make the error for a file that is not what it was said to be."""
    return InvalidArgument(sentence, reason="MALFORMED_ROWS")


def too_many_columns(count: int, limits: RowLimits) -> InvalidArgument:
    """Make the error for too many columns."""
    sentence = f"{count:,} columns came; {limits.max_columns:,} are allowed: leave some out, or put them into a list"
    return InvalidArgument(sentence, reason="TOO_MANY")


def too_many_rows(limits: RowLimits) -> TooLarge:
    """Make the error for too many rows."""
    return TooLarge(f"more than {limits.max_rows:,} rows came; send a sample of them, or several datasets")


def shown(value: object) -> str:
    """Quote what came, cut to what a person reads."""
    text = value if isinstance(value, str) else str(value)
    cut = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
    return repr(cut)


def checked_names(names: list[str], limits: RowLimits) -> list[str]:
    """Give the names of columns back, if they can be some."""
    if len(names) > limits.max_columns:
        raise too_many_columns(len(names), limits)
    seen: set[str] = set()
    for number, name in enumerate(names, 1):
        if not name or len(name) > 128 or not name.isprintable():
            raise unreadable(
                f"column {number} is called {shown(name)}; a name has 1 to 128 characters, each of which can be printed"
            )
        if name in seen:
            raise unreadable(f"two columns are called {shown(name)}; give each a name of its own")
        seen.add(name)
    return names
