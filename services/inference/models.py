"""What the inference service knows about a model version: frozen values, given by the registry."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.common.errors import FailedPrecondition, Internal
from services.inference.tensors import Tensor

ANY = -1
"""A dimension that may have any size."""


class ModelFailed(Internal):
    """The model itself could not answer: the request was well-formed, and the run broke."""

    default_reason = "MODEL_FAILED"


class NotAskedLikeThat(FailedPrecondition):
    """The version is of another kind than the call is for: the caller's mistake, which leaves no event.

    Recorded it would count as an error of the model, which was not even asked.
    """


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


class QueueFullAction(enum.Enum):
    """What happens to a request that finds its version's queue full."""

    REJECT = "reject"
    """It is refused."""
    DISPLACE = "displace"
    """The youngest waiting one of a lower priority is refused in its place, if there is one."""


@dataclass(frozen=True, slots=True, eq=False)
class WarmUp:
    """Runs before the first request: `tensors` by name, and zeros with `row_count` rows for the inputs left out."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    row_count: int = 1
    repeat_count: int = 1


@dataclass(frozen=True, slots=True)
class ResponseCachePolicy:
    """Whether answers are kept, and how: 0 means the server's default."""

    enabled: bool = False
    ttl_ms: int = 0
    max_answer_bytes: int = 0


class MissingFeatureAction(enum.Enum):
    """What happens to a request for which a feature view has no value."""

    REFUSE = "refuse"
    USE_DEFAULT = "use_default"
    """The default stands in; where there is none, it is refused."""
    USE_NAN = "use_nan"
    """As USE_DEFAULT; and where there is none, NaN stands in, if the model takes floats."""


@dataclass(frozen=True, slots=True)
class FeatureViewPolicy:
    """Where inputs come from that requests with entity ids leave out: `view` is `name` or `name@2`, "" for none.

    `names` (where the view's differ) and `defaults` go by the model's inputs and columns.
    """

    view: str = ""
    names: Mapping[str, str] = field(default_factory=dict, hash=False)
    missing_action: MissingFeatureAction = MissingFeatureAction.REFUSE
    defaults: Mapping[str, float | str | bool] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Lookup:
    """What a prediction took from a feature view: see FeatureLookup in feature_lookups.proto."""

    view: str
    version: int
    names: tuple[str, ...]
    keys: tuple[str, ...]
    event_times_us: tuple[int, ...]
    substituted_count: int


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """How a version is served; 0 means the server's default throughout. See ServingSettings in registry.proto."""

    max_in_flight: int = 0
    pinned: bool = False
    max_batch_size: int = 0
    max_queue_delay_us: int = 0
    max_queue_size: int = 0
    queue_full_action: QueueFullAction = QueueFullAction.REJECT
    priority_levels: int = 0
    default_priority: int = 0
    timeout_ms: int = 0
    instances: int = 0
    warm_up: tuple[WarmUp, ...] = ()
    preload: bool = False
    response_cache: ResponseCachePolicy = ResponseCachePolicy()
    feature_view: FeatureViewPolicy = FeatureViewPolicy()


@dataclass(frozen=True, slots=True)
class OllamaReference:
    """Which model of the Ollama server answers, and by which of its calls: `chat`, `generate` or `embed`."""

    model: str
    mode: str


@dataclass(frozen=True, slots=True)
class Metadata:
    """What its makers say of a version that serving depends on; `fields` holds JSON values."""

    task_type: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class ResolvedVersion:
    """A model version that a request was resolved to.

    `digest` stands for the files' bytes, or for what a reference refers to, and `key` for the version with them: caches
    live by them, so a name that is registered anew with other bytes never meets an old session.
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
    metadata: Metadata = Metadata()
    ollama: OllamaReference | None = None
    digest: str = field(init=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        lines = sorted(f"{file.sha256} {file.path}\n" for file in self.files)
        if self.ollama is not None:
            lines.append(f"ollama {self.ollama.mode} {self.ollama.model}\n")
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
        object.__setattr__(self, "digest", digest)
        object.__setattr__(self, "key", f"{self.model}/{self.version}@{digest[:32]}")

    @property
    def size_bytes(self) -> int:
        """The size of all files together."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a prediction is for, in the caller's own words. `unrecorded`: it leaves no event."""

    user_id: str = ""
    session_id: str = ""
    request_id: str = ""
    unrecorded: bool = False
