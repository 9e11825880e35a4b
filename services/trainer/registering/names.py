"""What a version is called that nobody named."""

from __future__ import annotations

import re
from collections.abc import Iterable

from services.common.versions import semantic_key

FIRST = "1.0.0"
_NUMBERED = re.compile(r"v\d{1,18}", re.ASCII)


def next_name(versions: Iterable[str]) -> str:
    """Give the next minor version above the highest: 1.3.0 → 1.4.0, v7 → v8, nothing → 1.0.0.

    It is above all that parse (Semantic Versioning 2.0.0, section 11), whatever else they are called, so that the
    registry's `latest` finds it once it is READY. A model whose highest is called v7 goes on with v8.
    """
    keys = {version: key for version in versions if (key := semantic_key(version)) is not None}
    if not keys:
        return FIRST
    highest = max(keys, key=lambda version: keys[version])
    major, minor, *_ = keys[highest]
    if _NUMBERED.fullmatch(highest):
        return f"v{major + 1}"
    return f"{'v' if highest.startswith('v') else ''}{major}.{minor + 1}.0"
