"""Comparing a suite file with the registry: the steps to take, and what forbids taking any."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.cli.model_views import framework_word, stage_word
from penstock.cli.options import Stage
from penstock.cli.suites import fetches, steps
from penstock.cli.suites.fetches import Unfetchable, fetch, is_on_its_way, look
from penstock.cli.suites.reading import Problems
from penstock.cli.suites.schema import SUITE_LABEL, FetchSource, ModelSpec, PathSource, Suite, VersionSpec
from penstock.cli.suites.sources import UnreadableSource, files_of
from penstock.cli.suites.steps import Step

if TYPE_CHECKING:
    from penstock.fetcher import FetcherClient
    from penstock.registry import RegistryClient


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, in order, and what stays though the file does not name it."""

    steps: tuple[Step, ...]
    kept: tuple[str, ...]
    pruned: frozenset[str] = frozenset()
    """Models of the suite's own, whose leftovers are to go."""

    @property
    def size_bytes(self) -> int:
        """How much is to be uploaded."""
        return sum(step.size_bytes for step in self.steps)

    @property
    def fetch_bytes(self) -> int:
        """How much the fetcher is to download, as far as that is known."""
        return sum(step.fetch_bytes for step in self.steps)


def in_order(steps: Iterable[Step]) -> tuple[Step, ...]:
    """Put steps into the order in which they are done."""
    return tuple(sorted(steps, key=lambda step: step.place))


@dataclass(slots=True)
class Planner:
    """Compares a suite with what a registry holds. Nothing is changed.

    Attributes:
        fetcher: gives the client of the fetcher; called where something is to be fetched.
        prune: also delete what the suite made and the file no longer names.
        approver: who approves a move into production where the file does not say; called where it is needed.
        note: why, likewise.
    """

    suite: Suite
    registry: RegistryClient
    fetcher: Callable[[], FetcherClient]
    prune: bool
    approver: Callable[[], str]
    note: str
    _steps: list[Step] = field(default_factory=list)
    _kept: list[str] = field(default_factory=list)
    _pruned: set[str] = field(default_factory=set)
    _problems: Problems = field(init=False)

    def __post_init__(self) -> None:
        self._problems = Problems(self.suite.file)

    def plan(self) -> Plan:
        """Compare it all.

        Raises:
            CommandError: the file asks for what can't be; every such place is named (INVALID_SUITE).
        """
        for spec in self.suite.models:
            self._model(spec)
        if self.prune:
            self._prune_models()
        self._problems.raise_any()
        return Plan(in_order(self._steps), tuple(self._kept), frozenset(self._pruned))

    def _model(self, spec: ModelSpec) -> None:
        found = self._find_model(spec)
        known = self._known_versions(found)
        if found is None:
            self._steps.append(steps.create_model(spec, self.suite.name))
        else:
            self._change_model(spec, found)
            if self.prune and found.labels.get(SUITE_LABEL) == self.suite.name:
                self._pruned.add(spec.name)
        for version in spec.versions:
            self._version(spec, version, known.get(version.version))
        self._stages(spec, known, found.production_version if found is not None else "")
        self._aliases(spec, found, known)
        if found is not None and spec.name in self._pruned:
            self._prune_versions(spec, found, known)

    def _find_model(self, spec: ModelSpec) -> pb.Model | None:
        from penstock.errors import NotFound

        try:
            return self.registry.get_model(spec.name)
        except NotFound:
            pass
        deleted = self.registry.list_models(query=spec.name, show_deleted=True)
        if any(model.name == spec.name and model.HasField("delete_time") for model in deleted):
            self._complain(spec, f"{spec.name} was deleted: `penstock model restore {spec.name}`, then apply again")
        return None

    def _known_versions(self, model: pb.Model | None) -> dict[str, pb.ModelVersion]:
        """Give each version by its name; a deleted one only where its name is taken for good."""
        known: dict[str, pb.ModelVersion] = {}
        if model is not None:
            for version in self.registry.list_versions(model.name, show_deleted=True, page_size=1_000):
                deleted = version.HasField("delete_time")
                if not deleted or (version.HasField("ready_time") and version.version not in known):
                    known[version.version] = version
        return known

    def _change_model(self, spec: ModelSpec, found: pb.Model) -> None:
        owner = found.labels.get(SUITE_LABEL, "")
        if owner not in ("", self.suite.name):
            self._complain(spec, f"{spec.name} belongs to the suite {owner}; a model is of one suite")
            return
        said = steps.said_of_model(spec)
        if "labels" in said and owner:
            said["labels"] = {**said["labels"], SUITE_LABEL: owner}
        fields, changes = _changed(found, said)
        if changes:
            self._steps.append(steps.change_model(found, fields, changes))

    def _version(self, model: ModelSpec, spec: VersionSpec, found: pb.ModelVersion | None) -> None:
        name = f"{model.name} {spec.version}"
        source, fetcher = spec.source, self.fetcher
        if found is not None and isinstance(source, FetchSource) and is_on_its_way(source, found, fetcher):
            found = None  # the fetch that brings it is waited for
        if found is not None and found.state == pb.VERSION_STATE_UPLOADING:
            self._complain(spec, f"{name} is being uploaded; when that has ended, apply again")
            return
        try:
            files = files_of(spec.source) if isinstance(spec.source, PathSource) else []
            failed = found if found is not None and found.state == pb.VERSION_STATE_FAILED else None
            difference = _difference(spec, files, found, self.fetcher) if found is not None else ""
            if found is None or (failed is not None and difference):
                self._steps += self._made(model.name, spec, files, failed)
                return
        except (UnreadableSource, Unfetchable) as error:
            self._complain(spec, str(error))
            return
        if difference:
            advice = "a version never changes: name another"
            if found.state == pb.VERSION_STATE_VALIDATING:
                advice = "it is being validated: apply again when it is READY or FAILED, or name another"
            self._complain(spec, f"{name} is registered, and {difference}; {advice}")
            return
        deleted = found.HasField("delete_time")
        if deleted:
            self._steps.append(steps.restore(model.name, spec.version))
        if failed is not None:
            self._steps.append(steps.validate(model.name, spec.version))
        if found.state != pb.VERSION_STATE_READY:
            self._steps.append(steps.await_ready(model.name, spec.version))
        fields, changes = _changed(found, steps.said_of_version(spec))
        if changes:
            as_read = found.state == pb.VERSION_STATE_READY and not deleted
            self._steps.append(steps.change_version(found, fields, changes, as_read=as_read))

    def _made(
        self, model: str, spec: VersionSpec, files: list[pb.File], failed: pb.ModelVersion | None
    ) -> tuple[Step, ...]:
        """Give the steps that make a version that is not there."""
        if isinstance(spec.source, FetchSource):
            seen = look(self.fetcher(), spec.source)
            self._kept += [f"{model} {spec.version}: {warning}" for warning in seen.warnings]
            return fetch(model, spec, spec.source, seen, failed)
        return steps.register(model, spec, spec.source, files, failed), steps.await_ready(model, spec.version)

    def _stages(self, model: ModelSpec, known: Mapping[str, pb.ModelVersion], live: str) -> None:
        # Who goes live first archives who was, which may be all that the file asks of that one.
        for spec in sorted(model.versions, key=lambda each: each.stage is not Stage.PRODUCTION):
            now = _stage_of(known.get(spec.version))
            if spec.stage is None or spec.stage is now:
                continue
            note = spec.note or self.note
            if spec.stage is Stage.PRODUCTION and not note.strip():
                self._complain(spec, f"{spec.version} is to go into production: that needs a `note`, or --note")
            if now is Stage.PRODUCTION and self._successor(model) is None:
                self._complain(
                    spec,
                    f"{model.name} {spec.version} is in production, and leaves it only for another version: "
                    "give that one `stage: production`",
                )
            approved_by = spec.approved_by or (self.approver() if spec.stage is Stage.PRODUCTION else "")
            self._steps.append(
                steps.move(model.name, spec.version, now, spec.stage, live=live, approved_by=approved_by, note=note)
            )

    def _successor(self, model: ModelSpec) -> VersionSpec | None:
        return next((each for each in model.versions if each.stage is Stage.PRODUCTION), None)

    def _aliases(self, spec: ModelSpec, found: pb.Model | None, known: Mapping[str, pb.ModelVersion]) -> None:
        if spec.aliases is None:
            return
        before = dict(found.aliases) if found is not None else {}
        for alias, version in spec.aliases.items():
            standing = version in known and not known[version].HasField("delete_time")
            if spec.find(version) is None and not standing:
                self._complain(spec, f"the alias {alias} points at {version}, which is no version of {spec.name}")
            if before.get(alias) != version:
                self._steps.append(steps.set_alias(spec.name, alias, before.get(alias, ""), version))
        if spec.name in self._pruned:
            gone = sorted(before.keys() - spec.aliases.keys())
            self._steps += [steps.delete_alias(spec.name, alias, before[alias]) for alias in gone]

    def _prune_versions(self, spec: ModelSpec, found: pb.Model, known: Mapping[str, pb.ModelVersion]) -> None:
        if not spec.names_versions:
            return
        # A version's aliases go with it: those of the file, and all that are there where it says nothing of any.
        aliases = {at: alias for alias, at in (found.aliases if spec.aliases is None else spec.aliases).items()}
        for version in known.values():
            if version.HasField("delete_time") or spec.find(version.version) is not None:
                continue
            name = f"{spec.name} {version.version}"
            if version.stage == pb.STAGE_PRODUCTION and self._successor(spec) is None:
                self._kept.append(f"{name} stays, though the file does not name it: it is in production")
            elif version.version in aliases:
                alias = aliases[version.version]
                self._kept.append(
                    f"{name} stays, though the file does not name it: the alias {alias} points at it; "
                    "an `aliases` without it lets both go"
                )
            else:
                self._steps.append(steps.delete_version(version))

    def _prune_models(self) -> None:
        named = {spec.name for spec in self.suite.models}
        for model in self.registry.list_models(labels={SUITE_LABEL: self.suite.name}, page_size=1_000):
            if model.name in named:
                continue
            if model.production_version:
                self._kept.append(
                    f"{model.name} stays, though the file does not name it: {model.production_version} is in "
                    f"production; `penstock model delete {model.name} --force` deletes it all the same"
                )
            else:
                count = sum(1 for _ in self.registry.list_versions(model.name, page_size=1_000))
                self._steps.append(steps.delete_model(model, count))

    def _complain(self, spec: ModelSpec | VersionSpec, sentence: str) -> None:
        self._problems.add(spec.line, "", sentence)


def _changed(
    found: pb.Model | pb.ModelVersion, said: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[steps.Change, ...]]:
    """Give the fields that differ from what is there, and how."""
    fields: dict[str, Any] = {}
    changes: tuple[steps.Change, ...] = ()
    for name, value in said.items():
        before = getattr(found, name)
        if isinstance(before, pb.TrainingConfig):
            before = _without_number(before)
        plain = before if isinstance(before, Message | str) else type(value)(before)
        different = steps.differences({name: plain}, {name: value})
        if different:
            fields[name] = value
            changes += different
    return fields, changes


def _without_number(config: pb.TrainingConfig) -> pb.TrainingConfig:
    kept = pb.TrainingConfig()
    kept.CopyFrom(config)
    kept.ClearField("number")  # the registry's own
    return kept


def _stage_of(version: pb.ModelVersion | None) -> Stage:
    word = stage_word(version.stage) if version is not None else ""
    return Stage(word) if word else Stage.DEVELOPMENT


def _difference(
    spec: VersionSpec, files: list[pb.File], found: pb.ModelVersion, fetcher: Callable[[], FetcherClient]
) -> str:
    """Say in what a registered version is another than the file's; empty: it is the same."""
    if isinstance(spec.source, FetchSource):
        if other := fetches.difference(spec.source, found, fetcher):
            return other
    elif isinstance(spec.source, pb.OllamaReference):
        if spec.source != found.ollama:
            return f"names {found.ollama.model or 'files'} instead of {spec.source.model}"
    else:
        here, there = {file.path: file.sha256 for file in files}, {file.path: file.sha256 for file in found.files}
        if here != there:
            path = min(path for path in here.keys() | there.keys() if here.get(path) != there.get(path))
            if path not in there:
                return f"has no {path}"
            if path not in here:
                return f"has {path}, which is not here"
            return f"holds other bytes: its {path} is sha256 {there[path][:12]}…, the one here {here[path][:12]}…"
    framework = framework_word(found.framework)
    if spec.framework is not None and spec.framework != framework:
        return f"is {framework}"
    fetched = isinstance(spec.source, FetchSource)
    wanted = fetches.with_said(spec.metadata, found.metadata) if fetched and spec.metadata else spec.metadata
    if wanted is not None and wanted != found.metadata:
        return "has other metadata"
    columns = [tuple(each.columns) for each in found.signature.inputs]
    if spec.columns and columns and spec.columns not in columns:
        return "has other columns"
    return ""
