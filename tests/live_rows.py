"""Live events and references of one feature or a few, and how they are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from penstock.api.monitoring.v1.monitoring_pb2 import Payload
from penstock.api.tensors.v1.tensors_pb2 import Tensor, TensorList
from penstock.ids import uuid7
from penstock.tensors import to_tensor
from services.monitoring.outcomes import outcomes_of
from services.monitoring.profiles.count import BucketCounter, BucketCounts
from services.monitoring.profiles.models import (
    BUCKET,
    QUALITY_COUNTS,
    FeatureKind,
    FeatureReference,
    LiveFeature,
    LiveWindow,
    Moments,
    Reference,
)
from services.monitoring.profiles.sums import sum_up
from services.monitoring.profiles.values import LiveRow

NAN, INF = float("nan"), float("inf")
AT = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)
NUMBER = FeatureReference(
    "x",
    FeatureKind.NUMERIC,
    is_prediction=False,
    counts=(10, 10, 0, 0),
    edges=(0.0,),
    moments=Moments(20, 0, 1, -3, 3, 0, 1),
)
COLOUR = FeatureReference(
    "x", FeatureKind.CATEGORICAL, is_prediction=False, counts=(9, 5, 4, 0, 2), categories=("red", "2", "true")
)
FLAG = FeatureReference(
    "x", FeatureKind.BOOLEAN, is_prediction=False, counts=(5, 5, 0, 0), categories=("false", "true")
)
TEXT = replace(NUMBER, kind=FeatureKind.TEXT_LENGTH, edges=(4.5,), moments=Moments(20, 4, 1, 1, 9, 4, 1))
VECTOR = FeatureReference("x", FeatureKind.EMBEDDING, is_prediction=False, counts=(0, 0), dimensions=3)


def reference(*features: FeatureReference) -> Reference:
    return Reference(
        id=UUID(int=1), model="m", version="1", number=1, row_count=20,
        features={feature.name: feature for feature in features},
        accuracy=None, judged_count=0, duplicate_share=0, create_time=AT, created_by="", note="",
    )  # fmt: skip


def named(*names: str, kind: FeatureReference = NUMBER) -> Reference:
    return reference(*(replace(kind, name=name) for name in names))


def fields(values: dict[str, Any]) -> Payload:
    payload = Payload()
    payload.fields.update(values)
    return payload


def tensors(*given: Tensor, **arrays: Any) -> Payload:
    found = [*given, *(to_tensor(name, array) for name, array in arrays.items())]
    return Payload(tensors=TensorList(tensors=found))


def event(features: Payload, prediction: Payload | None = None, *, rows: int = 1, **more: Any) -> LiveRow:
    return LiveRow(
        inference_id=UUID(uuid7(more.pop("at", AT))),
        user_id=more.pop("user", ""),
        error_code=more.pop("error", ""),
        row_count=rows,
        features=features.SerializeToString(),
        prediction=None if prediction is None else prediction.SerializeToString(),
        outcomes=None if prediction is None else outcomes_of(prediction, rows),
    )


def counted(
    events: Sequence[LiveRow], against: Reference, columns: Sequence[str] = (), *, at_once: int = 10_000
) -> BucketCounts:
    counter = BucketCounter(against, columns)
    for start in range(0, len(events), at_once):
        counter.add(events[start : start + at_once])
    return counter.result()


def window(events: Sequence[LiveRow], against: Reference, **more: Any) -> LiveWindow:
    return sum_up(against, AT, AT + BUCKET, [(AT, counted(events, against, **more))])


def bins(live: LiveFeature) -> list[int]:
    return [int(count) for count in live.counts.sum(axis=0)]


def faults(live: LiveFeature) -> dict[str, int]:
    totals = dict(zip(QUALITY_COUNTS, live.quality.sum(axis=0).tolist(), strict=True))
    return {name: count for name, count in totals.items() if count}
