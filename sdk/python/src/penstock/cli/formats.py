"""How the command reads and writes times, durations, sizes and numbers for people."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from penstock.durations import parse_duration

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_VALUE_LENGTH = 60
"""Of a value among others; `--json` has it whole."""


def parse_pairs(texts: Iterable[str]) -> dict[str, str]:
    """Read `name=value` each; the value may hold a `=`, and may be empty.

    Raises:
        ValueError: one is not of this form, or a name comes twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"{text!r} is not of the form NAME=VALUE")
        if name.strip() in pairs:
            raise ValueError(f"{name.strip()!r} comes twice")
        pairs[name.strip()] = value.strip()
    return pairs


def parse_names(text: str) -> list[str]:
    """Read a list of names: `[age,income]`, one with a comma in quotes: `["a,b",c]`; `[]` is none.

    Raises:
        ValueError: it is not of this form; the sentence shows how to write it.
    """
    inner = text.strip()
    if len(inner) < 2 or inner[0] != "[" or inner[-1] != "]":
        meant = say_names(each.strip() for each in inner.strip("[] ").split(","))
        raise ValueError(f"{text!r} is no list: write {meant}")
    try:
        rows = list(csv.reader([inner[1:-1]], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ValueError(f'{text!r} has a quote that does not end: write ["a,b",c]') from error
    names = [name.strip() for row in rows for name in row]
    if not all(names):
        raise ValueError(f"{text!r} has an empty name: write {say_names(filter(None, names))}")
    return names


def say_names(names: Iterable[str]) -> str:
    """Write a list of names as `parse_names` reads it."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(names)
    return f"[{line.getvalue()}]"


def parse_scalar(text: str) -> Any:
    """Read a JSON number, boolean or string, else the text itself."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float | str) else text


def parse_value(text: str) -> Any:
    """Read JSON of any kind, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_time(text: str) -> datetime:
    """Read a point in time: how long ago (`15m`, `7d`), or ISO 8601, in this machine's zone where it names none.

    Raises:
        ValueError: it is neither.
    """
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except ValueError:
        pass
    try:
        return datetime.now(UTC) - parse_duration(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time: write how long ago, such as 15m or 7d, or 2026-01-31T12:00") from None


def say_pairs(pairs: Mapping[str, str]) -> str:
    """Write names and values, by name: `a=1, b=2`."""
    return ", ".join(f"{name}={value}" if value else name for name, value in sorted(pairs.items()))


def say_time(time: datetime | None) -> str:
    """Write a time to the second, in the zone of whoever reads it; nothing for None."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S") if time else ""


def say_short_time(time: datetime | None) -> str:
    """Write a time of today as hours, minutes and seconds, any other with its date and to the minute."""
    if time is None:
        return ""
    here = time.astimezone()
    today = here.date() == datetime.now(UTC).astimezone().date()
    return here.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M")


def say_iso(time: datetime) -> str:
    """Write a time as programs read it: ISO 8601 in UTC."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def say_duration(seconds: float) -> str:
    """Write a duration in its two greatest units: `3d 4h`, `12m 5s`, `0.8s`."""
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    left = int(seconds)
    parts: list[str] = []
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, _UNITS_S[unit])
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def say_bytes(size: float) -> str:
    """Write a size in the binary unit that suits it: `512 B`, `1.4 MiB`."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


def say_count(count: int, noun: str) -> str:
    """Write how many of something there are: `1 row`, `1,200 rows`; the plural is the noun with an s."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def say_number(value: object) -> str:
    """Write a number to six significant digits, and anything else as it is."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def say_value(value: object) -> str:
    """Write a JSON value on one line, only its beginning where it is long or a SHA-256; nothing is a dash."""
    if value is None or value in ("", {}, []):
        return "–"  # noqa: RUF001 - the dash of tables
    if isinstance(value, str):
        words = f"{value[:12]}…" if _DIGEST.fullmatch(value) else value
    elif isinstance(value, float):
        words = say_number(value)
    elif isinstance(value, list) and all(isinstance(each, str) for each in value):
        words = ", ".join(value)
    else:
        words = json.dumps(value, ensure_ascii=False)
    return words if len(words) <= MAX_VALUE_LENGTH else words[: MAX_VALUE_LENGTH - 1] + "…"


def say_share(value: float | None) -> str:
    """Write a share of 1 as a percentage, and what is not known as a dash."""
    return "–" if value is None else f"{value:.2%}"  # noqa: RUF001 - the dash of tables


def say_ms(value: float | None) -> str:
    """Write a latency in milliseconds, and what is not known as a dash."""
    return "–" if value is None else f"{value:,.2f} ms"  # noqa: RUF001 - the dash of tables
