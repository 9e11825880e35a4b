"""`penstock model set|alias`: what may change of what is registered."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import typer
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from rich.text import Text

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of, enum_word
from penstock.cli.formats import parse_pairs, parse_value
from penstock.cli.model_views import model_facts, version_facts
from penstock.cli.options import Json, Model, NoColor, Token, Url, pairs
from penstock.cli.output import Column, Output

# Somebody else may change the labels between reading and writing; that often in a row, it is no accident.
MAX_TRIES = 5
_WARM_UP = "warm_up"
CRITERION = re.compile(r"\s*(?P<metric>[^<>=\s\[]+(?:\[[^\]]+\])?)\s*(?P<sign>>=|<=)\s*(?P<threshold>\S+)\s*")
_ALIAS_COLUMNS = (Column("alias", give="cut"), Column("version", give="cut"))
Pairs = list[str] | None
Found = TypeVar("Found", pb.Model, pb.ModelVersion)
OneVersion = Annotated[
    str,
    typer.Argument(metavar="VERSION", help="The exact version. Default: the model itself.", show_default=False),
]
Description = Annotated[
    str | None, typer.Option("--description", metavar="TEXT", help="What it is.", show_default=False)
]
AddLabel = Annotated[Pairs, typer.Option("--label", "-l", metavar="K=V", help="Add or change a label.")]
Unlabel = Annotated[Pairs, typer.Option("--unlabel", metavar="K", help="Take a label away.")]
AddTag = Annotated[Pairs, typer.Option("--tag", metavar="T", help="Add a tag, to the model.")]
Untag = Annotated[Pairs, typer.Option("--untag", metavar="T", help="Take a tag away.")]
Serving = Annotated[
    Pairs,
    typer.Option(
        "--serving",
        metavar="K=V",
        help="max_batch_size=32, max_queue_delay_us=500, queue_full_action=displace, warm_up=1,8, "
        "response_cache.enabled=true, feature_view.view=NAME and so on (a wrong name lists them all); an empty "
        "value: back to the default.",
    ),
]
Capture = Annotated[
    Pairs,
    typer.Option(
        "--capture",
        metavar="K=V",
        help="share=0.1, max_bytes=65536, disabled=true; an empty value: back to the default.",
    ),
]
Criterion = Annotated[
    Pairs,
    typer.Option(
        "--criterion",
        metavar="M>=X",
        help="What a version must reach before staging, such as 'accuracy>=0.95'; in place of all criteria. "
        "Again for more, '' for none.",
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option("--recipe", metavar="NAME", help="How the model is trained, such as sklearn.", show_default=False),
]
Told = Annotated[
    Pairs,
    typer.Option(
        "--param",
        metavar="K=V",
        help="What the recipe is told, in JSON or plain; in place of all parameters. Again for more, '' for none.",
    ),
]
DataSource = Annotated[
    str | None,
    typer.Option(
        "--data-source",
        metavar="NAME",
        help="Where its rows come from: a dataset as NAME or NAME/VERSION, or traffic:7d.",
        show_default=False,
    ),
]


def change(
    model: Model,
    version: OneVersion = "",
    description: Description = None,
    label: AddLabel = None,
    unlabel: Unlabel = None,
    tag: AddTag = None,
    untag: Untag = None,
    serving: Serving = None,
    capture: Capture = None,
    criterion: Criterion = None,
    recipe: Recipe = None,
    param: Told = None,
    data_source: DataSource = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Change a model or a version: only what is named, and inference follows at once.

    A model's serving and capture are the defaults of versions that are registered from then on.
    """
    output = Output(as_json=as_json, no_color=no_color)
    changes: dict[str, Any] = {"description": description} if description is not None else {}
    if serving:
        changes["serving_settings"] = parse_settings(pb.ServingSettings, serving, "--serving")
    if capture:
        changes["capture_policy"] = parse_settings(pb.CapturePolicy, capture, "--capture")
    training = _training_changes(criterion, recipe, param, data_source)
    edit = _Edit(pairs(label, "--label"), unlabel or [], tag or [], untag or [], training)
    if version and (tag or untag or training):
        raise typer.BadParameter("tags, criteria and training are the model's: leave VERSION out")
    if not (changes or edit):
        raise typer.BadParameter("say what to change; --help lists what there is")
    with connect(Service.REGISTRY, url, token) as client:
        registry = client.registry
        if version:
            changed = _until_it_fits(
                lambda: registry.get_version(model, version) if edit else pb.ModelVersion(),
                lambda found: registry.update_version(model, version, **changes, **edit.of(found)),
            )
            output.answer(document_of(changed), version_facts(output, changed))
        else:
            edited = _until_it_fits(
                lambda: registry.get_model(model) if edit else pb.Model(),
                lambda found: registry.update_model(model, **changes, **edit.of(found)),
            )
            output.answer(document_of(edited), model_facts(output, edited))


def alias(
    model: Model,
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="Its name.", show_default=False)] = "",
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The READY version.", show_default=False)] = "",
    delete: Annotated[bool, typer.Option("--delete", help="Delete the alias; its version stays.")] = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Point an alias at a version; with MODEL alone, list the aliases."""
    output = Output(as_json=as_json, no_color=no_color)
    if alias and bool(version) == delete:
        raise typer.BadParameter("give ALIAS and VERSION, or ALIAS and --delete")
    if delete and not alias:
        raise typer.BadParameter("say which alias to delete")
    with connect(Service.REGISTRY, url, token) as client:
        if not alias:
            aliases = dict(sorted(client.registry.get_model(model).aliases.items()))
            table = output.table(_ALIAS_COLUMNS, list(aliases.items()), empty=f"{model} has no aliases")
            output.answer(aliases, table)
        elif delete:
            client.registry.delete_alias(model, alias)
            output.answer({"model": model, "alias": alias, "deleted": True}, Text(f"deleted {model} {alias}"))
        else:
            answer = client.registry.set_alias(model, alias, version)
            before = f" (before: {answer.previous_version})" if answer.previous_version else ""
            output.answer(document_of(answer), Text(f"{model} {alias} → {answer.version.version}{before}"))


@dataclass(frozen=True, slots=True)
class _Edit:
    """What only they can change who have read what is there."""

    labels: Mapping[str, str]
    unlabel: Sequence[str]
    tags: Sequence[str]
    untag: Sequence[str]
    training: Mapping[str, Any]

    def __bool__(self) -> bool:
        return any((self.labels, self.unlabel, self.tags, self.untag, self.training))

    def of(self, found: pb.Model | pb.ModelVersion) -> dict[str, Any]:
        """Give the fields as they should be, and what makes sure that they are those of what was read."""
        changes: dict[str, Any] = {"etag": found.etag}
        if self.labels or self.unlabel:
            kept = {name: value for name, value in found.labels.items() if name not in self.unlabel}
            changes["labels"] = {**kept, **self.labels}
        if isinstance(found, pb.Model):
            if self.tags or self.untag:
                kept_tags = [tag for tag in found.tags if tag not in self.untag]
                changes["tags"] = list(dict.fromkeys((*kept_tags, *self.tags)))
            if self.training:
                changes["training_config"] = _trained(found.training_config, self.training)
        return changes


def _until_it_fits(read: Callable[[], Found], write: Callable[[Found], Found]) -> Found:
    """Read and write, and anew where somebody else wrote in between."""
    from penstock.errors import Aborted

    tries = 0
    while True:
        try:
            return write(read())
        except Aborted:
            tries += 1
            if tries == MAX_TRIES:
                raise


def parse_settings(kind: type[Message], texts: Sequence[str], option: str) -> dict[str, Any]:
    """Read `name=value`s as the fields of a message; an empty value is None.

    Raises:
        BadParameter: there is no such field, or the value does not suit it.
    """
    fields = _paths(kind.DESCRIPTOR)
    settings: dict[str, Any] = {}
    for path, text in pairs(list(texts), option).items():
        if path not in fields:
            raise typer.BadParameter(f"there is no {path!r}; there are {', '.join(fields)}", param_hint=option)
        read, takes = _reader(fields[path])
        try:
            value = read(text) if text else None
        except (ValueError, KeyError) as error:
            raise typer.BadParameter(f"{path} takes {takes}, not {text!r}", param_hint=option) from error
        outer, _, inner = path.rpartition(".")
        (settings.setdefault(outer, {}) if outer else settings)[inner] = value
    return settings


def _paths(kind: Any) -> dict[str, Any]:
    """Name the fields of a message, and of those in it: `response_cache.ttl_ms`. Messages that repeat stay whole."""
    paths: dict[str, Any] = {}
    for field in kind.fields:
        inner = field.message_type if field.name != _WARM_UP else None
        paths |= {f"{field.name}.{each.name}": each for each in inner.fields} if inner else {field.name: field}
    return paths


def _reader(field: Any) -> tuple[Callable[[str], Any], str]:
    """Say how a field is read, and what it takes."""
    if field.name == _WARM_UP:
        return _row_counts, "numbers of rows with commas between them (one warm-up request of zeros each)"
    if field.message_type is Struct.DESCRIPTOR:
        return _json_object, "a JSON object"
    if field.message_type is not None:
        return _named, "NAME=FEATURE, with commas between several"
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        words = {str(enum_word(field.enum_type, number)): number for number in field.enum_type.values_by_number}
        del words["None"]
        return lambda text: words[text.lower()], f"one of {', '.join(words)}"
    read = _READERS[field.cpp_type]
    return read, str(read.__doc__)


def parse_criterion(text: str) -> pb.SuccessCriterion:
    """Read `accuracy>=0.95`, `latency_ms<=20` or, of a slice, `accuracy[region=north]>=0.9`.

    Raises:
        ValueError: it is of another form.
    """
    found = CRITERION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no criterion: write METRIC>=X or METRIC<=X, in quotes")
    comparison = pb.COMPARISON_AT_LEAST if found["sign"] == ">=" else pb.COMPARISON_AT_MOST
    return pb.SuccessCriterion(metric=found["metric"], comparison=comparison, threshold=_number(found["threshold"]))


def _training_changes(
    criteria: list[str] | None, recipe: str | None, parameters: list[str] | None, data_source: str | None
) -> dict[str, Any]:
    try:
        said = None if criteria is None else [parse_criterion(text) for text in criteria if text.strip()]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--criterion") from error
    told = None
    if parameters is not None:
        from penstock.values import to_struct  # loads numpy, which `--help` must not wait for

        texts = pairs([text for text in parameters if text], "--param")
        told = to_struct({name: parse_value(text) for name, text in texts.items()})
    named = {"success_criteria": said, "recipe": recipe, "parameters": told, "data_source": data_source}
    return {name: value for name, value in named.items() if value is not None}


def _trained(config: pb.TrainingConfig, changes: Mapping[str, Any]) -> pb.TrainingConfig:
    kept = {field.name: value for field, value in config.ListFields() if field.name not in changes}
    return pb.TrainingConfig(**kept, **changes)


def _row_counts(text: str) -> list[pb.WarmUpRequest]:
    return [pb.WarmUpRequest(row_count=_whole(rows)) for rows in text.split(",")]


def _named(text: str) -> dict[str, str]:
    return parse_pairs(text.split(","))


def _json_object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it is no object")  # noqa: TRY004 - as json.loads does of what is no JSON
    return found


def _whole(text: str) -> int:
    """a whole number"""
    return int(text)


def _number(text: str) -> float:
    """a number"""
    return float(text)


def _truth(text: str) -> bool:
    """true or false"""
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]


_READERS: dict[int, Callable[[str], Any]] = {
    FieldDescriptor.CPPTYPE_STRING: str,
    FieldDescriptor.CPPTYPE_INT32: _whole,
    FieldDescriptor.CPPTYPE_INT64: _whole,
    FieldDescriptor.CPPTYPE_DOUBLE: _number,
    FieldDescriptor.CPPTYPE_BOOL: _truth,
}
