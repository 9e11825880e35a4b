"""How much one read may bring into memory: texts and lists make a few rows large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from services.common.errors import ResourceExhausted
from services.registry.features.models import Feature, FeatureType

MAX_READ_BYTES: Final = 64 * 1024 * 1024
"""Of values. The message that they go into has its own bound."""
_WIDEST_BYTES: Final = {FeatureType.STRING: 16 * 1024, FeatureType.FLOAT64_LIST: 4_096 * 8}
_VALUE_BYTES: Final = 8


def rows_at_once(features: Sequence[Feature]) -> int:
    """Say how many rows surely fit, however wide they are."""
    widest = sum(_WIDEST_BYTES.get(feature.type, _VALUE_BYTES) for feature in features)
    return max(1, MAX_READ_BYTES // max(1, widest))


def in_parts(keys: Sequence[str], features: Sequence[Feature]) -> Iterator[list[str]]:
    """Divide keys so that what is known of each part surely fits."""
    step = rows_at_once(features)
    for begin in range(0, len(keys), step):
        yield list(keys[begin : begin + step])


def check_rows(features: Sequence[Feature], columns: Sequence[Any]) -> None:
    """See that values, None among them, are not too much together; a list counts as the longest of its column."""
    size = 0
    for feature, values in zip(features, columns, strict=True):
        if feature.type is FeatureType.FLOAT64_LIST:
            size += _VALUE_BYTES * len(values) * max((len(each) for each in values if each is not None), default=0)
        elif feature.type is FeatureType.STRING:
            size += sum(len(each) for each in values if each is not None)
        else:
            size += _VALUE_BYTES * len(values)
    check_bytes(size)


def check_bytes(size_bytes: int) -> None:
    """See that it is not too much; raises ResourceExhausted (TOO_LARGE)."""
    if size_bytes > MAX_READ_BYTES:
        sentence = f"the answer has more than the {MAX_READ_BYTES:,} bytes that one read may have"
        raise ResourceExhausted(f"{sentence}; ask for fewer keys or features at once", reason="TOO_LARGE")
