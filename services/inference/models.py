"""What the inference service knows about a model version: frozen values, given by the registry."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from services.common.errors import Internal

ANY = -1
"""A dimension that may have any size."""


class ModelFailed(Internal):
    """The model itself could not answer: the request was well-formed, and the run broke."""

    default_reason = "MODEL_FAILED"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: its name, Open Inference datatype and shape, where -1 is any size.

    `columns` names the features along the last dimension, where the version was registered with names.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives, in the file's own order and by its own names."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """One file of a version: its path within the artifact, the SHA-256 in lower-case hex, its size."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CapturePolicy:
    """Which payloads are kept with the events; the slim event is always kept.

    `share` of the inferences, 0 to 1, by a hash of the id; payloads over `max_bytes` are left out.
    """

    disabled: bool = False
    share: float = 1.0
    max_bytes: int = 65_536


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """How a version is served. `max_in_flight` 0 means the server's default; a pinned one is never evicted."""

    max_in_flight: int = 0
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class ResolvedVersion:
    """A model version that a request was resolved to.

    `digest` stands for the files' bytes and `key` for the version with those bytes: caches live by them, so a
    name that is registered anew with other bytes never meets an old session.
    """

    model: str
    version: str
    deployment_number: int
    framework: str
    stage: str
    signature: Signature
    files: tuple[ArtifactFile, ...] = ()
    rows_independent: bool = False
    capture: CapturePolicy = CapturePolicy()
    serving: ServingSettings = ServingSettings()
    digest: str = field(init=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        lines = sorted(f"{file.sha256} {file.path}\n" for file in self.files)
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
        object.__setattr__(self, "digest", digest)
        object.__setattr__(self, "key", f"{self.model}/{self.version}@{digest[:32]}")

    @property
    def size_bytes(self) -> int:
        """The size of all files together."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a prediction is for, in the caller's own words."""

    user_id: str = ""
    session_id: str = ""
    request_id: str = ""
