"""What the registry knows: models, versions, stage moves. Frozen values; the state machine of a version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from services.common.errors import FailedPrecondition
from services.registry.ollama import OllamaReference
from services.registry.serving import ServingSettings
from services.registry.training import TrainingConfig

Item = TypeVar("Item")


class Framework(StrEnum):
    """Which runtime opens the files of a version. TENSORFLOWJS is known in order to say how to convert it."""

    ONNX = "ONNX"
    TENSORFLOW = "TENSORFLOW"
    TRANSFORMERS = "TRANSFORMERS"
    OLLAMA = "OLLAMA"
    TENSORFLOWJS = "TENSORFLOWJS"


class VersionState(StrEnum):
    """How far a version has come. An UPLOADING one has no row: what breaks off leaves nothing behind."""

    UPLOADING = "UPLOADING"
    VALIDATING = "VALIDATING"
    READY = "READY"
    FAILED = "FAILED"

    def after(self, new: VersionState) -> VersionState:
        """Give the new state, if a version in this one may take it.

        Raises:
            FailedPrecondition: it may not (WRONG_STATE).
        """
        allowed = STATES_AFTER[self]
        if new not in allowed:
            raise FailedPrecondition(
                f"a version in {self} cannot become {new}; it can become {' or '.join(allowed) or 'nothing else'}",
                reason="WRONG_STATE",
            )
        return new


STATES_AFTER: Mapping[VersionState, tuple[VersionState, ...]] = {
    VersionState.UPLOADING: (VersionState.VALIDATING,),
    VersionState.VALIDATING: (VersionState.READY, VersionState.FAILED),
    VersionState.READY: (),
    VersionState.FAILED: (VersionState.VALIDATING,),
}


class Stage(StrEnum):
    """What a version is for; `stages` says which moves there are."""

    DEVELOPMENT = "DEVELOPMENT"
    CANDIDATE = "CANDIDATE"
    STAGING = "STAGING"
    PRODUCTION = "PRODUCTION"
    ARCHIVED = "ARCHIVED"


class TransitionKind(StrEnum):
    """What moved a version."""

    REGISTER = "REGISTER"
    PROMOTE = "PROMOTE"
    REPLACE = "REPLACE"
    ROLLBACK = "ROLLBACK"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output, named as the model names it.

    `datatype` is the Open Inference Protocol's name; `shape` has -1 where any size is accepted; `columns` name the
    last dimension of a rank-2 tensor, where somebody said.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives, in the model's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class File:
    """One file of a version: relative path, SHA-256 in lowercase hex, size."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Source:
    """Where a version came from."""

    origin: str = "upload"
    reference: str = ""
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What its makers say of a version; `fields` holds JSON values."""

    task_type: str = ""
    equivalence_group: str = ""
    output_dimensions: int = 0
    tags: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CapturePolicy:
    """Which payloads are kept; None is the default that the contract names."""

    disabled: bool = False
    share: float | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Validation:
    """What the validator found in the files."""

    opset: int
    ir_version: int
    producer: str
    rows_independent: bool
    rows_independent_reason: str
    sandbox: tuple[str, ...]
    time: datetime


@dataclass(frozen=True, slots=True)
class Approval:
    """Who moves a version, who approved it, and why."""

    promoted_by: str
    approved_by: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What makes a repeated request the same one; `body_sha256` covers all of it but the id itself."""

    caller: str
    rpc: str
    request_id: str
    body_sha256: str


@dataclass(frozen=True, slots=True)
class NewModel:
    """A model to create."""

    name: str
    description: str
    labels: Mapping[str, str]
    tags: tuple[str, ...]
    request_id: str
    body_sha256: str


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version to register.

    `stage` is what the caller asked for, None where it did not; None for the settings and the policy: the model's.
    """

    model: str
    version: str
    framework: Framework
    stage: Stage | None
    approved_by: str
    note: str
    declared_signature: Signature | None
    source_version: str
    source: Source
    training_run_id: str
    metadata: Metadata
    serving_settings: ServingSettings | None
    capture_policy: CapturePolicy | None
    request_id: str
    body_sha256: str
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    ollama: OllamaReference | None = None
    file_count: int = 0


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file about to arrive; None where the caller did not say.

    `unpack`: it is an archive of files; `upload_id` not "": its bytes came by that upload.
    """

    path: str
    sha256: str | None
    size_bytes: int | None
    unpack: bool = False
    upload_id: str = ""


@dataclass(frozen=True, slots=True)
class FileEnd:
    """The digest of a file that has been sent."""

    sha256: str


UploadPart = NewFile | FileEnd | bytes


@dataclass(frozen=True, slots=True)
class Model:
    """A name under which versions are kept.

    `latest_version` is what `latest` means, "" where none is READY. `serving_settings` and `capture_policy` are the
    defaults of versions that bring none. `aliases` say which version each points at.
    """

    model_id: int
    name: str
    description: str
    tags: tuple[str, ...]
    labels: Mapping[str, str]
    training_config: TrainingConfig
    serving_settings: ServingSettings
    capture_policy: CapturePolicy
    version_count: int
    live_transition_id: int | None
    production_version: str
    latest_version_id: int | None
    latest_version: str
    aliases: Mapping[str, str]
    create_time: datetime
    created_by: str
    update_time: datetime
    edit_count: int
    delete_time: datetime | None
    purge_time: datetime | None

    @property
    def etag(self) -> str:
        """Another one after each change of the model itself."""
        return f"{self.model_id}-{self.edit_count}"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of a model as it stands; `delete_time` None: it was not deleted."""

    version_id: int
    model_id: int
    model: str
    version: str
    deployment_number: int
    framework: Framework
    state: VersionState
    failure_reason: str
    failure_message: str
    stage: Stage
    requested_stage: Stage
    requested_approved_by: str
    requested_note: str
    declared_signature: Signature | None
    files: tuple[File, ...]
    signature: Signature | None
    validation: Validation | None
    source_version: str
    source: Source
    training_run_id: str
    parent_deployment_number: int
    metadata: Metadata
    serving_settings: ServingSettings
    capture_policy: CapturePolicy
    create_time: datetime
    created_by: str
    ready_time: datetime | None
    promoted_time: datetime
    promoted_by: str
    revision: int
    description: str
    labels: Mapping[str, str]
    aliases: tuple[str, ...]
    ollama: OllamaReference | None
    delete_time: datetime | None
    deleted_by: str
    purge_time: datetime | None

    @property
    def ready(self) -> bool:
        """Whether it can be served."""
        return self.state is VersionState.READY

    @property
    def etag(self) -> str:
        """Another one after each change."""
        return f"{self.version_id}-{self.revision}"

    @property
    def size_bytes(self) -> int:
        """The size of all its files together."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class Transition:
    """One stage move; `from_stage` None is a birth.

    `previous_live_transition_id`, on a promotion into PRODUCTION, is the promotion that was in force before it.
    """

    transition_id: int
    model: str
    version_id: int
    version: str
    deployment_number: int
    from_stage: Stage | None
    to_stage: Stage
    kind: TransitionKind
    promoted_by: str
    approved_by: str
    note: str
    promoted_time: datetime
    previous_live_transition_id: int | None


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion or rollback came to: the version that moved, and the one it replaced."""

    version: ModelVersion
    replaced: ModelVersion | None


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to validate a version, until the database's clock says otherwise.

    `attempt` is the fencing token. `crash_count` counts the attempts that ended without a word.
    """

    validation_id: int
    version_id: int
    attempt: int
    crash_count: int


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items, whether there are more, and how to make the token of the page after an item."""

    items: tuple[Item, ...]
    more: bool
    token_after: Callable[[Item], str]
