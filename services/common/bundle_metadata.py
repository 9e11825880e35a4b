"""What a Transformers bundle's metadata may say: serving goes by it, and a slip would show at the first call."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from services.common.errors import InvalidArgument
from services.common.text_tasks import CLS, MEAN, TASK_NAMES, TASK_TYPES, find_named

_POOLINGS = (MEAN, CLS)
_FLAGS = ("normalize", "multi_label")


def check(task_type: str, fields: Mapping[str, Any]) -> None:
    """Hold what serving reads to what it knows.

    Raises:
        InvalidArgument: UNKNOWN_TASK_TYPE, INVALID_FIELDS.
    """
    said = task_type
    if said.strip() and find_named(said) is None:
        sentence = f"{said!r} is no task of a Transformers bundle{_meant(said, TASK_NAMES)}; it may be {TASK_TYPES}"
        raise InvalidArgument.field("metadata.task_type", sentence, reason="UNKNOWN_TASK_TYPE")
    pooling = fields.get("pooling")
    if pooling is not None and pooling not in _POOLINGS:
        raise _wrong("pooling", pooling, f"{_meant(str(pooling), _POOLINGS)}; it may be {' or '.join(_POOLINGS)}")
    for name in _FLAGS:
        value = fields.get(name)
        if value is not None and not isinstance(value, bool):
            raise _wrong(name, value, "; it may be true or false")


def _wrong(name: str, value: object, rest: str) -> InvalidArgument:
    return InvalidArgument.field(f"metadata.fields.{name}", f"{value!r} came{rest}", reason="INVALID_FIELDS")


def _meant(word: str, words: Iterable[str]) -> str:
    """Name the word that was meant, if one is close."""
    close = difflib.get_close_matches(word.strip().lower().replace("_", "-"), list(words), n=1)
    return f", did you mean {close[0]!r}?" if close else ""
