"""CSV and JSON, read row by row by the standard library: which row is wrong can be said of each."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from services.trainer.datasets.rows.limits import (
    MAX_CELL_BYTES,
    MAX_ROW_BYTES,
    RowLimits,
    checked_names,
    malformed,
    shown,
    unreadable,
)

DELIMITERS: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
"""What may stand between the cells of a CSV, and what many of them are called."""
_READ_BYTES: Final = 256 * 1024
_SPACE: Final = re.compile(r"[ \t\r\n]*")


def csv_rows(data: memoryview, limits: RowLimits, delimiter: str = "") -> tuple[list[str], Iterator[list[str | None]]]:
    """Give the names of the columns, and the cells of each row; an empty cell is missing. Empty lines are none.

    Without a delimiter it is the comma, and a file that is likely divided by another is refused.
    """
    csv.field_size_limit(MAX_CELL_BYTES)
    if not delimiter:
        _refuse_other_delimiter(data)
    records = _records(data, delimiter or ",")
    header = next(records, None)
    if header is None:
        raise unreadable("the file is empty; its first line names the columns")
    names = checked_names([name.strip() for name in header], limits)
    return names, _cells(records, len(names))


def _refuse_other_delimiter(data: memoryview) -> None:
    """Refuse a file whose first line is one column by commas and several by another delimiter."""
    line = next((line for line in _lines_of_csv(data) if line.strip()), "")
    widths = {delimiter: _width(line, delimiter) for delimiter in DELIMITERS}
    likely = max(widths, key=lambda delimiter: widths[delimiter])
    if widths[","] == 1 and widths[likely] > 1:
        raise unreadable(
            f"the first line, {shown(line.strip())}, has {DELIMITERS[likely]} and no comma between cells; "
            f"set header.delimiter to {likely!r}, or to ',' where this is one column"
        )


def _width(line: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([line], delimiter=delimiter), []))
    except csv.Error:  # what reads the rows says what is wrong with them
        return 0


def _cells(records: Iterator[list[str]], width: int) -> Iterator[list[str | None]]:
    for row, cells in enumerate(records, 1):
        if len(cells) != width:
            raise malformed(row, f"it has {len(cells)} cells, and the first line names {width} columns")
        yield [cell or None for cell in cells]


def _records(data: memoryview, delimiter: str) -> Iterator[list[str]]:
    reader = csv.reader(_lines_of_csv(data), delimiter=delimiter, strict=True)
    row = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            sentence = f"{error} (line {reader.line_num}); quote cells as RFC 4180 says, of at most 1 MiB each"
            raise (malformed(row, sentence) if row else unreadable(f"the first line: {sentence}")) from None
        if cells:
            row += 1
            yield cells


def _lines_of_csv(data: memoryview) -> Iterator[str]:
    for number, line in enumerate(_lines(data), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise unreadable(f"line {number} is no UTF-8; save the file as UTF-8") from None
        if "\0" in text:
            raise unreadable(f"line {number} has a NUL character, which no text has; is it a CSV file?")
        yield text


def json_rows(data: memoryview) -> Iterator[dict[str, Any]]:
    """Give the objects of a file: one a line, or an array of them."""
    begins = bytes(data[:_READ_BYTES]).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    values = _array(data) if begins == b"[" else _values_of_lines(data)
    for row, value in enumerate(values, 1):
        if not isinstance(value, dict):
            raise malformed(row, f"{shown(json.dumps(value))} came; a row is an object of values by column")
        yield value


def _values_of_lines(data: memoryview) -> Iterator[Any]:
    row = 0
    for number, line in enumerate(_lines(data), 1):
        text = _decoded(line, number).strip()
        if not text:
            continue
        row += 1
        try:
            yield json.loads(text)
        except (ValueError, RecursionError) as error:
            raise malformed(row, f"line {number} is no JSON: {_why(error)}") from None


def _array(data: memoryview) -> Iterator[Any]:
    """Give the values of one array, of which no more than a row and a piece is held as text."""
    text, at, row = _Text(data), 0, 1
    text.drop(text.skip_to("["))
    while (at := text.skip(0)) < len(text.held) and text.held[at] != "]":
        text.drop(at)
        value, end = _value(text, row)
        yield value
        text.drop(end)
        at = text.skip(0)
        if at < len(text.held) and text.held[at] == ",":
            text.drop(at + 1)
            row += 1
        elif at >= len(text.held) or text.held[at] != "]":
            raise malformed(row, "after it comes neither a comma nor the array's end")
    if at >= len(text.held):
        raise malformed(row, "the file ends before its array does; was it sent whole?")
    text.drop(at + 1)
    if text.skip(0) < len(text.held):
        raise unreadable("something comes after the array's end; a file is one array, or an object a line")


def _value(text: _Text, row: int) -> tuple[Any, int]:
    decoder = json.JSONDecoder()
    while True:
        try:
            value, end = decoder.raw_decode(text.held)
            # A number at the end of what is held may go on.
            if end < len(text.held) or not text.more():
                return value, end
        except RecursionError:
            raise malformed(row, "it is nested too deeply") from None
        except ValueError as error:
            if len(text.held) > MAX_ROW_BYTES or not text.more():
                raise malformed(row, f"it is no JSON: {_why(error)}") from None


class _Text:
    """The part of a file that is looked at, as text."""

    def __init__(self, data: memoryview) -> None:
        self._pieces = _pieces(data)
        self.held = ""

    def more(self) -> bool:
        """Hold another piece; False where there is none."""
        piece = next(self._pieces, None)
        self.held += piece or ""
        return piece is not None

    def drop(self, end: int) -> None:
        """Hold the rest alone."""
        self.held = self.held[end:]

    def skip(self, at: int) -> int:
        """Say where the next character is that is no space; the end where there is none."""
        while True:
            found = _SPACE.match(self.held, at)
            at = found.end() if found else at
            if at < len(self.held) or not self.more():
                return at

    def skip_to(self, character: str) -> int:
        """Say what comes after the first such character, which is the first that is no space."""
        at = self.skip(0)
        return at + 1 if self.held[at : at + 1] == character else at


def _pieces(data: memoryview) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    for start in range(0, len(data), _READ_BYTES):
        chunk = bytes(data[start : start + _READ_BYTES])
        try:
            yield decoder.decode(chunk, final=start + _READ_BYTES >= len(data))
        except UnicodeDecodeError:
            raise unreadable(f"the file is no UTF-8 after about {start:,} bytes; save it as UTF-8") from None


def _lines(data: memoryview) -> Iterator[bytes]:
    rest, number = b"", 1
    for start in range(0, len(data), _READ_BYTES):
        *whole, rest = (rest + bytes(data[start : start + _READ_BYTES])).split(b"\n")
        for line in whole:
            yield line + b"\n"
        number += len(whole)
        if len(rest) > MAX_ROW_BYTES:
            raise unreadable(f"line {number} has more than {MAX_ROW_BYTES:,} bytes; a row has fewer")
    if rest:
        yield rest


def _decoded(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise unreadable(f"line {number} is no UTF-8; save the file as UTF-8") from None


def _why(error: BaseException) -> str:
    return (error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__)[:200]
