"""docs/webhooks.md, the page that receivers are written by, as tests hold what is sent to it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = (Path(__file__).parents[1] / "docs" / "webhooks.md").read_text()
JSON_TYPES = {
    str: "string", int: "number", float: "number", bool: "boolean", list: "array", dict: "object", type(None): "null"
}  # fmt: skip


def section(title: str) -> str:
    """Give a part of the page that receivers are written by."""
    return PAGE.partition(f"{title}\n")[2].partition("\n## ")[0]


def told_types(text: str) -> list[dict[str, set[str]]]:
    """Read the page's tables of fields: the types that each may have."""
    tables: list[dict[str, set[str]]] = []
    for line in text.splitlines():
        if line == "| field | type | what |":
            tables.append({})
        elif found := re.match(r"\| `(\w+)` \| ([a-z ]+) \|", line):
            tables[-1][found[1]] = set(found[2].split(" or "))
    return tables


def types_of(documents: list[dict[str, Any]]) -> dict[str, set[str]]:
    return {name: {JSON_TYPES[type(each[name])] for each in documents} for name in documents[0]}
