"""Files that are sent while they are written."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

_FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r")


class Pieces(io.RawIOBase):
    """A file whose bytes are taken away as they come: what writes whole files never holds one."""

    def __init__(self) -> None:
        self._written = bytearray()
        self._position = 0

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Keep bytes until they are taken."""
        size_bytes = memoryview(data).nbytes
        self._written += data
        self._position += size_bytes
        return size_bytes

    def tell(self) -> int:
        """Say how many bytes were written in all."""
        return self._position

    def taken(self) -> bytes:
        """Give what was written since the last time."""
        taken = bytes(self._written)
        self._written.clear()
        return taken


class CsvPieces:
    """Rows as CSV, whose bytes are taken away as they come. A line ends in a line feed.

    A text that begins like a formula, and may be anybody's, has an apostrophe before it, so that no spreadsheet runs
    it; numbers are as they are. See https://owasp.org/www-community/attacks/CSV_Injection.
    """

    def __init__(self) -> None:
        self._text = io.StringIO()
        # Readers end a line at a carriage return too, and the writer quotes only what stands in its own line ends.
        self._writer = csv.writer(self, lineterminator="\r\n")

    def write_rows(self, rows: Iterable[Sequence[Any]]) -> None:
        """Write rows."""
        self._writer.writerows([_harmless(cell) for cell in row] for row in rows)

    def write(self, line: str) -> int:
        """Take a line of the writer's."""
        return self._text.write(line.removesuffix("\r\n") + "\n")

    def taken(self) -> bytes:
        """Give what was written since the last time."""
        text = self._text.getvalue()
        self._text.seek(0)
        self._text.truncate()
        return text.encode(errors="replace")


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_BEGINS) else cell
