"""Feature views and values as tables, facts and documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from penstock.api.features.v1 import feature_views_pb2 as pb
from penstock.cli.documents import enum_word
from penstock.cli.formats import say_duration, say_iso, say_pairs, say_time, say_value
from penstock.cli.model_views import time_of
from penstock.cli.output import Column, Output, styled

if TYPE_CHECKING:
    from penstock.feature_columns import FeatureValues

_VIEWS = (
    Column("view", give="cut"),
    Column("version", "right"),
    Column("entity", give="cut"),
    Column("features", "right"),
    Column("ttl", "right"),
    Column("owner", give="cut", optional=True),
    Column("made", optional=True),
    Column("by", give="cut", optional=True),
)
_FEATURES = (
    Column("feature", give="cut", least_width=12),
    Column("type"),
    Column("computed"),
    Column("expression", give="wrap"),
    Column("description", give="wrap", optional=True),
)
_STATUS_STYLES = {"PRESENT": "green", "EXPIRED": "yellow", "ABSENT": "dim"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SHOWN_ROWS = 100


@dataclass(frozen=True, slots=True)
class Answer:
    """What a view has of some entities. `as_of`: in µs since 1970, one a key."""

    view: pb.FeatureView
    values: FeatureValues
    as_of: Sequence[int]


def views_table(output: Output, found: Sequence[pb.FeatureView]) -> RenderableType:
    """Lay out views, one a row."""
    rows = [
        (
            view.name,
            str(view.version),
            view.entity,
            f"{len(view.features):,}",
            ttl_words(view.ttl_ms),
            view.owner,
            output.time(time_of(view.create_time)),
            view.created_by,
        )
        for view in found
    ]
    return output.table(_VIEWS, rows, empty="no view: `penstock feature view create --file FILE` makes one")


def view_facts(output: Output, view: pb.FeatureView) -> RenderableType:
    """Lay out what there is to know of a view, its features apart."""
    brought = ", ".join(f"{each.name} ({kind_word(each.type)})" for each in view.request_values)
    return output.facts(
        f"{view.name}@{view.version}",
        [
            ("entity", view.entity),
            ("ttl", ttl_words(view.ttl_ms)),
            ("owner", view.owner),
            ("description", view.description),
            ("labels", say_pairs(view.labels)),
            ("request values", brought),
            ("made", f"{say_time(time_of(view.create_time))} by {view.created_by}"),
            ("changed", say_time(time_of(view.update_time)) if view.update_time != view.create_time else ""),
        ],
    )


def features_table(output: Output, view: pb.FeatureView) -> RenderableType:
    """Lay out a view's features, one a row."""
    rows = [
        (each.name, kind_word(each.type), computation_word(each), each.expression, each.description)
        for each in view.features
    ]
    return output.table(_FEATURES, rows, empty="no features")


def values_table(output: Output, answers: Sequence[Answer]) -> RenderableType:
    """Lay out values, an entity a row, with how old they are; of several views each has rows of its own."""
    several = len(answers) > 1
    names = list(dict.fromkeys(name for each in answers for name in each.values.columns))
    columns = [Column("key", give="cut"), *([Column("view", give="cut")] if several else []), Column("status")]
    columns += [Column("age", "right"), *(Column(name, give="cut", optional=True, named=True) for name in names)]
    rows = []
    for row in _rows(answers):
        cells: list[str | Text] = [row.key, *([row.view] if several else []), styled(row.status, _STATUS_STYLES)]
        cells += ["" if row.age is None else say_duration(max(0.0, row.age.total_seconds()))]
        rows.append([*cells, *(say_value(row.features[name]) if name in row.features else "" for name in names)])
    return output.table(columns, rows[:SHOWN_ROWS], empty="no entities")


def values_document(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Give values as a document, an entity of a view each."""
    return [
        {
            "view": row.view,
            "version": row.version,
            "key": row.key,
            "status": row.status.lower(),
            "event_time": None if row.event_time is None else say_iso(row.event_time),
            "age_s": None if row.age is None else row.age.total_seconds(),
            "features": row.features,
        }
        for row in _rows(answers)
    ]


def history_table(output: Output, view: pb.FeatureView, rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Lay out what was written of an entity, the latest event first."""
    names = [name for name in (rows[0] if rows else ()) if name not in ("event_time", "create_time")]
    columns = [
        Column("event"),
        Column("known since"),
        *(Column(name, give="cut", optional=True, named=True) for name in names),
    ]
    cells = [[row["event_time"], row["create_time"], *(say_value(row[name]) for name in names)] for row in rows]
    return output.table(columns, cells, empty=f"nothing was written of it in {view.name}@{view.version}")


def history_rows(view: pb.FeatureView, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give what was written of an entity as documents, with times as people read them."""
    kinds = kinds_of(view)
    return [
        {
            "event_time": iso_of(row["event_time_us"]),
            "create_time": iso_of(row["create_time_us"]),
            **{
                name: told(value, kinds.get(name, ""))
                for name, value in row.items()
                if name not in ("event_time_us", "create_time_us")
            },
        }
        for row in rows
    ]


def kinds_of(view: pb.FeatureView) -> dict[str, str]:
    """Name the types of a view's features."""
    return {feature.name: kind_word(feature.type) for feature in view.features}


def kind_word(kind: pb.FeatureType.ValueType) -> str:
    """Name a type as people type it."""
    return str(enum_word(pb.FeatureType.DESCRIPTOR, kind) or "")


def computation_word(feature: pb.Feature) -> str:
    """Say when a feature is computed."""
    if not feature.expression:
        return ""
    return "on read" if feature.computation == pb.FEATURE_COMPUTATION_ON_READ else "on write"


def ttl_words(ttl_ms: int) -> str:
    """Say how long values hold."""
    return say_duration(ttl_ms / 1_000) if ttl_ms else "for ever"


def told(value: Any, kind: str) -> Any:
    """Give a value as people read it: a point in time in ISO 8601."""
    return iso_of(value) if kind == "timestamp" and value is not None else value


def iso_of(time_us: int) -> str:
    """Write µs since 1970 in ISO 8601."""
    return say_iso(_EPOCH + timedelta(microseconds=time_us))


@dataclass(frozen=True, slots=True)
class _Row:
    view: str
    version: int
    key: str
    status: str
    event_time: datetime | None
    age: timedelta | None
    features: dict[str, Any]


def _rows(answers: Sequence[Answer]) -> Iterator[_Row]:
    """Give the rows of all answers, those of one entity beside each other."""
    kinds = [kinds_of(each.view) for each in answers]
    values = [list(each.values.rows()) for each in answers]
    for number in range(len(answers[0].values.keys) if answers else 0):
        for answer, kind, found in zip(answers, kinds, values, strict=True):
            status = answer.values.statuses[number]
            moment_us = int(answer.values.event_times_us[number])
            known = status != "ABSENT"
            yield _Row(
                answer.view.name,
                answer.view.version,
                answer.values.keys[number],
                status,
                _EPOCH + timedelta(microseconds=moment_us) if known else None,
                timedelta(microseconds=int(answer.as_of[number]) - moment_us) if known else None,
                {name: told(value, kind.get(name, "")) for name, value in found[number].items()},
            )
