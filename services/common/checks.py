"""Checks of single fields. Each says which field, what came, cut to what a person reads, and what is allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from penstock.api.registry.v1 import registry_pb2 as registry
from services.common.addresses import bears_secret
from services.common.errors import InvalidArgument
from services.common.versions import LATEST

MAX_NAME_CHARS = 128
MAX_LINE_CHARS = 256
MAX_TEXT_CHARS = 4_096
MAX_PATH_CHARS = 512
MAX_ALIAS_CHARS = 64
MAX_LABELS = 64
MAX_LABEL_CHARS = 63
MAX_LABEL_VALUE_CHARS = 255
MAX_TAGS = 64
MAX_TAG_CHARS = 64
MAX_FIELDS_BYTES = 16 * 1024
_STAGES = {name.removeprefix("STAGE_") for name in registry.Stage.keys()[1:]}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
# [host[:port]/][namespace/]model[:tag], each part as Ollama allows it.
_OLLAMA_MODEL = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?/)?(?:[A-Za-z0-9_][A-Za-z0-9._-]*/)?"
    r"[A-Za-z0-9_][A-Za-z0-9._-]*(?::[A-Za-z0-9_][A-Za-z0-9._-]*)?"
)
_ALIAS = re.compile(r"[a-z][a-z0-9._-]*")
_LABEL = re.compile(r"[a-z0-9][a-z0-9._/-]*")
_SHOWN_CHARS = 80
# Line ends and tabs are welcome in a note; the rest would corrupt a terminal, and no database takes a NUL.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_CONTROL_OR_END = re.compile(r"[\x00-\x1f\x7f]")
_USER_IN_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,30})://(?P<user>[^/?#\s@]*)@")


def shown(text: str) -> str:
    """Quote what came, and cut it."""
    return repr(text) if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]!r}… ({len(text):,} characters)"


def model_name(field: str, value: str) -> str:
    """Give a model's name back if it is one; raises InvalidArgument (INVALID_NAME)."""
    return _named(field, value, _NAME, "a-z, A-Z, 0-9, '.', '_', '-'")


def version_name(field: str, value: str) -> str:
    """Give a version's name back if it is one; raises InvalidArgument (INVALID_NAME)."""
    return _named(field, value, _VERSION, "a-z, A-Z, 0-9, '.', '_', '-', '+'")


def new_version_name(field: str, value: str) -> str:
    """Give the name of a version to come back if it may be given.

    A stage's name and `latest`, in any case, may not: they mean another version. Raises InvalidArgument (INVALID_NAME).
    """
    version_name(field, value)
    if value.upper() in _STAGES or value.lower() == LATEST:
        raise InvalidArgument.field(
            field, f"got {value!r}, which as a selector has a meaning already; choose another", reason="INVALID_NAME"
        )
    return value


def alias_name(field: str, value: str) -> str:
    """Give an alias back if it is one; a stage's name and `latest` are none. Raises InvalidArgument (INVALID_NAME)."""
    _named(field, value, _ALIAS, "a-z, 0-9, '.', '_', '-'", MAX_ALIAS_CHARS, first="a letter")
    if value.upper() in _STAGES or value == LATEST:
        raise InvalidArgument.field(field, f"got {value!r}, which has a meaning already", reason="INVALID_NAME")
    return value


def ollama_model(field: str, value: str) -> str:
    """Give the name of a model of Ollama's back if it is one; raises InvalidArgument (INVALID_REFERENCE)."""
    if len(value) > MAX_LINE_CHARS or not _OLLAMA_MODEL.fullmatch(value):
        raise InvalidArgument.field(
            field,
            f"got {shown(value)}; send what `ollama pull` takes: [host/][namespace/]model[:tag], such as llama3.2:1b",
            reason="INVALID_REFERENCE",
        )
    return value


def line(field: str, value: str, limit: int = MAX_LINE_CHARS) -> str:
    """Give a line of text back if it is one; raises InvalidArgument (INVALID_TEXT)."""
    return _text(field, value, limit, _CONTROL_OR_END)


def text(field: str, value: str, limit: int = MAX_TEXT_CHARS) -> str:
    """Give text back, line ends included, if it is not too long; raises InvalidArgument (INVALID_TEXT)."""
    return _text(field, value, limit, _CONTROL)


def lines(field: str, values: Iterable[str], *, count: int, limit: int) -> tuple[str, ...]:
    """Give some lines back if they are not too many; raises InvalidArgument (INVALID_TEXT, TOO_MANY)."""
    found = tuple(values)
    if len(found) > count:
        raise InvalidArgument.field(field, f"{len(found):,} came; at most {count} are allowed", reason="TOO_MANY")
    return tuple(line(field, value, limit) for value in found)


def labels(field: str, values: Mapping[str, str]) -> dict[str, str]:
    """Give labels back if they are some; raises InvalidArgument (INVALID_NAME, INVALID_TEXT, TOO_MANY)."""
    if len(values) > MAX_LABELS:
        raise InvalidArgument.field(field, f"{len(values):,} came; at most {MAX_LABELS} are allowed", reason="TOO_MANY")
    for key, value in values.items():
        _named(field, key, _LABEL, "a-z, 0-9, '.', '_', '-', '/'", MAX_LABEL_CHARS)
        line(f"{field}[{key}]", value, MAX_LABEL_VALUE_CHARS)
    return dict(values)


def tags(field: str, values: Iterable[str]) -> tuple[str, ...]:
    """Give tags back if they are some; raises InvalidArgument (INVALID_TEXT, TOO_MANY)."""
    return lines(field, values, count=MAX_TAGS, limit=MAX_TAG_CHARS)


def json_object(field: str, value: Struct) -> dict[str, Any]:
    """Read a JSON object if it is one that can be kept; raises InvalidArgument (INVALID_FIELDS, OUT_OF_BOUNDS)."""
    between(field, value.ByteSize(), 0, MAX_FIELDS_BYTES)
    try:
        found = MessageToDict(value)
    except ValueError as error:
        raise InvalidArgument.field(
            field, "JSON has no NaN and no infinity; leave the value out", reason="INVALID_FIELDS"
        ) from error
    if "\\u0000" in json.dumps(found):
        raise InvalidArgument.field(field, "a NUL character came, which nothing can store", reason="INVALID_FIELDS")
    return found


def file_path(field: str, value: str) -> str:
    """Give a relative path back if it stays in its folder; raises InvalidArgument (INVALID_PATH)."""
    line(field, value, MAX_PATH_CHARS)
    parts = value.split("/")
    if "\\" in value or any(part in ("", ".", "..") for part in parts):
        raise InvalidArgument.field(
            field,
            f"got {shown(value)}; send a relative path with forward slashes and without '.', '..' or empty parts",
            reason="INVALID_PATH",
        )
    return value


def without_credentials(field: str, value: str) -> str:
    """Give text back if no URL in it bears a password or token; raises InvalidArgument (CREDENTIALS_IN_URL).

    It is kept for good, shown to every viewer and written to the audit, so a secret has no place in it.
    """
    found = _USER_IN_URL.search(value)
    if bears_secret(value) or (found and (found["scheme"].lower() != "ssh" or ":" in found["user"])):
        raise InvalidArgument.field(
            field,
            "a URL in it bears a password, token or signature, which everyone would see; leave out what comes before "
            "'@' and such parameters, and revoke that secret if it has travelled",
            reason="CREDENTIALS_IN_URL",
        )
    return value


def between(field: str, value: float, low: float, high: float) -> None:
    """Let a number in a range pass, both ends included; raises InvalidArgument (OUT_OF_BOUNDS)."""
    if not low <= value <= high:
        raise InvalidArgument.field(field, f"got {value}; {low:,} to {high:,} are allowed", reason="OUT_OF_BOUNDS")


def enum_name(field: str, enum: Any, value: int, prefix: str) -> str:
    """Read an enum's value as its name without the prefix; "" where none is given."""
    if value not in enum.values():
        allowed = ", ".join(enum.keys()[1:])
        raise InvalidArgument.field(field, f"got the number {value}; allowed are {allowed}", reason="INVALID_ENUM")
    return str(enum.Name(value)).removeprefix(prefix).replace("UNSPECIFIED", "")


def _named(
    field: str,
    value: str,
    pattern: re.Pattern[str],
    alphabet: str,
    limit: int = MAX_NAME_CHARS,
    first: str = "a letter or digit",
) -> str:
    if len(value) > limit or not pattern.fullmatch(value):
        raise InvalidArgument.field(
            field,
            f"got {shown(value)}; allowed are 1 to {limit} of {alphabet}, the first {first}",
            reason="INVALID_NAME",
        )
    return value


def _text(field: str, value: str, limit: int, forbidden: re.Pattern[str]) -> str:
    if len(value) > limit or forbidden.search(value):
        raise InvalidArgument.field(
            field,
            f"got {shown(value)}; at most {limit:,} characters are allowed, and no control characters",
            reason="INVALID_TEXT",
        )
    return value
