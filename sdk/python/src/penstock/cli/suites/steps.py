"""The single steps that bring a registry to what a suite file says, each with what it shows before it is done."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.cli.documents import document_of, flattened
from penstock.cli.formats import say_bytes, say_count
from penstock.cli.model_stages import steps as moves_to
from penstock.cli.model_views import criterion_words, stage_number, stage_word, warm_up_words
from penstock.cli.options import Stage
from penstock.cli.output import Output, Transfer
from penstock.cli.suites.schema import SUITE_LABEL, ModelSpec, OwnSource, PathSource, VersionSpec
from penstock.cli.suites.sources import size_of
from penstock.errors import Aborted

if TYPE_CHECKING:
    from penstock.fetcher import FetcherClient
    from penstock.monitoring import MonitoringClient
    from penstock.registry import RegistryClient


class Action(enum.StrEnum):
    """What a step does; they are done in this order."""

    CREATE_CHANNEL = "create channel"
    REPLACE_CHANNEL = "replace channel"
    CREATE_MODEL = "create model"
    CHANGE_MODEL = "change model"
    CHANGE_MONITORING = "change monitoring"
    CREATE_RULE = "create alert rule"
    CHANGE_RULE = "change alert rule"
    DELETE_RULE = "delete alert rule"
    RESTORE = "restore version"
    BEGIN_FETCH = "begin fetch"
    REGISTER = "register version"
    VALIDATE = "validate version"
    FETCH = "fetch version"
    AWAIT = "wait until ready"
    CHANGE_VERSION = "change version"
    MOVE = "move version"
    SET_ALIAS = "set alias"
    DELETE_ALIAS = "delete alias"
    DELETE_VERSION = "delete version"
    DELETE_MODEL = "delete model"


_WATCHED = {
    Action.CREATE_CHANNEL: "channel",
    Action.REPLACE_CHANNEL: "channel",
    Action.CHANGE_MONITORING: "monitoring",
    Action.CREATE_RULE: "alert rule",
    Action.CHANGE_RULE: "alert rule",
    Action.DELETE_RULE: "alert rule",
}
"""What monitoring is told, by what it is about. A model is watched before its versions come."""
ORDER = {action: number for number, action in enumerate(Action)}
Subject = tuple[str, str]
"""A kind of thing and its name: what steps are about."""


@dataclass(frozen=True, slots=True)
class Change:
    """A field that becomes another; None: nothing is there."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Run:
    """What a step needs to be done."""

    registry: RegistryClient
    output: Output
    fetcher: Callable[[], FetcherClient]
    monitoring: MonitoringClient | None = None
    fetches: dict[tuple[str, str], str] = field(default_factory=dict)
    """The jobs that fetch versions, by model and version."""

    def watched(self) -> MonitoringClient:
        """Give the client of monitoring, which is there where the file says anything of it."""
        if self.monitoring is None:
            raise AssertionError("a suite that is watched is planned with monitoring")
        return self.monitoring


@dataclass(frozen=True, slots=True)
class Step:
    """One step; `model` is empty where it is about all of them.

    Attributes:
        name: of the channel, or the alert rule.
        says: what there is to say of it beside its changes.
        approval: who approves it, and why.
        size_bytes: what it uploads.
        fetch_bytes: what the fetcher downloads for it, where that is known.
        late: a change of monitoring that is made after the alert rules, and what is pruned of them.
        needs: subjects of steps before it, without which it can't be done.
    """

    action: Action
    model: str
    do: Callable[[Run], object]
    version: str = ""
    alias: str = ""
    name: str = ""
    changes: tuple[Change, ...] = ()
    says: str = ""
    approval: str = ""
    size_bytes: int = 0
    fetch_bytes: int = 0
    late: bool = False
    needs: frozenset[Subject] = frozenset()

    @property
    def place(self) -> tuple[int, bool]:
        """Where it stands in the order of all steps."""
        return ORDER[Action.DELETE_RULE if self.late else self.action], self.late

    @property
    def subject(self) -> Subject:
        """What it is about: where it fails, no more is done of that."""
        return ("model", self.model) if self.model and not self.late else (self.watched, self.name or self.model)

    def is_ended_by(self, failed: Collection[Subject]) -> bool:
        """Say whether steps that failed leave nothing to do it to, or with."""
        return self.subject in failed or not self.needs.isdisjoint(failed)

    @property
    def watched(self) -> str:
        """What of monitoring it is about; empty: it is the registry's."""
        return _WATCHED.get(self.action, "")


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    """Compare values by name, messages by their fields; unset messages and their empty fields count as equal."""
    old, new = flattened(_documents(before)), flattened(_documents(after))
    names = dict.fromkeys((*old, *new))
    changes = (Change(name, old.get(name), new.get(name)) for name in names)
    return tuple(each for each in changes if (each.before or None) != (each.after or None))


def create_model(spec: ModelSpec, suite: str) -> Step:
    """Create a model, bearing the suite's label."""
    fields = {**said_of_model(spec), "labels": {**(spec.labels or {}), SUITE_LABEL: suite}}
    # Labelled from the first moment: what is cut off half-way is still known as the suite's.
    later = {name: value for name, value in fields.items() if name not in ("description", "labels", "tags")}

    def do(run: Run) -> None:
        created = run.registry.create_model(
            spec.name, spec.description or "", labels=fields["labels"], tags=spec.tags or ()
        )
        if later:
            run.registry.update_model(spec.name, **later, etag=created.etag)

    return Step(Action.CREATE_MODEL, spec.name, do, changes=differences({}, fields))


def change_model(found: pb.Model, fields: Mapping[str, Any], changes: tuple[Change, ...]) -> Step:
    """Change a model as it was read."""
    return Step(
        Action.CHANGE_MODEL,
        found.name,
        lambda run: run.registry.update_model(found.name, **fields, etag=found.etag),
        changes=changes,
    )


def said_of_model(spec: ModelSpec) -> dict[str, Any]:
    """Give the fields that a file says of a model."""
    said = {
        "description": spec.description,
        "tags": None if spec.tags is None else list(spec.tags),
        "labels": spec.labels,
        "training_config": spec.training_config,
        "serving_settings": spec.serving_settings,
        "capture_policy": spec.capture_policy,
    }
    return {name: value for name, value in said.items() if value is not None}


def said_of_version(spec: VersionSpec) -> dict[str, Any]:
    """Give the fields that a file says of a version, and that may change."""
    said = {
        "description": spec.description,
        "labels": spec.labels,
        "serving_settings": spec.serving_settings,
        "capture_policy": spec.capture_policy,
    }
    return {name: value for name, value in said.items() if value is not None}


def register(
    model: str, spec: VersionSpec, source: OwnSource, files: Sequence[pb.File], failed: pb.ModelVersion | None
) -> Step:
    """Upload a version, in DEVELOPMENT; `failed`: in place of this one, which FAILED."""
    size_bytes = size_of(source) if isinstance(source, PathSource) else 0

    def uploading(output: Output) -> AbstractContextManager[Transfer | None]:
        has_bytes = isinstance(source, PathSource)
        return output.transfer(f"uploading {model} {spec.version}") if has_bytes else nullcontext()

    def do(run: Run) -> None:
        if failed is not None:
            run.registry.delete_version(model, spec.version, etag=failed.etag)
        with uploading(run.output) as bar:
            run.registry.register_version(
                model,
                spec.version,
                source.path if isinstance(source, PathSource) else None,
                framework=spec.framework,
                unpack=isinstance(source, PathSource) and source.unpack,
                ollama=None if isinstance(source, PathSource) else source,
                columns=spec.columns,
                metadata=spec.metadata,
                **said_of_version(spec),
                progress=bar.reach if bar else None,
                wait=False,
            )

    if isinstance(source, PathSource):
        count = say_count(len(files), "file")
        says = f"{source.path}: {count}, {say_bytes(size_bytes)} to upload"
    else:
        says = f"{source.model} of Ollama"
    says += "; in place of the one that failed validation" if failed is not None else ""
    changes = differences({}, said_of_version(spec))
    return Step(Action.REGISTER, model, do, spec.version, changes=changes, says=says, size_bytes=size_bytes)


def restore(model: str, version: str) -> Step:
    """Bring a deleted version back."""
    return Step(Action.RESTORE, model, lambda run: run.registry.restore_version(model, version), version)


def validate(model: str, version: str) -> Step:
    """Validate a FAILED version again."""
    says = "the same files failed before"
    return Step(Action.VALIDATE, model, lambda run: run.registry.revalidate(model, version), version, says=says)


def await_ready(model: str, version: str) -> Step:
    """Wait for the validator."""

    def do(run: Run) -> None:
        with run.output.spinner(f"validating {model} {version}"):
            run.registry.wait_until_ready(model, version)

    return Step(Action.AWAIT, model, do, version)


def change_version(
    found: pb.ModelVersion, fields: Mapping[str, Any], changes: tuple[Change, ...], *, as_read: bool
) -> Step:
    """Change a version; `as_read` False: steps before this one change it too, if not these fields."""

    def do(run: Run) -> None:
        etag = found.etag
        if not as_read:
            now = run.registry.get_version(found.model, found.version)
            if any(getattr(now, name) != getattr(found, name) for name in fields):
                raise changed_meanwhile(f"{found.model} {found.version} was changed")
            etag = now.etag
        run.registry.update_version(found.model, found.version, **fields, etag=etag)

    return Step(Action.CHANGE_VERSION, found.model, do, found.version, changes=changes)


def move(model: str, version: str, now: Stage, to: Stage, *, live: str, approved_by: str, note: str) -> Step:
    """Move a version step by step; where it was taken along already, less is left to do.

    Args:
        model: its model.
        version: which.
        now: its stage when it was compared.
        to: the stage to reach.
        live: which version was in production then; empty: none.
        approved_by: who approves it.
        note: why.
    """
    # Whoever goes live before it archives the one that was.
    expected = {now, to} | ({Stage.ARCHIVED} if now is Stage.PRODUCTION else set())

    def do(run: Run) -> None:
        there = Stage(stage_word(run.registry.get_version(model, version).stage))
        if there not in expected:
            raise changed_meanwhile(f"{model} {version} is in {there} now")
        if to is Stage.PRODUCTION and there is not to:
            instead = run.registry.get_model(model).production_version
            if instead != live:
                raise changed_meanwhile(f"{instead or 'nothing'} of {model} is live now")
        for stage in way(there, to):
            run.registry.promote(model, version, stage_number(stage), approved_by=approved_by, note=note)

    chain = " → ".join((now, *way(now, to)))
    approval = f"approved by {approved_by}: {note}" if to is Stage.PRODUCTION else ""
    change = Change("stage", str(now), str(to))
    return Step(Action.MOVE, model, do, version, changes=(change,), says=chain, approval=approval)


def way(now: Stage, to: Stage) -> tuple[Stage, ...]:
    """List the stages to pass, the last included; none where it is there."""
    if now is to:
        return ()
    if now is Stage.ARCHIVED and to is Stage.PRODUCTION:
        return (Stage.STAGING, Stage.PRODUCTION)
    return tuple(Stage(stage_word(each)) for each in moves_to(stage_number(now), to))


def set_alias(model: str, alias: str, before: str, version: str) -> Step:
    """Point an alias at a version."""

    def do(run: Run) -> None:
        if _alias_now(run, model, alias, {before, version}) != version:
            run.registry.set_alias(model, alias, version)

    return Step(Action.SET_ALIAS, model, do, version, alias, changes=(Change(f"alias {alias}", before, version),))


def delete_alias(model: str, alias: str, before: str) -> Step:
    """Delete an alias that the file does not name."""

    def do(run: Run) -> None:
        if _alias_now(run, model, alias, {before, ""}):
            run.registry.delete_alias(model, alias)

    return Step(Action.DELETE_ALIAS, model, do, before, alias, changes=(Change(f"alias {alias}", before, None),))


def _alias_now(run: Run, model: str, alias: str, expected: set[str]) -> str:
    now = run.registry.get_model(model).aliases.get(alias, "")
    if now not in expected:
        raise changed_meanwhile(f"the alias {alias} of {model} points at {now or 'nothing'} now")
    return now


def delete_version(found: pb.ModelVersion) -> Step:
    """Delete a version that the file does not name; the registry refuses it while it is live."""

    def do(run: Run) -> None:
        now = run.registry.get_version(found.model, found.version)
        if now.aliases:
            raise changed_meanwhile(f"the alias {now.aliases[0]} points at {found.model} {found.version} now")
        if _own(now) != _own(found) or now.stage not in (found.stage, pb.STAGE_ARCHIVED):
            raise changed_meanwhile(f"{found.model} {found.version} was changed")
        run.registry.delete_version(found.model, found.version, etag=now.etag)

    return Step(Action.DELETE_VERSION, found.model, do, found.version)


def _own(version: pb.ModelVersion) -> pb.ModelVersion:
    """Leave out what the steps before a deletion change: the stage, by another's going live, and aliases."""
    kept = pb.ModelVersion()
    kept.CopyFrom(version)
    for name in ("stage", "aliases", "promoted_time", "promoted_by", "revision", "etag"):
        kept.ClearField(name)
    return kept


def delete_model(found: pb.Model, count: int) -> Step:
    """Delete a model as it was read, with all its versions, so many."""

    def do(run: Run) -> None:
        now = run.registry.get_model(found.name)
        if (now.version_count, now.aliases) != (found.version_count, found.aliases):
            raise changed_meanwhile(f"{found.name} has other versions or aliases now")
        run.registry.delete_model(found.name, etag=found.etag)

    says = f"with its {say_count(count, 'version')}"
    return Step(Action.DELETE_MODEL, found.name, do, says=says if count else "")


def changed_meanwhile(what: str) -> Aborted:
    """Say that somebody else was faster, where no etag can."""
    return Aborted(f"{what}, otherwise than when it was compared; it is left so", reason="ETAG_MISMATCH")


def _documents(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _document(value) for name, value in values.items()}


def _document(value: Any) -> Any:
    if isinstance(value, pb.TrainingConfig):
        return {**document_of(value), "success_criteria": [criterion_words(each) for each in value.success_criteria]}
    if isinstance(value, pb.ServingSettings):
        return {**document_of(value), "warm_up": [warm_up_words(each) for each in value.warm_up]}
    if isinstance(value, Message):
        return document_of(value)
    return dict(value) if isinstance(value, Mapping) else value
