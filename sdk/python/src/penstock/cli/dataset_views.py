"""Datasets as tables, facts and documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from penstock.api.trainer.v1 import datasets_pb2 as pb
from penstock.cli.documents import enum_word
from penstock.cli.formats import say_bytes, say_number, say_pairs, say_share, say_time, say_value
from penstock.cli.model_views import time_of
from penstock.cli.output import Column, Output, styled

_DATASETS = (
    Column("dataset", give="cut"),
    Column("version", "right"),
    Column("state"),
    Column("rows", "right"),
    Column("columns", "right"),
    Column("size", "right", optional=True),
    Column("from", give="cut", optional=True),
    Column("made", optional=True),
    Column("by", give="cut", optional=True),
)
_COLUMNS = (
    Column("column", give="cut", least_width=12),
    Column("type"),
    Column("missing", "right"),
    Column("different", "right"),
    Column("least", "right", optional=True),
    Column("mean", "right", optional=True),
    Column("most", "right", optional=True),
    Column("most frequent", give="cut", optional=True),
)
_SPLITS = (
    Column("split", give="id"),
    Column("by"),
    Column("train", "right"),
    Column("validation", "right"),
    Column("test", "right"),
    Column("seed", "right", optional=True),
    Column("column", give="cut", optional=True),
)
_STATE_STYLES = {"ready": "green", "building": "yellow", "failed": "bold red"}
_SHOWN_VALUES = 3
_EMPTY = "no dataset: `penstock dataset upload NAME FILE` makes one"


def datasets_table(output: Output, found: Sequence[pb.Dataset]) -> RenderableType:
    """Lay out versions, one a row."""
    rows = [
        (
            dataset.name,
            str(dataset.version),
            _state(dataset),
            f"{_row_count(dataset):,}",
            str(len(dataset.columns)),
            say_bytes(dataset.size_bytes) if dataset.size_bytes else "",
            source_words(dataset.source),
            output.time(time_of(dataset.create_time)),
            dataset.created_by,
        )
        for dataset in found
    ]
    return output.table(_DATASETS, rows, empty=_EMPTY)


def dataset_facts(output: Output, dataset: pb.Dataset) -> RenderableType:
    """Lay out what there is to know of a version, its columns apart."""
    return output.facts(
        f"{dataset.name}/{dataset.version}",
        [
            ("state", _state(dataset)),
            ("why", dataset.message),
            ("rows", f"{_row_count(dataset):,}"),
            ("size", say_bytes(dataset.size_bytes) if dataset.size_bytes else ""),
            ("from", source_words(dataset.source)),
            ("description", dataset.description),
            ("labels", say_pairs(dataset.labels)),
            ("digest", dataset.digest),
            ("made", f"{say_time(time_of(dataset.create_time))} by {dataset.created_by}"),
        ],
    )


def columns_table(output: Output, dataset: pb.Dataset) -> RenderableType:
    """Lay out the columns and what was counted of them."""
    rows = [
        (
            column.name,
            str(enum_word(pb.ColumnType.DESCRIPTOR, column.type)),
            _share(column.missing_count, dataset.row_count),
            f"{column.distinct_count:,}",
            say_number(column.min) if column.HasField("min") else "",
            say_number(column.mean) if column.HasField("mean") else "",
            say_number(column.max) if column.HasField("max") else "",
            ", ".join(f"{each.value} ({each.count:,})" for each in column.top_values[:_SHOWN_VALUES]),
        )
        for column in dataset.columns
    ]
    return output.table(_COLUMNS, rows, empty="its columns are not known yet")


def splits_table(output: Output, dataset: pb.Dataset) -> RenderableType:
    """Lay out the splits of a version."""
    rows = [
        (
            split.id,
            str(enum_word(pb.SplitBy.DESCRIPTOR, split.by)),
            f"{split.train_count:,}",
            f"{split.validation_count:,}",
            f"{split.test_count:,}",
            str(split.seed),
            split.column or split.stratify_column,
        )
        for split in dataset.splits
    ]
    return output.table(_SPLITS, rows, empty="not divided yet")


def split_facts(output: Output, split: pb.DatasetSplit) -> RenderableType:
    """Lay out a split."""
    total = split.train_count + split.validation_count + split.test_count

    def rows(count: int) -> str:
        return f"{count:,} rows, {say_share(count / total if total else None)}"

    return output.facts(
        split.id,
        [
            ("by", str(enum_word(pb.SplitBy.DESCRIPTOR, split.by))),
            ("column", split.column),
            ("evenly over", split.stratify_column),
            ("seed", str(split.seed)),
            ("train", rows(split.train_count)),
            ("validation", rows(split.validation_count)),
            ("test", rows(split.test_count)),
        ],
    )


def preview_table(output: Output, dataset: pb.Dataset, rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Lay out some rows."""
    names = [column.name for column in dataset.columns]
    columns = [Column(name, give="cut", optional=place > 0, named=True) for place, name in enumerate(names)]
    cells = [[say_value(row.get(name)) for name in names] for row in rows]
    return output.table(columns, cells, empty="no rows")


def source_words(source: pb.DatasetSource) -> str:
    """Say in a few words where rows came from."""
    match source.WhichOneof("kind"):
        case "upload":
            return source.upload.file_name or "upload"
        case "traffic":
            traffic = source.traffic
            since, until = say_time(time_of(traffic.start_time)), say_time(time_of(traffic.end_time))
            return f"traffic of {traffic.model}, {since} to {until}"
        case "features":
            return f"{source.features.rows} with {', '.join(source.features.features)}"
        case _:
            return ""


def _state(dataset: pb.Dataset) -> Text:
    word = str(enum_word(pb.DatasetState.DESCRIPTOR, dataset.state))
    return styled(word, _STATE_STYLES)


def _row_count(dataset: pb.Dataset) -> int:
    return dataset.progress_rows if dataset.state == pb.DATASET_STATE_BUILDING else dataset.row_count


def _share(count: int, total: int) -> str:
    return f"{count:,} ({say_share(count / total)})" if count and total else str(count)
