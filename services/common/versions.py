"""The order of versions, and which version a selector means: one rule for the registry and for inference."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Protocol, TypeVar

# Semantic Versioning 2.0.0, section 2 and 9 to 11; a leading `v` and missing minor or patch numbers are let pass.
_SEMANTIC = re.compile(
    r"v?(?P<major>\d{1,18})(?:\.(?P<minor>\d{1,18}))?(?:\.(?P<patch>\d{1,18}))?"
    r"(?:-(?P<pre>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?",
    re.ASCII,
)
LATEST = "latest"


class Version(Protocol):
    """What the rule needs to know of a version."""

    @property
    def version(self) -> str: ...  # noqa: D102 - the caller's string
    @property
    def deployment_number(self) -> int: ...  # noqa: D102 - counts a model's versions
    @property
    def stage_name(self) -> str: ...  # noqa: D102 - lowercase
    @property
    def ready(self) -> bool: ...  # noqa: D102 - whether it can be served
    @property
    def aliases(self) -> Collection[str]: ...  # noqa: D102 - the names that point at it


AnyVersion = TypeVar("AnyVersion", bound=Version)
SemanticKey = tuple[int, int, int, tuple[tuple[int, int | str], ...]]


def semantic_key(version: str) -> SemanticKey | None:
    """Give a version's place in semantic order; None where it does not parse."""
    match = _SEMANTIC.fullmatch(version)
    if match is None:
        return None
    numbers = (int(match["major"]), int(match["minor"] or 0), int(match["patch"] or 0))
    return (*numbers, _prerelease_key(match["pre"]))


def _prerelease_key(text: str | None) -> tuple[tuple[int, int | str], ...]:
    # Section 11: a release is above its pre-releases; numbers are below words; a longer one above its beginning.
    if text is None:
        return ((2, 0),)
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in text.split("."))


def latest(versions: Iterable[AnyVersion]) -> AnyVersion | None:
    """Find the highest semantic version that is READY; where one of them does not parse, the newest of all."""
    ready = [version for version in versions if version.ready]
    if not ready:
        return None
    keys = {version.version: semantic_key(version.version) for version in ready}
    if None in keys.values():
        return max(ready, key=lambda version: version.deployment_number)
    return max(ready, key=lambda version: (keys[version.version] or (), version.deployment_number))


def resolve(versions: Iterable[AnyVersion], selector: str) -> AnyVersion | None:
    """Find the version that a selector means among a model's versions.

    An exact version; else the newest READY one in the stage of that name, or the one that an alias of that name
    points at; empty: PRODUCTION, else the latest. The version found by its exact name or by an alias may not be
    READY; the caller says what that means.
    """
    candidates = list(versions)
    exact = next((version for version in candidates if version.version == selector), None)
    if exact is not None:
        return exact
    if selector not in ("", LATEST):
        aliased = next((version for version in candidates if selector in version.aliases), None)
        return _newest_in(candidates, selector.lower()) or aliased
    return (_newest_in(candidates, "production") if selector == "" else None) or latest(candidates)


def _newest_in(versions: list[AnyVersion], stage_name: str) -> AnyVersion | None:
    staged = [version for version in versions if version.ready and version.stage_name == stage_name]
    return max(staged, key=lambda version: version.deployment_number, default=None)
