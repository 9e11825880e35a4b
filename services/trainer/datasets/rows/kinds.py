"""What a column is of which the file says only texts or JSON: the narrowest type that all of its values fit."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from services.common.errors import InvalidArgument
from services.trainer.datasets.kinds import ColumnType
from services.trainer.datasets.rows.limits import MAX_CELL_BYTES, malformed, shown


class Kind(enum.Enum):
    """What one value is."""

    WHOLE = "a whole number"
    NUMBER = "a number"
    BOOLEAN = "true or false"
    TIME = "a time"
    LIST = "a list of numbers"
    TEXT = "a text"
    OTHER = "neither a number, a text, a boolean nor a list of numbers"
    BROKEN = "no Unicode: it has half a surrogate pair"
    HUGE = "a text of more than 1 MiB"


_WHOLE: Final = re.compile(r"[+-]?\d{1,19}")
_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d{1,4})?|[+-]?inf(?:inity)?|nan", re.IGNORECASE)
_TIME: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?(?:Z|[+-]\d{2}:?\d{2})?)?", re.IGNORECASE
)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_LARGEST: Final = 2**63
_FITTING: Final[Mapping[ColumnType, frozenset[Kind]]] = {
    ColumnType.INT64: frozenset({Kind.WHOLE}),
    ColumnType.FLOAT64: frozenset({Kind.WHOLE, Kind.NUMBER}),
    ColumnType.BOOL: frozenset({Kind.BOOLEAN}),
    ColumnType.TIMESTAMP: frozenset({Kind.TIME}),
    ColumnType.FLOAT64_LIST: frozenset({Kind.LIST}),
    ColumnType.STRING: frozenset({Kind.TEXT, Kind.TIME}),
}
"""The narrowest first."""
_NEVER: Final = (Kind.OTHER, Kind.BROKEN, Kind.HUGE)


def kind_of_text(text: str) -> Kind:
    """Say what a cell of CSV is."""
    text = text.strip()
    if _WHOLE.fullmatch(text):
        return Kind.WHOLE if -_LARGEST <= int(text) < _LARGEST else Kind.NUMBER
    if _NUMBER.fullmatch(text):
        return Kind.NUMBER
    if text.startswith("["):
        return Kind.LIST if _list_of(text) is not None else Kind.TEXT
    return Kind.BOOLEAN if text.lower() in ("true", "false") else _kind_of_word(text)


def kinds_of_texts(texts: Sequence[str | None]) -> list[Kind | None]:
    """Say of cells of CSV what each is; None is missing. Numbers, which most are, at once."""
    cells = pc.utf8_trim_whitespace(pa.array(texts, pa.string()))
    whole = pc.match_substring_regex(cells, r"^[+-]?[0-9]{1,18}$").to_pylist()
    number = pc.match_substring_regex(cells, r"^[+-]?[0-9]+\.[0-9]+$").to_pylist()
    return [
        None if text is None
        else Kind.WHOLE if is_whole
        else Kind.NUMBER if is_number
        else kind_of_text(text)
        for text, is_whole, is_number in zip(texts, whole, number, strict=True)
    ]  # fmt: skip


def kinds_of_json(values: Sequence[Any]) -> list[Kind | None]:
    """Say of values of JSON what each is; None is missing."""
    return [None if value is None else kind_of_json(value) for value in values]


def kind_of_json(value: Any) -> Kind:
    """Say what a value of JSON is."""
    if isinstance(value, bool):
        return Kind.BOOLEAN
    if isinstance(value, int):
        return Kind.WHOLE if -_LARGEST <= value < _LARGEST else Kind.NUMBER
    if isinstance(value, float):
        return Kind.NUMBER
    if isinstance(value, str):
        return _kind_of_word(value)
    if isinstance(value, list):
        return Kind.LIST if all(map(_is_number, value)) else Kind.OTHER
    return Kind.OTHER


def values_of(values: Sequence[Any], kind: ColumnType) -> list[Any]:
    """Read values that fit a type: cells' texts, or values of JSON. None is missing."""
    read = _READ[kind]
    return [None if value is None else read(value) for value in values]


@dataclass(slots=True)
class Seen:
    """The values of a column, as they are seen."""

    counts: dict[Kind, int] = field(default_factory=dict)
    first_rows: dict[Kind, tuple[int, str]] = field(default_factory=dict)

    def add(self, kinds: Sequence[Kind | None], values: Sequence[Any], first_row: int) -> None:
        """Count values by kind, None being missing; `first_row` is the row of the first of them."""
        for number, kind in enumerate(kinds):
            if kind is None:
                continue
            if kind not in self.counts:
                self.counts[kind] = 0
                self.first_rows[kind] = (first_row + number, shown(values[number]))
            self.counts[kind] += 1

    def type_of(self, name: str, declared: ColumnType | None, *, texts: bool) -> ColumnType:
        """Say the column's type. `texts`: all values are texts by themselves, so that any could be meant as one.

        Where most values of texts are of one kind, the others are mistakes; else all are texts.

        Raises:
            InvalidArgument: MALFORMED_ROWS, naming the first row that does not fit.
        """
        for never in _NEVER:
            if never in self.first_rows:
                row, value = self.first_rows[never]
                raise malformed(row, f"{value} is {never.value}", column=name)
        if declared is not None:
            allowed = _FITTING[declared]
            if declared is ColumnType.STRING and texts:
                return declared
            self._check(name, allowed, f"the column is declared {declared}")
            return declared
        for kind, allowed in _FITTING.items():
            if self.counts and self.counts.keys() <= allowed:
                return kind
        if not self.counts:
            return ColumnType.FLOAT64
        total = sum(self.counts.values())
        sizes = {kind: sum(self.counts.get(each, 0) for each in allowed) for kind, allowed in _FITTING.items()}
        most = max(sizes, key=lambda kind: sizes[kind])
        if texts and (most is ColumnType.STRING or sizes[most] * 2 <= total):
            return ColumnType.STRING
        hint = ", or declare the column STRING" if texts else ""
        self._check(name, _FITTING[most], f"{sizes[most]:,} of {total:,} values are {most}; correct it{hint}")
        return most

    def _check(self, name: str, allowed: frozenset[Kind], why: str) -> None:
        wrong = [(row, value, kind) for kind, (row, value) in self.first_rows.items() if kind not in allowed]
        if wrong:
            row, value, kind = min(wrong, key=lambda each: each[0])
            raise malformed(row, f"{value} is {kind.value}; {why}", column=name)


def check_declared(declared: Mapping[str, ColumnType], names: Sequence[str]) -> None:
    """See that every declared column is there."""
    if unknown := sorted(declared.keys() - set(names)):
        sentence = f"there is no column {shown(unknown[0])}; there are {', '.join(map(shown, names[:20]))}"
        raise InvalidArgument.field(f"header.column_types[{unknown[0]}]", sentence, reason="UNKNOWN_COLUMN")


def _kind_of_word(text: str) -> Kind:
    if len(text) > MAX_CELL_BYTES:
        return Kind.HUGE
    if not text.isascii() and _SURROGATE.search(text):
        return Kind.BROKEN
    if _TIME.fullmatch(text.strip()):
        try:
            _time_of(text.strip())
        except ValueError:
            return Kind.TEXT
        return Kind.TIME
    return Kind.TEXT


def _time_of(text: str) -> datetime:
    """Read a time; one that names no zone is in UTC. Raises ValueError."""
    found = datetime.fromisoformat(text.upper())
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _list_of(text: str) -> list[Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and all(map(_is_number, found)) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(value: Any) -> list[float]:
    numbers = _list_of(value) if isinstance(value, str) else value
    return [float(number) for number in numbers or ()]


_READ: Final[Mapping[ColumnType, Callable[[Any], Any]]] = {
    ColumnType.INT64: int,
    ColumnType.FLOAT64: float,
    ColumnType.BOOL: lambda value: value if isinstance(value, bool) else value.strip().lower() == "true",
    ColumnType.TIMESTAMP: lambda value: _time_of(value.strip()),
    ColumnType.FLOAT64_LIST: _numbers,
    ColumnType.STRING: lambda value: value,
}
