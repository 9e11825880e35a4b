"""What a run was done with: the environment, and a digest of all that made the version."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_RECIPES: Final = Path(__file__).resolve().parent


def environment(*packages: str) -> dict[str, str]:
    """Give Python's version, the platform, and the version of each of these packages that is installed."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def code_sha256(recipe: str, parameters: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """Digest the code of the recipes, what this one was told, and what it ran with."""
    digest = hashlib.sha256()
    for path in sorted(_RECIPES.glob("*.py")):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    said = {"recipe": recipe, "parameters": dict(parameters), "environment": dict(environment)}
    digest.update(json.dumps(said, sort_keys=True, default=str).encode())
    return digest.hexdigest()
