"""What the registry and the trainer know of versions and their training, asked through the SDK."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from threading import BoundedSemaphore
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from penstock import Client
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.api.tensors.v1.tensors_pb2 import TensorSpec
from penstock.api.trainer.v1 import datasets_pb2 as datasets
from penstock.api.trainer.v1 import training_pb2 as trainer
from penstock.errors import InvalidArgument, NotFound
from services.monitoring.clients import CallError, sentence_of

T = TypeVar("T")
PLACES = 4
"""Questions to others at once."""
PLACE_WAIT_S = 0.5
NO_TRAINER = "no trainer is configured: set PENSTOCK_TRAINER_ADDRESS where monitoring runs"


class MissingError(Exception):
    """What was asked for can't be told, and why; `unknown`: whoever should know it says that it does not exist."""

    def __init__(self, why: str, *, unknown: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.unknown = unknown


@dataclass(frozen=True, slots=True)
class Input:
    """An input of a version: `width` is how many numbers or texts a row has of it, 0 where that is open.

    `columns` are what these are called, in order; empty where nobody said.
    """

    name: str
    width: int
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A version as the registry has it; times are None where it has not come to that, texts empty.

    `source` is where its files came from: the kind of place, the reference there, and the revision.
    """

    model: str
    version: str
    deployment_number: int
    parent_deployment_number: int
    framework: str
    state: str
    stage: str
    source_version: str
    source: str
    training_run_id: str
    create_time: datetime | None
    created_by: str
    promoted_time: datetime | None
    promoted_by: str
    inputs: tuple[Input, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A run as the trainer has it."""

    id: str
    model: str
    state: str
    type: str
    requested_by: str
    retraining_request_id: str
    note: str
    parent_version: str
    config_version: int
    dataset: str
    new_version: str
    validation_passed: bool | None
    message: str
    create_time: datetime | None


@dataclass(frozen=True, slots=True)
class Evaluated:
    """How a version did on some rows, as the registry keeps it."""

    id: int
    dataset: str
    metrics: Mapping[str, float]
    passed: bool
    shortfalls: Sequence[str]
    note: str
    evaluated_by: str
    time: datetime | None


@dataclass(frozen=True, slots=True)
class Moved:
    """A move of a version from stage to stage; '' where it was born."""

    id: int
    from_stage: str
    to_stage: str
    kind: str
    promoted_by: str
    approved_by: str
    note: str
    time: datetime | None


@dataclass(frozen=True, slots=True)
class KeptDataset:
    """A dataset's version, as the trainer keeps it."""

    row_count: int
    column_count: int
    digest: str
    source: str
    created_by: str
    create_time: datetime | None


class RegistryReader:
    """Asks for one answer, one person's question: who gives none is not asked again.

    Both are asked with this service's key, and with seconds of patience: a lineage without them is better than none.
    `places` are shared by all questions: those that wait for a deaf registry leave threads for feedback and events.
    """

    def __init__(self, client: Client, places: BoundedSemaphore, *, with_trainer: bool) -> None:
        self._client = client
        self._places = places
        self._silent: dict[str, str] = {} if with_trainer else {"trainer": NO_TRAINER}

    def knows(self, model: str) -> bool:
        """Say whether there is a model of this name; raises MissingError where nobody tells."""
        try:
            self._ask("registry", lambda: self._client.registry.get_model(model))
        except MissingError as missing:
            if missing.unknown:
                return False
            raise
        return True

    def live_version(self, model: str) -> str:
        """Name a model's version in PRODUCTION; '' where none is; raises MissingError."""
        return self._ask("registry", lambda: self._client.registry.get_model(model).production_version)

    def model_names(self, most: int) -> list[str]:
        """Name models, by name, a page at most; raises MissingError."""
        listed = self._ask("registry", lambda: list(islice(self._client.registry.list_models(page_size=most), most)))
        return [model.name for model in listed]

    def in_use(self, model: str) -> bool:
        """Say whether a model has a version that is not archived; raises MissingError, also where there is no model."""

        def ask() -> bool:
            self._client.registry.get_model(model)
            listed = self._client.registry.list_versions(model)
            return any(each.stage != registry.STAGE_ARCHIVED for each in listed)

        return self._ask("registry", ask)

    def version(self, model: str, version: str) -> RegisteredVersion:
        """Give a version; raises MissingError."""
        return _version(self._ask("registry", lambda: self._client.registry.get_version(model, version)))

    def live_at(self, model: str, time: datetime) -> RegisteredVersion:
        """Give the version that was in PRODUCTION at a time; raises MissingError."""
        return _version(self._ask("registry", lambda: self._client.registry.live_version(model, at=time).version))

    def evaluations(self, model: str, version: str, most: int) -> list[Evaluated]:
        """List a version's newest evaluations; raises MissingError."""
        asked = self._client.registry.evaluations
        return self._ask("registry", lambda: list(map(_evaluated, islice(asked(model, version, page_size=most), most))))

    def moves(self, model: str, version: str, most: int) -> list[Moved]:
        """List a version's newest moves from stage to stage; raises MissingError."""
        asked = self._client.registry.transitions
        return self._ask("registry", lambda: list(map(_moved, islice(asked(model, version, page_size=most), most))))

    def dataset(self, name: str, version: int) -> KeptDataset:
        """Give a dataset's version; raises MissingError."""
        return _dataset(self._ask("trainer", lambda: self._client.datasets.get(name, version)))

    def run(self, run_id: str) -> TrainingRun:
        """Give a run; raises MissingError."""
        return _run(self._ask("trainer", lambda: self._client.training.get_run(run_id)))

    def _ask(self, who: str, call: Callable[[], T]) -> T:
        if who in self._silent:
            raise MissingError(self._silent[who])
        if not self._places.acquire(timeout=PLACE_WAIT_S):
            raise MissingError(f"many wait for an answer of the {who} at this moment; ask again")
        try:
            return call()
        except CallError as error:
            raise self._missing(who, error) from error
        finally:
            self._places.release()

    def _missing(self, who: str, error: Exception) -> MissingError:
        if isinstance(error, (NotFound, InvalidArgument)):  # what is no name at all is known as little
            return MissingError(f"the {who} does not know it: {error.message}", unknown=True)
        self._silent[who] = f"the {who} gives no answer: {sentence_of(error)}"
        return MissingError(self._silent[who])


def _version(message: registry.ModelVersion) -> RegisteredVersion:
    return RegisteredVersion(
        model=message.model,
        version=message.version,
        deployment_number=message.deployment_number,
        parent_deployment_number=message.parent_deployment_number,
        framework=registry.Framework.Name(message.framework).removeprefix("FRAMEWORK_"),
        state=registry.VersionState.Name(message.state).removeprefix("VERSION_STATE_"),
        stage=registry.Stage.Name(message.stage).removeprefix("STAGE_"),
        source_version=message.source_version,
        source=" ".join(filter(None, (message.source.origin, message.source.reference, message.source.revision))),
        training_run_id=message.training_run_id,
        create_time=_time(message.create_time),
        created_by=message.created_by,
        promoted_time=_time(message.promoted_time),
        promoted_by=message.promoted_by,
        inputs=tuple(_input(spec) for spec in message.signature.inputs),
    )


def _evaluated(message: registry.Evaluation) -> Evaluated:
    return Evaluated(
        id=message.id,
        dataset=message.dataset,
        metrics=dict(message.metrics),
        passed=message.passed,
        shortfalls=tuple(message.shortfalls),
        note=message.note,
        evaluated_by=message.evaluated_by,
        time=_time(message.evaluate_time),
    )


def _moved(message: registry.Transition) -> Moved:
    said = [registry.Stage.Name(stage).removeprefix("STAGE_") for stage in (message.from_stage, message.to_stage)]
    return Moved(
        id=message.id,
        from_stage=said[0] if message.from_stage else "",
        to_stage=said[1],
        kind=registry.TransitionKind.Name(message.kind).removeprefix("TRANSITION_KIND_"),
        promoted_by=message.promoted_by,
        approved_by=message.approved_by,
        note=message.note,
        time=_time(message.promoted_time),
    )


def _dataset(message: datasets.Dataset) -> KeptDataset:
    return KeptDataset(
        row_count=message.row_count,
        column_count=len(message.columns),
        digest=message.digest,
        source=message.source.WhichOneof("kind") or "",
        created_by=message.created_by,
        create_time=_time(message.create_time),
    )


def _input(spec: TensorSpec) -> Input:
    sizes = spec.shape[1:]
    return Input(spec.name, 0 if any(size < 1 for size in sizes) else math.prod(sizes), tuple(spec.columns))


def _run(message: trainer.TrainingRun) -> TrainingRun:
    return TrainingRun(
        id=message.id,
        model=message.model,
        state=trainer.TrainingRunState.Name(message.state).removeprefix("TRAINING_RUN_STATE_"),
        type=trainer.TrainingType.Name(message.type).removeprefix("TRAINING_TYPE_"),
        requested_by=message.trigger.requested_by,
        retraining_request_id=message.trigger.retraining_request_id,
        note=message.trigger.note,
        parent_version=message.parent_version,
        config_version=message.config_version,
        dataset=message.dataset,
        new_version=message.new_version,
        validation_passed=message.validation_passed if message.HasField("validation_passed") else None,
        message=message.message,
        create_time=_time(message.create_time),
    )


def _time(stamp: Timestamp) -> datetime | None:
    return stamp.ToDatetime(UTC) if stamp.ByteSize() else None
