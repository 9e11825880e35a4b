"""The part of the feature store's client that takes samples of what was written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from penstock.api.features.v1 import features_pb2 as pb
from penstock.channels import Connection
from penstock.feature_columns import FeatureValues, from_selected, to_us
from penstock.stubs import RegistryStub


@dataclass(frozen=True, slots=True)
class FeatureSample:
    """Some rows of a window, with their event times, by entity; one entity may have several.

    Attributes:
        values: the rows; `statuses` are empty.
        window_row_count: rows of the window, of all entities, corrections counted by themselves.
        share: of the entities' hashes, over 0 to 1; 1: all entities are there.
    """

    values: FeatureValues
    window_row_count: int
    share: float


class FeatureSampling:
    """Takes samples."""

    def __init__(self, connection: Connection[RegistryStub]) -> None:
        self._connection = connection

    def sample(
        self,
        view: str,
        version: int = 0,
        *,
        from_time: datetime | int,
        to_time: datetime | int,
        max_rows: int = 0,
    ) -> Iterator[FeatureSample]:
        """Give what was written with event times in a window, the latest correction of each, block by block.

        Where it is more than `max_rows` (1 to 200,000; 0: 100,000) all rows of some entities, chosen by a hash of their
        keys: the same in each window. At least one block comes; features that are computed on read are in none.

        Raises:
            InvalidArgument: the window is none (INVALID_TIME), or not even one part of the entities fits (TOO_MANY).
            NotFound: there is no such view (VIEW_NOT_FOUND, VIEW_VERSION_NOT_FOUND).
        """
        request = pb.SampleFeaturesRequest(
            view=view,
            version=version,
            from_time_us=to_us("from_time", from_time),
            to_time_us=to_us("to_time", to_time),
            max_rows=max_rows,
        )
        with closing(self._connection.stream(self._connection.stub.SampleFeatures, request)) as answers:
            for answer in answers:
                rows = answer.rows
                selected = pb.SelectedFeatures(
                    view=view, version=answer.version, event_times_us=rows.event_times_us, columns=rows.columns
                )
                yield FeatureSample(from_selected(rows.keys, selected), answer.window_row_count, answer.share)
