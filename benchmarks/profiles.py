"""Profiles: a reference of a million rows beside bare NumPy histogramming, and what a live event costs to count.

    python -m benchmarks.profiles [--rows N] [--features N] [--rounds N]

The reference keeps, of each feature, bins between exact quantiles, moments, the median and the MAD, and of the rows how
many repeat another: all read off one sort of each column. The sides take turns, and times are of this process's CPU, so
that a busy machine changes little. Two histograms stand beside it: of ten bins of equal width, the cheapest that numpy
has, and of ten bins between quantiles, which is what the reference's are. Live events are decoded and counted in the
bins of their reference as the service does it, without PostgreSQL.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import median
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import interleave, surroundings
from penstock.api.monitoring.v1.monitoring_pb2 import Payload
from penstock.api.tensors.v1.tensors_pb2 import TensorList
from penstock.ids import uuid7
from penstock.tensors import to_tensor
from services.monitoring.profiles.count import BucketCounter
from services.monitoring.profiles.frames import Frame, numbers_column
from services.monitoring.profiles.models import Reference
from services.monitoring.profiles.reference import Columns, Description, build_reference
from services.monitoring.profiles.store.payloads import SLICE_EVENTS
from services.monitoring.profiles.values import LiveRow

Arrays = dict[str, NDArray[np.float64]]
EVENTS = 20_000
EVENTS_A_DAY = 10_000_000
BINS = 10
RECOUNTS = 6
"""A bucket is counted once a minute while it is open, and once when it is closed: so often on average, at worst."""


def main() -> None:
    """Measure, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("; ".join(f"{name}: {said}" for name, said in surroundings().items()))
    _profile(options.rows, options.features, options.rounds)
    _count(options.rounds)


def _profile(rows: int, features: int, rounds: int) -> None:
    generator = np.random.default_rng(1)
    arrays: Arrays = {f"f{number}": generator.normal(size=rows) for number in range(features)}
    sides: dict[str, Callable[[], object]] = {
        "numpy, bins of equal width": lambda: [np.histogram(array, BINS) for array in arrays.values()],
        "numpy, bins between quantiles": lambda: [_quantile_histogram(array) for array in arrays.values()],
        "penstock, a reference": lambda: _described(arrays),
    }
    taken = interleave(list(sides), lambda name: _cpu_s(sides[name]), rounds)
    least, between, ours = (median(times) for times in taken.values())
    print(f"{rows:,} rows of {features} features, medians of {rounds}, s of CPU")
    for name, times in taken.items():
        print(f"  {name:<32}{median(times):8.2f}")
    print(f"  penstock / equal width {ours / least:.2f}   penstock / between quantiles {ours / between:.2f}")


def _quantile_histogram(array: NDArray[np.float64]) -> object:
    return np.histogram(array, np.quantile(array, np.linspace(0, 1, BINS + 1)))


def _described(arrays: Arrays) -> Description:
    (rows,) = {array.size for array in arrays.values()}
    return build_reference(Frame(rows, {name: numbers_column(array) for name, array in arrays.items()}), Columns())


def _count(rounds: int) -> None:
    print(f"{EVENTS:,} live events counted, medians of {rounds}, µs of CPU an event")
    for features in (4, 50):
        for kind, payload in (("tensor", _tensor), ("fields", _fields)):
            against, events = _traffic(features, payload)
            times = [_cpu_s(lambda against=against, events=events: _counted(against, events)) for _ in range(rounds)]  # type: ignore[misc]
            each_us = median(times) / EVENTS * 1e6
            share = each_us * 1e-6 * EVENTS_A_DAY * RECOUNTS / 86_400
            print(
                f"  {features:>3} features, {kind}: {each_us:6.1f}   "
                f"{EVENTS_A_DAY:,} events a day, each {RECOUNTS} times: {share:.1%} of a core"
            )


def _traffic(features: int, payload: Callable[[NDArray[np.float32]], Payload]) -> tuple[Reference, list[LiveRow]]:
    values = np.random.default_rng(2).normal(size=(EVENTS, features)).astype(np.float32)
    found = _described({f"X[{number}]": values[:, number].astype(np.float64) for number in range(features)})
    against = Reference(
        id=UUID(int=1),
        model="m",
        version="1",
        number=1,
        row_count=found.row_count,
        features=found.features,
        accuracy=None,
        judged_count=0,
        duplicate_share=found.duplicate_share,
        create_time=datetime.now(UTC),
        created_by="",
        note="",
    )
    events = [
        LiveRow(UUID(uuid7()), f"user-{number % 500}", "", 1, payload(row).SerializeToString(), None, None)
        for number, row in enumerate(values)
    ]
    return against, events


def _tensor(row: NDArray[np.float32]) -> Payload:
    return Payload(tensors=TensorList(tensors=[to_tensor("X", row[np.newaxis])]))


def _fields(row: NDArray[np.float32]) -> Payload:
    payload = Payload()
    payload.fields.update({f"X[{number}]": float(value) for number, value in enumerate(row)})
    return payload


def _counted(against: Reference, events: list[LiveRow]) -> object:
    counter = BucketCounter(against)
    for start in range(0, len(events), SLICE_EVENTS):
        counter.add(events[start : start + SLICE_EVENTS])
    return counter.result()


def _cpu_s(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
