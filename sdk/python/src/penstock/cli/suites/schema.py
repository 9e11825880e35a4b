"""What a suite file says: models, their versions, and where they come from. `docs/suites.md` is its reference."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.cli.options import Framework, OllamaMode, Stage
from penstock.cli.suites.monitoring import ChannelSpec, RuleSpec, Settings, read_channels, read_rules, read_settings
from penstock.cli.suites.reading import Fields, Problems, read_fields
from penstock.cli.suites.serving import serving_settings
from penstock.errors import InvalidArgument
from penstock.values import to_struct

SUITE_LABEL = "penstock.io/suite"
"""Which suite made a model: only what bears it is ever pruned."""
MAX_MODELS = 1_000
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}")
_VERSION = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._+-]{0,127}")
_ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,63}")
_LABEL = re.compile(r"[a-z0-9][a-z0-9._/-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GREATEST = sys.float_info.max


@dataclass(frozen=True, slots=True)
class PathSource:
    """Files of this machine; `unpack`: an archive of them."""

    path: Path
    unpack: bool = False


@dataclass(frozen=True, slots=True)
class FetchSource:
    """What the fetcher brings; '' where nothing was said."""

    source: str
    reference: str
    revision: str = ""
    variant: str = ""
    sha256: str = ""

    def said(self) -> dict[str, str]:
        """Give it as the SDK's calls take it."""
        return asdict(self)


OwnSource = PathSource | pb.OllamaReference
Source = OwnSource | FetchSource


@dataclass(frozen=True, slots=True)
class VersionSpec:
    """A version as it should be; None is not said, and left as it is."""

    version: str
    line: int
    source: Source
    framework: Framework | None
    stage: Stage | None
    approved_by: str
    note: str
    description: str | None
    labels: dict[str, str] | None
    columns: tuple[str, ...]
    metadata: pb.Metadata | None
    serving_settings: pb.ServingSettings | None
    capture_policy: pb.CapturePolicy | None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as it should be; None is not said, and left as it is."""

    name: str
    line: int
    description: str | None
    tags: tuple[str, ...] | None
    labels: dict[str, str] | None
    training_config: pb.TrainingConfig | None
    serving_settings: pb.ServingSettings | None
    capture_policy: pb.CapturePolicy | None
    aliases: dict[str, str] | None
    versions: tuple[VersionSpec, ...]
    names_versions: bool
    """Whether the file has a list of versions, however empty."""
    monitoring: Settings | None
    alert_rules: tuple[RuleSpec, ...] | None

    def find(self, version: str) -> VersionSpec | None:
        """Find a version by its name."""
        return next((each for each in self.versions if each.version == version), None)


@dataclass(frozen=True, slots=True)
class Suite:
    """A whole file."""

    name: str
    file: Path
    models: tuple[ModelSpec, ...]
    channels: tuple[ChannelSpec, ...]
    alert_rules: tuple[RuleSpec, ...]
    """Those for all models."""

    @property
    def is_watched(self) -> bool:
        """Whether it says anything of monitoring."""
        of_models = any(model.monitoring is not None or model.alert_rules is not None for model in self.models)
        return bool(self.channels or self.alert_rules) or of_models


def read_suite(file: Path) -> Suite:
    """Read a suite file; paths within it begin at its folder.

    Raises:
        CommandError: it is wrong somewhere; every place is named (INVALID_SUITE).
        OSError: it can't be read.
    """
    problems = Problems(file)
    root = read_fields(file, problems)
    name = root.text("suite", required=True, limit=128) or ""
    if name and not _NAME.fullmatch(name):
        root.complain("suite", f"{name!r} is no name: 1 to 128 of a-z, A-Z, 0-9, '.', '_', '-'")
    items = root.items("models", required=True)
    if len(items) > MAX_MODELS:
        root.complain("models", f"has {len(items):,} models; {MAX_MODELS:,} are allowed")
    models = tuple(_model(fields, file.parent) for fields in items[:MAX_MODELS])
    _refuse_twins("models", root, [model.name for model in models], [model.line for model in models])
    channels, rules = read_channels(root, file.parent), read_rules(root, "")
    root.done()
    problems.raise_any()
    return Suite(name, file, models, channels, rules)


def _model(fields: Fields, folder: Path) -> ModelSpec:
    items = fields.items("versions")
    model = ModelSpec(
        name=_named(fields, "name", _NAME, "1 to 128 of a-z, A-Z, 0-9, '.', '_', '-'"),
        line=fields.line,
        description=fields.text("description"),
        tags=fields.texts("tags"),
        labels=_labels(fields),
        training_config=_training_config(fields.fields("training_config")),
        serving_settings=serving_settings(fields.fields("serving_settings")),
        capture_policy=_capture_policy(fields.fields("capture_policy")),
        aliases=_aliases(fields),
        versions=tuple(_version(each, folder) for each in items),
        names_versions=fields.has("versions"),
        monitoring=read_settings(fields.fields("monitoring")),
        alert_rules=read_rules(fields, fields.text("name") or "") if fields.has("alert_rules") else None,
    )
    _refuse_twins("versions", fields, [each.version for each in model.versions], [each.line for each in model.versions])
    live = [each for each in model.versions if each.stage is Stage.PRODUCTION]
    for each in live[1:]:
        path = f"{fields.path}.versions[{model.versions.index(each)}].stage"
        fields.problems.add(each.line, path, f"{live[0].version} is to be in production already; one can be")
    fields.done()
    return model


def _version(fields: Fields, folder: Path) -> VersionSpec:
    version = VersionSpec(
        version=_named(fields, "version", _VERSION, "1 to 128 of a-z, A-Z, 0-9, '.', '_', '-', '+'"),
        line=fields.line,
        source=_source(fields, folder),
        framework=fields.choice("framework", Framework),
        stage=fields.choice("stage", Stage),
        approved_by=fields.text("approved_by", limit=256) or "",
        note=fields.text("note") or "",
        description=fields.text("description"),
        labels=_labels(fields),
        columns=fields.texts("columns") or (),
        metadata=_metadata(fields.fields("metadata")),
        serving_settings=serving_settings(fields.fields("serving_settings")),
        capture_policy=_capture_policy(fields.fields("capture_policy")),
    )
    fields.done()
    return version


def _source(fields: Fields, folder: Path) -> Source:
    source = fields.fields("source", required=True)
    if source is None:
        return PathSource(folder)
    kinds = [name for name in ("path", "ollama", "fetch") if source.has(name)]
    if len(kinds) != 1:
        source.complain("", "takes one of `path`, `ollama` with a `mode`, and `fetch` with a `reference`")
        return PathSource(folder)
    readers: dict[str, Callable[[Fields, Path], Source]] = {
        "path": _path_source,
        "ollama": _ollama_source,
        "fetch": _fetch_source,
    }
    read = readers[kinds[0]](source, folder)
    source.done()
    if isinstance(read, FetchSource) and fields.has("columns"):
        fields.complain("columns", "are not told of what is fetched; leave them out")
    return read


def _ollama_source(source: Fields, _: Path) -> pb.OllamaReference:
    mode = source.choice("mode", OllamaMode, required=True)
    reference = pb.OllamaReference(model=source.text("ollama", limit=256) or "")
    if mode:
        reference.mode = pb.OllamaMode.Value(f"OLLAMA_MODE_{mode.name}")
    return reference


def _fetch_source(source: Fields, _: Path) -> FetchSource:
    digest = source.text("sha256") or ""
    if digest and not _SHA256.fullmatch(digest):
        source.complain("sha256", "is no SHA-256: 64 of 0-9, a-f")
    return FetchSource(
        source.text("fetch", limit=64) or "",
        source.text("reference", required=True, limit=2_048) or "",
        revision=source.text("revision", limit=256) or "",
        variant=source.text("variant", limit=256) or "",
        sha256=digest,
    )


def _path_source(source: Fields, folder: Path) -> PathSource:
    path = source.text("path", limit=4_096)
    if path == "":
        source.complain("path", "is empty; name a file or a folder")
    unpack = source.truth("unpack") or False
    found = folder / (path or "")
    if path and not found.exists():
        source.complain("path", f"{found} does not exist; relative paths begin at the suite file's folder")
    elif unpack and found.is_dir():
        source.complain("unpack", f"{found} is a folder; leave unpack out")
    return PathSource(found, unpack)


def _training_config(fields: Fields | None) -> pb.TrainingConfig | None:
    if fields is None:
        return None
    config = pb.TrainingConfig(recipe=fields.text("recipe") or "", data_source=fields.text("data_source") or "")
    _take_struct(fields, "parameters", config.parameters)
    for each in fields.items("success_criteria"):
        metric = each.text("metric", required=True, limit=256) or ""
        bounds = {"at_least": pb.COMPARISON_AT_LEAST, "at_most": pb.COMPARISON_AT_MOST}
        said = {name: each.number(name, float, least=-_GREATEST, most=_GREATEST) for name in bounds if each.has(name)}
        if len(said) != 1:
            each.complain("", "takes one of at_least and at_most")
        each.done()
        for name, threshold in said.items():
            config.success_criteria.add(metric=metric, comparison=bounds[name], threshold=threshold or 0.0)
    fields.done()
    return config


def _capture_policy(fields: Fields | None) -> pb.CapturePolicy | None:
    if fields is None:
        return None
    policy = pb.CapturePolicy(
        disabled=fields.truth("disabled") or False,
        share=fields.number("share", float, least=0, most=1),
        max_bytes=fields.number("max_bytes", int, least=0, most=2**53),
    )
    fields.done()
    return policy


def _metadata(fields: Fields | None) -> pb.Metadata | None:
    if fields is None:
        return None
    metadata = pb.Metadata(
        task_type=fields.text("task_type", limit=256) or "",
        equivalence_group=fields.text("equivalence_group", limit=256) or "",
        output_dimensions=fields.number("output_dimensions", int, least=0, most=2**31 - 1) or 0,
        tags=fields.texts("tags"),
    )
    _take_struct(fields, "fields", metadata.fields)
    fields.done()
    return metadata


def _take_struct(fields: Fields, name: str, into: Any) -> None:
    values = fields.free(name)
    if values is None:
        return
    try:
        into.CopyFrom(to_struct(values))
    except InvalidArgument as error:
        fields.complain(name, error.message)


def _labels(fields: Fields) -> dict[str, str] | None:
    labels = fields.pairs("labels")
    for name in labels or ():
        if name == SUITE_LABEL:
            fields.complain("labels", f"{SUITE_LABEL} is set by apply; leave it out")
        elif not _LABEL.fullmatch(name):
            fields.complain("labels", f"{name!r} is no label: 1 to 63 of a-z, 0-9, '.', '_', '-', '/'")
    return labels


def _aliases(fields: Fields) -> dict[str, str] | None:
    aliases = fields.pairs("aliases")
    for name in aliases or ():
        if name in {*Stage, "latest"}:
            fields.complain("aliases", f"{name!r} has a meaning already; choose another alias")
        elif not _ALIAS.fullmatch(name):
            fields.complain("aliases", f"{name!r} is no alias: 1 to 64 of a-z, 0-9, '.', '_', '-', the first a letter")
    return aliases


def _named(fields: Fields, name: str, pattern: re.Pattern[str], allowed: str) -> str:
    value = fields.text(name, required=True) or ""
    if value and not pattern.fullmatch(value):
        fields.complain(name, f"{value!r} is none: {allowed}, the first a letter or digit")
    return value


def _refuse_twins(name: str, fields: Fields, values: list[str], lines: list[int]) -> None:
    for number, value in enumerate(values):
        if value and value in values[:number]:
            first = lines[values.index(value)]
            fields.problems.add(
                lines[number], f"{_dotted(fields)}{name}[{number}]", f"{value} stands in line {first} already"
            )


def _dotted(fields: Fields) -> str:
    return f"{fields.path}." if fields.path else ""
