"""Rows of a query as columns of a view, whichever database gave them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final

import numpy as np

from services.common.errors import InvalidArgument
from services.registry.features.imports.batches import check_columns
from services.registry.features.imports.models import EVENT_TIME, Block, SourceColumns
from services.registry.features.models import FIRST_US, LAST_US, Column, Feature, FeatureType, Rows, Times, View
from services.registry.features.store.columns import column_of

BLOCK_ROWS: Final = 8_192
MAX_LIST_LENGTH: Final = 4_096
MAX_STRING_BYTES: Final = 16 * 1024
MAX_KEY_CHARS: Final = 256
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class RowReader:
    """Turns rows of a query into columns of a view: values are checked one by one, and nothing is guessed."""

    def __init__(self, names: Sequence[str], view: View, columns: SourceColumns, now_us: int) -> None:
        """`names` are the query's columns; raises InvalidArgument (UNKNOWN_COLUMN, UNKNOWN_FEATURE)."""
        check_columns(names, columns)
        if len(set(names)) < len(names):
            raise InvalidArgument("two columns have the same name; rename one by AS", reason="UNKNOWN_COLUMN")
        self._names = names
        self._key = columns.key
        self._event = columns.event_time or (EVENT_TIME if EVENT_TIME in names else "")
        self._create = columns.create_time
        self._now_us = now_us
        features = {each.name: each for each in view.stored if not each.expression}
        special = {self._key, self._event, self._create, *columns.ignored}
        self._features: dict[str, Feature] = {}
        for name in names:
            if name in features:
                self._features[name] = features[name]
            elif name not in special:
                sentence = f"the view has no feature {name[:80]!r}; it has {', '.join(features)}; leave the column out"
                raise InvalidArgument(sentence, reason="UNKNOWN_FEATURE")
        self._features = {name: each for name, each in self._features.items() if name not in special}

    def read(self, rows: Sequence[tuple[Any, ...]], begin: int) -> Block:
        """Read rows, the first of which is so many-eth.

        Raises:
            InvalidArgument: a value is missing (MISSING_VALUE), of another type (WRONG_TYPE), or too large
                (OUT_OF_BOUNDS, INVALID_NAME, INVALID_TIME).
        """
        table = dict(zip(self._names, zip(*rows, strict=True), strict=True))
        keys = _values(self._key, table[self._key], _needed(_key), begin)
        times = self._times(self._event, table, begin)
        found = Rows(
            keys,
            np.full(len(rows), self._now_us) if times is None else times,
            {name: self._column(each, table[name], begin) for name, each in self._features.items()},
        )
        return Block(found, self._times(self._create, table, begin))

    def _times(self, name: str, table: dict[str, tuple[Any, ...]], begin: int) -> Times | None:
        return np.array(_values(name, table[name], _needed(_point), begin), np.int64) if name else None

    def _column(self, feature: Feature, values: Sequence[Any], begin: int) -> Column:
        read = _READ[feature.type]
        return column_of(
            feature, _values(feature.name, values, lambda each: None if each is None else read(each), begin)
        )


def _values(name: str, values: Sequence[Any], read: Callable[[Any], Any], begin: int) -> list[Any]:
    found = []
    for row, value in enumerate(values, begin):
        try:
            found.append(read(value))
        except _Unfit as error:
            raise InvalidArgument(f"row {row:,}, column {name!r}: {error}", reason=error.reason) from error
    return found


class _Unfit(Exception):
    """A value is not of its column's type, or too large."""

    def __init__(self, sentence: str, reason: str = "WRONG_TYPE") -> None:
        super().__init__(sentence)
        self.reason = reason


def _needed(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def reading(value: Any) -> Any:
        if value is None:
            raise _Unfit("there is nothing; each row needs its entity and its times", "MISSING_VALUE")
        return read(value)

    return reading


def _key(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _Unfit(f"{type(value).__name__} names no entity; cast it to text")
    key = str(value)
    if not 0 < len(key) <= MAX_KEY_CHARS or "\0" in key:
        raise _Unfit(f"an entity has 1 to {MAX_KEY_CHARS} characters, and no NUL", "INVALID_NAME")
    return key


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise _Unfit(f"{type(value).__name__} is no number")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Unfit(f"{type(value).__name__} is no whole number")
    if not -(2**63) <= value < 2**63:
        raise _Unfit("the number does not fit 64 bits", "OUT_OF_BOUNDS")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Unfit(f"{type(value).__name__} is neither true nor false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Unfit(f"{type(value).__name__} is no text; cast it")
    if len(value.encode()) > MAX_STRING_BYTES or "\0" in value:
        raise _Unfit(f"a text has at most {MAX_STRING_BYTES:,} bytes, and no NUL", "OUT_OF_BOUNDS")
    return value


def _list(value: Any) -> list[float]:
    if not isinstance(value, list):
        raise _Unfit(f"{type(value).__name__} is no list of numbers")
    if len(value) > MAX_LIST_LENGTH:
        raise _Unfit(f"a list has at most {MAX_LIST_LENGTH:,} values", "OUT_OF_BOUNDS")
    return [_number(each) for each in value]


def _point(value: Any) -> int:
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, datetime):
        since = (value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH
        value = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    found = _whole(value)
    if not FIRST_US <= found <= LAST_US:
        raise _Unfit("times of the years 1 to 9999 are allowed, in µs", "INVALID_TIME")
    return found


_READ: Final = {
    FeatureType.FLOAT64: _number,
    FeatureType.INT64: _whole,
    FeatureType.BOOL: _truth,
    FeatureType.STRING: _text,
    FeatureType.FLOAT64_LIST: _list,
    FeatureType.TIMESTAMP: _point,
}
