"""The use case of samples: as many entities of a window as a bound of rows allows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import numpy as np

from penstock.api.features.v1 import features_pb2 as pb
from services.common import checks
from services.common.errors import InvalidArgument
from services.registry.features import convert
from services.registry.features.models import FIRST_US, LAST_US, View
from services.registry.features.store.samples import SLOTS, Block
from services.registry.features.store.transaction import FeatureStore

MAX_ROWS: Final = 200_000
DEFAULT_ROWS: Final = 100_000
BLOCK_ROWS: Final = 2_048


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """Events of a view in a window, in µs since 1970, its end exclusive; so many rows at most. Version 0: newest."""

    view: str
    version: int
    from_time: int
    to_time: int
    max_rows: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What was found: see SampleFeaturesResponse. At least one block, of a window without rows an empty one."""

    view: View
    blocks: list[Block]
    window_row_count: int
    share: float


def request_from(message: pb.SampleFeaturesRequest) -> SampleRequest:
    """Read what is asked for; raises InvalidArgument (INVALID_TIME, OUT_OF_BOUNDS)."""
    checks.between("max_rows", message.max_rows, 0, MAX_ROWS)
    if not FIRST_US <= message.from_time_us < message.to_time_us <= LAST_US:
        sentence = "it is not before to_time_us, or beyond the calendar; give both ends of a window"
        raise InvalidArgument.field("from_time_us", sentence, reason="INVALID_TIME")
    rows = message.max_rows or DEFAULT_ROWS
    return SampleRequest(message.view, message.version, message.from_time_us, message.to_time_us, rows)


def response_of(sample: Sample, block: Block) -> pb.SampleFeaturesResponse:
    """Write a block."""
    keys, times, columns = block
    values = [
        convert.column_proto(feature, column) for feature, column in zip(sample.view.stored, columns, strict=False)
    ]
    return pb.SampleFeaturesResponse(
        rows=pb.FeatureRows(keys=keys, event_times_us=times, columns=values),
        version=sample.view.version,
        window_row_count=sample.window_row_count,
        share=sample.share,
    )


class FeatureSamples:
    """Takes samples. All of one is read before any of it is sent: who reads slowly holds no transaction open."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store

    def take(self, asked: SampleRequest) -> Sample:
        """Read the rows of as many entities as fit.

        Raises:
            NotFound: VIEW_NOT_FOUND, VIEW_VERSION_NOT_FOUND.
            InvalidArgument: not even the first entities fit (TOO_MANY).
        """
        with self._store.transaction() as tables:
            view = tables.views.get(asked.view, asked.version)
            counts = tables.samples.counts(view, asked.from_time, asked.to_time)
            total = sum(counts)
            slots = int(np.searchsorted(np.fromiter(accumulate(counts), np.int64, SLOTS), asked.max_rows, "right"))
            if total and not sum(counts[:slots]):
                sentence = f"the first entities alone have more than {asked.max_rows:,} rows; take a shorter window"
                raise InvalidArgument.field("max_rows", sentence, reason="TOO_MANY")
            blocks = tables.samples.blocks(view, asked.from_time, asked.to_time, slots, rows=BLOCK_ROWS)
        return Sample(view, blocks or [([], [], [])], total, slots / SLOTS)
