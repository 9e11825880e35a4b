"""What a registry should do, in a hundred lines of dictionaries: the tests hold the real one against it.

It knows one model at a time. Every call gives "" or the reason of its refusal.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ALIASES = ("blue", "green")
# All but the last are semantic versions; that one may be an alias as well.
NAMES = ("1", "1.5", "2", "10", ALIASES[0])
STAGES = ("DEVELOPMENT", "CANDIDATE", "STAGING", "PRODUCTION", "ARCHIVED")
MOVES = {
    "DEVELOPMENT": {"CANDIDATE", "ARCHIVED"},
    "CANDIDATE": {"STAGING", "DEVELOPMENT", "ARCHIVED"},
    "STAGING": {"PRODUCTION", "CANDIDATE", "DEVELOPMENT", "ARCHIVED"},
    "PRODUCTION": set(),
    "ARCHIVED": {"STAGING", "CANDIDATE", "DEVELOPMENT"},
}


@dataclass
class Version:
    """A version; `deleted` counts deletions, 0: it was not. `ready` is None until the validator was heard."""

    name: str
    number: int
    stage: str
    wanted: str
    parent: int
    ready: bool | None = None
    deleted: int = 0
    purged: bool = False


@dataclass
class Promotion:
    """A promotion into PRODUCTION, and the one that it followed."""

    version: Version
    before: Promotion | None


@dataclass
class Memory:
    """A model, from its first version to its purge."""

    exists: bool = False
    deleted: bool = False
    versions: list[Version] = field(default_factory=list)
    aliases: dict[str, Version] = field(default_factory=dict)
    moves: list[tuple[str, str, str, str]] = field(default_factory=list)
    live: Promotion | None = None
    deletions: int = 0

    def register(self, name: str, *, ready: bool, stage: str) -> str:
        """Register a version, which is validated at once, and climbs where it may."""
        refused = self.begin(name, stage=stage)
        if not refused:
            self.validate(name, ready=ready)
        return refused

    def begin(self, name: str, *, stage: str) -> str:
        """Register a version, which is not validated yet."""
        if self.exists and self.deleted:
            return "MODEL_DELETED"
        if name in self.aliases:
            return "VERSION_IS_ALIAS"
        if any(v.name == name and (v.ready or not v.deleted) for v in self.versions):
            return "VERSION_EXISTS"
        self.exists = True
        born = "DEVELOPMENT" if stage == "DEVELOPMENT" else "CANDIDATE"
        self.versions.append(Version(name, len(self.versions) + 1, born, stage, self._live_number))
        self.moves.append((name, "UNSPECIFIED", born, "REGISTER"))
        return ""

    def validate(self, name: str, *, ready: bool) -> None:
        """Say what the validator found; a version climbs, and replaces nothing that went live meanwhile."""
        version = self._visible(name)
        version.ready = ready
        while ready and STAGES.index(version.stage) < STAGES.index(version.wanted):
            stage = STAGES[STAGES.index(version.stage) + 1]
            if stage == "PRODUCTION" and self._live_number != version.parent:
                return
            self._move(version, stage)

    def promote(self, name: str, stage: str) -> str:
        """Move a version; "" is the next stage."""
        if missing := self._missing(name):
            return missing
        version = self._visible(name)
        if not stage:
            if version.stage in ("PRODUCTION", "ARCHIVED"):
                return "STAGE_MOVE_FORBIDDEN"
            stage = STAGES[STAGES.index(version.stage) + 1]
        if stage not in MOVES[version.stage]:
            return "STAGE_MOVE_FORBIDDEN"
        if version.ready is False and stage not in ("DEVELOPMENT", "ARCHIVED"):
            return "VERSION_NOT_READY"
        if not version.ready and stage == "PRODUCTION":
            return "VERSION_NOT_READY"
        self._move(version, stage)
        return ""

    def roll_back(self) -> str:
        """Go back to what was live before."""
        if not self._present:
            return "MODEL_NOT_FOUND"
        if self.live is None:
            return "NOTHING_LIVE"
        if self.live.before is None:
            return "NO_PREDECESSOR"
        if self.live.before.version.deleted:
            return "VERSION_DELETED"
        self._put(self.live.version, "ARCHIVED", "ROLLBACK")
        self.live = self.live.before
        self._put(self.live.version, "PRODUCTION", "ROLLBACK")
        return ""

    def set_alias(self, alias: str, name: str) -> str:
        """Point an alias at a version."""
        if missing := self._missing(name):
            return missing
        version = self._visible(name)
        if self.aliases.get(alias) is version:
            return ""
        if not version.ready:
            return "VERSION_NOT_READY"
        if any(v.name == alias and not v.purged and (v.ready or not v.deleted) for v in self.versions):
            return "ALIAS_IS_VERSION"
        self.aliases[alias] = version
        return ""

    def delete_alias(self, alias: str) -> str:
        """Remove an alias."""
        if not self._present:
            return "MODEL_NOT_FOUND"
        return "" if self.aliases.pop(alias, None) else "ALIAS_NOT_FOUND"

    def delete(self, name: str) -> str:
        """Delete a version."""
        if missing := self._missing(name):
            return missing
        version = self._visible(name)
        if version.stage == "PRODUCTION":
            return "VERSION_LIVE"
        self.deletions += 1
        version.deleted = self.deletions
        self.aliases = {alias: each for alias, each in self.aliases.items() if each is not version}
        return ""

    def restore(self, name: str) -> str:
        """Restore the version of a name that was deleted last."""
        if not self.exists:
            return "MODEL_NOT_FOUND"
        if self.deleted:
            return "MODEL_DELETED"
        gone = [v for v in self.versions if v.name == name and v.deleted and not v.purged]
        there = [v for v in self.versions if v.name == name and not v.deleted]
        if not gone:
            return "NOT_DELETED" if there else "VERSION_NOT_FOUND"
        if there:
            return "VERSION_EXISTS"
        if name in self.aliases:
            return "VERSION_IS_ALIAS"
        max(gone, key=lambda version: version.deleted).deleted = 0
        return ""

    def delete_model(self, *, force: bool) -> str:
        """Delete the model."""
        if not self._present:
            return "MODEL_NOT_FOUND"
        if self.live is not None and not force:
            return "MODEL_LIVE"
        self.deleted = True
        return ""

    def restore_model(self) -> str:
        """Restore the model."""
        if not self.exists:
            return "MODEL_NOT_FOUND"
        if not self.deleted:
            return "NOT_DELETED"
        self.deleted = False
        return ""

    def purge(self) -> None:
        """Let what is deleted go for good."""
        if self.deleted:
            self.__init__()  # type: ignore[misc] # another life of the name
        for version in self.versions:
            version.purged = version.purged or version.deleted > 0

    def resolve(self, selector: str) -> str:
        """Give the version that a selector means, or the reason why there is none."""
        if not self._present:
            return "MODEL_NOT_FOUND"
        exact = next((v for v in self.visible if v.name == selector), None)
        if exact is not None:
            return exact.name if exact.ready else "NO_VERSION_READY"
        ready = [v for v in self.visible if v.ready]
        staged = [v for v in ready if v.stage == (selector.upper() or "PRODUCTION")]
        if staged:
            return max(staged, key=lambda version: version.number).name
        if selector in self.aliases:
            return self.aliases[selector].name
        if selector not in ("", "latest"):
            return "NO_VERSION_READY" if selector.upper() in STAGES else "VERSION_NOT_FOUND"
        return self.latest or "NO_VERSION_READY"

    @property
    def visible(self) -> list[Version]:
        """What is listed, the newest first."""
        return [] if self.deleted else [v for v in reversed(self.versions) if not v.deleted]

    @property
    def latest(self) -> str:
        """What `latest` means; "" where nothing is READY. Where one is no semantic version, the newest."""
        ready = [v.name for v in self.visible if v.ready]
        if not set(ready).isdisjoint(ALIASES):
            return ready[0]
        return max(ready, key=lambda name: [int(part) for part in name.split(".")], default="")

    @property
    def _live_number(self) -> int:
        return self.live.version.number if self.live else 0

    @property
    def _present(self) -> bool:
        return self.exists and not self.deleted

    def _missing(self, name: str) -> str:
        if not self._present:
            return "MODEL_NOT_FOUND"
        return "" if any(v.name == name for v in self.visible) else "VERSION_NOT_FOUND"

    def _visible(self, name: str) -> Version:
        return next(v for v in self.visible if v.name == name)

    def _move(self, version: Version, stage: str) -> None:
        if stage == "PRODUCTION":
            if self.live is not None:
                self._put(self.live.version, "ARCHIVED", "REPLACE")
            self.live = Promotion(version, self.live)
        self._put(version, stage, "PROMOTE")

    def _put(self, version: Version, stage: str, kind: str) -> None:
        self.moves.append((version.name, version.stage, stage, kind))
        version.stage = stage
