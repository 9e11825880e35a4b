"""A run's rows: what its data source names, divided and written into its folder.

What the work of runs calls:

    given = datasets.materialise(run_id, source, model, split, folder, stopping)
    ...                                    # given.dataset, given.split_id, given.counts go into the run's row
    datasets.release(connection, run_id)   # in the transaction that ends the run, however it ends

A source is `NAME` (the newest version that is READY), `NAME/VERSION`, `traffic` or `traffic:7d` (labelled live traffic
of the model of the last 7 days; a new version of the dataset MODEL-traffic is built of it, and waited for), or several
of these joined by `+`: their rows are appended, with the columns that they have in common. Each is divided by itself,
so that rows which an earlier run of the same split held out are held out again.

The columns that traffic has beside features and label (prediction, confidence, event_time, inference_id, model_version)
can be split by, and are left out of what is written: nothing is to be learned from them.

Called again for the same run (a rescue), it reads the versions that it read before, also if there are newer ones now,
and also if somebody has deleted them by force meanwhile: from the first call on until `release`, the run refers to
them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pyarrow as pa
from numpy.typing import NDArray

from services.common import checks
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from services.common.jobs import JobConnection
from services.common.keys import Principal, Role
from services.trainer.datasets.builds import Builds, NewBuild
from services.trainer.datasets.catalog import ready
from services.trainer.datasets.dividing import check_columns, check_named, check_unspread, default_split, divided
from services.trainer.datasets.files import RowFiles, read_column, write_parts
from services.trainer.datasets.kinds import ColumnType
from services.trainer.datasets.models import Dataset, DatasetState, Source, TrafficSource, reference_of
from services.trainer.datasets.rows.arrow import ARROW
from services.trainer.datasets.rows.writing import open_writer, read_batches
from services.trainer.datasets.splits import PARTS, DefaultSplit, Split, SplitBy
from services.trainer.datasets.store import DatasetStore
from services.trainer.datasets.traffic import OWN
from services.trainer.faults import TrainingFailed
from services.trainer.task import Part, RunFolder, Stopping

MAX_SOURCES: Final = 16
DEFAULT_WINDOW: Final = timedelta(days=7)
LOOK_INTERVAL_S: Final = 0.5
KEY: Final = "key"
"""The column of the keys by which rows belong together."""
_TRAFFIC: Final = re.compile(r"traffic(?::(\d{1,6})([smhd]))?")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_WIDENING: Final = frozenset({ColumnType.INT64, ColumnType.FLOAT64})


@dataclass(frozen=True, slots=True)
class Materialised:
    """What lies in a run's folder.

    Attributes:
        dataset: NAME/VERSION; several are joined by `+`.
        split_id: of the split; several are joined by `+`, in the same order.
        counts: rows by part; a part without rows has no file.
        columns: those written, in order.
        digest: of each dataset's rows, in the same order and joined likewise.
    """

    dataset: str
    split_id: str
    counts: Mapping[Part, int]
    columns: tuple[str, ...]
    digest: str = ""


class Datasets:
    """Datasets, as runs see them; opened by `services.trainer.datasets.assembly.open_datasets`."""

    def __init__(self, store: DatasetStore, files: RowFiles, builds: Builds) -> None:
        self._store = store
        self._files = files
        self._builds = builds

    def materialise(
        self,
        run_id: UUID,
        source: str,
        model: str,
        split: Split | DefaultSplit | None,
        folder: RunFolder,
        stopping: Stopping,
    ) -> Materialised:
        """Write `folder.rows(part)` for every part that has rows, and `folder.groups(part)` where they go by key.

        Without a split, 0.7 are to learn from, 0.15 to stop by and 0.15 to judge by. Where it does not say by what,
        live traffic is divided by key, which is `inference_id`, so that a row stays in its part when the window moves
        on, and other datasets by seed.

        Raises:
            TrainingFailed: INVALID_DATA: no such dataset or version, or it is not READY; no column in common, or of
                types that do not go together; nothing to learn from; no labelled traffic. INVALID_PARAMETERS: a source
                or a split that cannot be meant.
            Unavailable: the database, the blob store or monitoring gives no answer; the same again may help.
            Stopped: the run is to end.
        """
        with _as_training_failures():
            found = self._resolved(run_id, sources_of(source), model, stopping)
            columns = common_columns(found)
            return self._written(found, columns, split, folder, stopping)

    def check(
        self,
        source: str,
        named: Mapping[str, Sequence[str]] | None = None,
        split: Split | DefaultSplit | None = None,
    ) -> None:
        """See that a source can be read and divided now, before a run is created.

        The columns of live traffic are known only once it is gathered: what its rows lack, the run refuses.

        Args:
            source: as of `materialise`.
            named: the columns that are needed, by the field that names them.
            split: as of `materialise`.

        Raises:
            InvalidArgument: it cannot be meant (INVALID_DATA_SOURCE), lacks a column that is named, or that the split
                goes by (UNKNOWN_COLUMN), or is not divided so (INVALID_PARAMETERS).
            NotFound, FailedPrecondition: there is no such dataset or version, or it is not READY.
        """
        try:
            sources = sources_of(source)
        except InvalidArgument as error:
            raise InvalidArgument(error.message, reason="INVALID_DATA_SOURCE", violations=error.violations) from error
        for text in sources:
            if _window(text) is not None:
                check_unspread(text, split if isinstance(split, DefaultSplit) else DefaultSplit())
                continue
            dataset = self._named(text)
            check_named(dataset.reference, list(_learned_from(dataset)), named or {})
            check_columns(dataset, split if isinstance(split, Split) else default_split(dataset, split))

    def refer(self, connection: JobConnection, run_id: UUID, source: str) -> None:
        """Optional, when a run is created: hold what its source names from then on, so that a dataset deleted while
        the run waits is there when it begins. Names that are not known are left for `materialise` to refuse.
        """
        try:
            sources = sources_of(source)
        except InvalidArgument:
            return
        for position, text in enumerate(sources):
            if _TRAFFIC.fullmatch(text):
                continue
            name, version = reference_of("data_source", text)
            dataset = self._store.find(connection, name, version)
            if dataset is not None and dataset.state is DatasetState.READY:
                self._store.refer(connection, run_id, position, dataset.version_id)

    def release(self, connection: JobConnection, run_id: UUID) -> None:
        """Let go of what a run refers to, in the transaction that ends it."""
        self._store.release(connection, run_id)

    def _resolved(self, run_id: UUID, sources: Sequence[str], model: str, stopping: Stopping) -> list[Dataset]:
        """Give the version that each source means, and have the run refer to it."""
        with self._store.transaction() as connection:
            known = self._store.references(connection, run_id)
        found = []
        for position, text in enumerate(sources):
            stopping.check()
            if position in known:
                found.append(self._store.by_id(known[position]))
                continue
            window = _window(text)
            dataset = self._named(text) if window is None else self._built(run_id, position, model, window, stopping)
            with self._store.transaction() as connection:
                if not self._store.refer(connection, run_id, position, dataset.version_id):
                    raise NotFound(f"{dataset.reference} has just been deleted", reason="DATASET_VERSION_NOT_FOUND")
            found.append(dataset)
        return found

    def _named(self, text: str) -> Dataset:
        return ready(self._store.get(*reference_of("data_source", text)))

    def _built(self, run_id: UUID, position: int, model: str, window: timedelta, stopping: Stopping) -> Dataset:
        """Build a dataset of the model's labelled traffic, once a run, and wait for it."""
        now = datetime.now(UTC)
        name = f"{model}-traffic"
        checks.model_name("data_source", name)
        traffic = TrafficSource(model, now - window, now, labelled_only=True)
        new = NewBuild(name, Source(traffic=traffic), request_id=f"run-{run_id}-{position}")
        dataset = self._builds.create(new, Principal(name=f"run:{run_id}", role=Role.OPERATOR))
        while dataset.state is DatasetState.BUILDING:
            stopping.wait(LOOK_INTERVAL_S)
            dataset = self._store.by_id(dataset.version_id)
        return ready(dataset)

    def _written(
        self,
        found: Sequence[Dataset],
        columns: Mapping[str, ColumnType],
        split: Split | DefaultSplit | None,
        folder: RunFolder,
        stopping: Stopping,
    ) -> Materialised:
        counts = dict.fromkeys(Part, 0)
        splits = []
        chosen = [split if isinstance(split, Split) else default_split(dataset, split) for dataset in found]
        by_key = any(each.by is SplitBy.KEY for each in chosen)
        with ExitStack() as stack:
            writers: dict[Path, Any] = {}

            def writer(path: Path, schema: pa.Schema) -> Any:
                if path not in writers:
                    writers[path] = stack.enter_context(open_writer(path, schema))
                return writers[path]

            for dataset, each in zip(found, chosen, strict=True):
                each.check()
                check_columns(dataset, each)
                path = stack.enter_context(self._files.brought(self._store.blob(dataset.version_id), stopping.check))
                kept, parts = divided(dataset, each, path, stopping.check)
                self._store.add_split(dataset.version_id, kept)
                splits.append(kept.split_id)
                own = {part: path.with_name(f"{part}.parquet") for part, count in kept.counts.items() if count}
                write_parts(path, parts, own, list(columns), stopping.check)
                for part, rows in own.items():
                    for batch in read_batches(rows):
                        stopping.check()
                        writer(folder.rows(part), _schema(columns)).write_batch(_cast(batch, columns))
                    counts[part] += kept.counts[part]
                if by_key:
                    for part, keys in _keys(path, each, parts, own):
                        writer(folder.groups(part), keys.schema).write_table(keys)
        if not counts[Part.TRAIN]:
            sentence = "the split leaves no row to learn from; give it another share, or a source of more rows"
            raise TrainingFailed(sentence, reason="INVALID_DATA")
        references = "+".join(dataset.reference for dataset in found)
        digests = "+".join(dataset.rows.digest for dataset in found if dataset.rows)
        return Materialised(references, "+".join(splits), counts, tuple(columns), digests)


def _keys(path: Path, split: Split, parts: NDArray[Any], wanted: Collection[Part]) -> Iterator[tuple[Part, pa.Table]]:
    """Give the keys of the rows of each part, in their order; of those that are divided by no key, none."""
    column = read_column(path, split.column).cast(pa.string()) if split.by is SplitBy.KEY else None
    for number, part in enumerate(PARTS):
        if part in wanted:
            here = pa.array(parts == number)
            count = int((parts == number).sum())
            yield part, pa.table({KEY: column.filter(here) if column is not None else pa.nulls(count, pa.string())})


def sources_of(source: str) -> list[str]:
    """Take a data source apart; raises InvalidArgument (INVALID_PARAMETERS) for one that cannot be meant."""
    found = [text.strip() for text in source.split("+")]
    if len(found) > MAX_SOURCES:
        raise _unmeant(source, f"it joins {len(found)}; {MAX_SOURCES} are allowed")
    for text in found:
        if not _TRAFFIC.fullmatch(text):
            try:
                reference_of("data_source", text)
            except InvalidArgument:
                raise _unmeant(source, "write NAME, NAME/VERSION, traffic or traffic:7d, joined by +") from None
    return found


def common_columns(found: Sequence[Dataset]) -> dict[str, ColumnType]:
    """Give the columns that are learned from: those that all have, in the order of the first.

    Raises:
        TrainingFailed: INVALID_DATA: there is none, or one has types that do not go together.
    """
    columns: dict[str, ColumnType] = {}
    for number, dataset in enumerate(found):
        own = _learned_from(dataset)
        if not number:
            columns = own
            continue
        columns = {name: kind for name, kind in columns.items() if name in own}
        for name, kind in columns.items():
            columns[name] = _together(name, kind, own[name], found[0], dataset)
    if not columns:
        names = ", ".join(dataset.reference for dataset in found)
        raise TrainingFailed(f"{names} have no column in common", reason="INVALID_DATA")
    return columns


def _learned_from(dataset: Dataset) -> dict[str, ColumnType]:
    """Give the columns that are written for a run."""
    left_out = OWN if dataset.source.traffic is not None else ()
    return {column.name: column.type for column in dataset.rows.columns if column.name not in left_out}


def _together(name: str, kind: ColumnType, other: ColumnType, first: Dataset, later: Dataset) -> ColumnType:
    if kind is other:
        return kind
    if {kind, other} == _WIDENING:
        return ColumnType.FLOAT64
    sentence = (
        f"column {name!r} is {kind} in {first.reference} and {other} in {later.reference}; upload one of them anew, "
        "with column_types saying which"
    )
    raise TrainingFailed(sentence, reason="INVALID_DATA")


def _schema(columns: Mapping[str, ColumnType]) -> pa.Schema:
    return pa.schema([pa.field(name, ARROW[kind]) for name, kind in columns.items()])


def _cast(batch: pa.RecordBatch, columns: Mapping[str, ColumnType]) -> pa.RecordBatch:
    # Whole numbers beyond 2^53 lose their last digits as numbers, as they do everywhere.
    arrays = [batch.column(name).cast(ARROW[kind], safe=False) for name, kind in columns.items()]
    return pa.RecordBatch.from_arrays(arrays, schema=_schema(columns))


def _window(text: str) -> timedelta | None:
    """Read how far back traffic is looked at; None: it is a dataset's name."""
    match = _TRAFFIC.fullmatch(text)
    if match is None:
        return None
    number, unit = match.groups()
    return timedelta(**{_UNITS[unit]: int(number)}) if number else DEFAULT_WINDOW


def _unmeant(source: str, sentence: str) -> InvalidArgument:
    what = f"got {checks.shown(source)}; {sentence}"
    return InvalidArgument.field("data_source", what, reason="INVALID_PARAMETERS")


@contextmanager
def _as_training_failures() -> Iterator[None]:
    """Say of what the rows are not that the run cannot learn from them."""
    try:
        yield
    except (TrainingFailed, Unavailable):
        raise
    except InvalidArgument as error:
        raise TrainingFailed(error.message, reason="INVALID_PARAMETERS") from error
    except (NotFound, FailedPrecondition) as error:
        raise TrainingFailed(error.message, reason="INVALID_DATA") from error
