"""How the pages of settings write what is built in and what is allowed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
SETTING = re.compile(r"^\| `PENSTOCK_(\w+)` \| (.*?) \| (.*?) \| .+ \|$", re.MULTILINE)


def listed_in(page: str) -> list[tuple[str, str, str]]:
    """Read a page's table: name without PENSTOCK_, what is built in, what is allowed."""
    return SETTING.findall((DOCS / page).read_text())


def default_of(schema: dict[str, Any]) -> str:
    """Write what is built in, as the variable takes it."""
    default = schema.get("default")
    if isinstance(default, list):
        default = ",".join(map(str, sorted(default)))
    if default in (None, "", {}):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, dict):
        return json.dumps(default)
    return f"{default:,}" if isinstance(default, int) else str(default)


def allowed_in(schema: dict[str, Any]) -> str:
    """Write what a setting may be."""
    kind = schema["anyOf"][0] if "anyOf" in schema else schema
    if kind["type"] == "integer":
        return f"{kind['minimum']:,} to {kind['maximum']:,}"
    if kind["type"] == "boolean":
        return "true or false"
    if kind["type"] == "object":
        return "JSON"
    if kind["type"] == "array":
        items = kind["items"]
        return " and ".join(items["enum"]) if "enum" in items else "a list"
    return "a secret" if kind.get("format") == "password" else "a file" if kind.get("format") == "path" else "text"
