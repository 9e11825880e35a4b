"""Versions that can stand in for one another, over the same inputs: how long each takes, how often it fails."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.api.registry.v1 import registry_pb2
from penstock.errors import InvalidArgument, PenstockError

Features = Mapping[str, Any]
Predict = Callable[[str, str, Features], object]
"""Asks a version of a model once; raises PenstockError where it fails."""
MAX_VERSIONS = 16
MAX_REQUESTS = 1_000_000
MAX_CONCURRENCY = 256
MAX_QUEUED = 1_024


@dataclass(frozen=True, slots=True)
class Score:
    """How one version did.

    Attributes:
        model: the model.
        version: the version.
        answered_count: requests that were answered.
        failures: those that were not, by the error's reason.
        average_ms: of the answered ones, as the caller sees it, in ms; NaN where none was, as of the others below.
        p50_ms: the median.
        p95_ms: 95 of 100 took no longer.
        p99_ms: 99 of 100 took no longer.
    """

    model: str
    version: str
    answered_count: int
    failures: Mapping[str, int]
    average_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float

    @property
    def failed_count(self) -> int:
        """Requests that were not answered."""
        return sum(self.failures.values())


def check_comparable(versions: Sequence[registry_pb2.ModelVersion]) -> str:
    """Give the equivalence group that all the versions are of.

    Raises:
        InvalidArgument: there are fewer than two, or more than 16 (TOO_FEW_VERSIONS, TOO_MANY_VERSIONS), one is there
            twice (DUPLICATE_VERSION), one has no group or another one (NOT_EQUIVALENT), or their output_dimensions
            differ (DIMENSIONS_DIFFER).
    """
    names = [f"{each.model} {each.version}" for each in versions]
    if len(versions) < 2:
        raise InvalidArgument(f"{len(versions)} came; name two versions or more", reason="TOO_FEW_VERSIONS")
    if len(versions) > MAX_VERSIONS:
        raise InvalidArgument(f"{len(versions)} came; {MAX_VERSIONS} is the most", reason="TOO_MANY_VERSIONS")
    if len(set(names)) < len(names):
        raise InvalidArgument(f"{', '.join(names)}: one of them is there twice", reason="DUPLICATE_VERSION")
    groups = {name: each.metadata.equivalence_group for name, each in zip(names, versions, strict=True)}
    if len(set(groups.values())) > 1 or not all(groups.values()):
        said = ", ".join(f"{name} {group or 'none'}" for name, group in groups.items())
        raise InvalidArgument(
            f"versions of one equivalence_group can be compared, and these are of: {said}; it is given when a version "
            "is registered",
            reason="NOT_EQUIVALENT",
        )
    dimensions = {name: each.metadata.output_dimensions for name, each in zip(names, versions, strict=True)}
    if len(set(dimensions.values())) > 1:
        said = ", ".join(f"{name} {count}" for name, count in dimensions.items())
        raise InvalidArgument(f"their output_dimensions differ: {said}", reason="DIMENSIONS_DIFFER")
    return versions[0].metadata.equivalence_group


def compare(
    versions: Sequence[registry_pb2.ModelVersion],
    inputs: Sequence[Features],
    predict: Predict,
    *,
    requests: int = 200,
    concurrency: int = 1,
    warm_up: int = 5,
    on_answer: Callable[[], None] = lambda: None,
) -> list[Score]:
    """Ask every version the same, and give their scores in the order of the versions.

    The versions are asked in turns, in an order drawn anew for each: what disturbs the server for a while disturbs them
    alike.

    Args:
        versions: two or more of one equivalence group; see `check_comparable`.
        inputs: features of a request each, one or more; they are taken in turn.
        predict: asks once.
        requests: of each version, 1 to 1,000,000.
        concurrency: requests in flight, 1 to 256.
        warm_up: requests of each version before those that count, 0 or more; the first also loads it.
        on_answer: called after each request that counts.

    Raises:
        InvalidArgument: the versions cannot be compared, there are no inputs (INPUTS_REQUIRED), or a number is out of
            its range (OUT_OF_RANGE).
    """
    check_comparable(versions)
    if not inputs:
        raise InvalidArgument("give one input at least", reason="INPUTS_REQUIRED")
    if not (1 <= requests <= MAX_REQUESTS and 1 <= concurrency <= MAX_CONCURRENCY and warm_up >= 0):
        raise InvalidArgument(
            f"requests are 1 to {MAX_REQUESTS} and concurrency is 1 to {MAX_CONCURRENCY}; {requests} and {concurrency} "
            "came",
            reason="OUT_OF_RANGE",
        )
    tally = _Tally(len(versions))

    def ask(index: int, features: Features) -> None:
        began = time.perf_counter()
        try:
            predict(versions[index].model, versions[index].version, features)
        except PenstockError as error:
            tally.fail(index, error.reason or type(error).__name__)
        else:
            tally.answer(index, time.perf_counter() - began)

    warm = [(index, inputs[number % len(inputs)]) for index in range(len(versions)) for number in range(warm_up)]
    with ThreadPoolExecutor(concurrency) as pool:
        for _ in pool.map(lambda each: ask(*each), warm):
            pass
        tally.clear()
        turns = _turns(len(versions), requests)
        while some := list(itertools.islice(turns, MAX_QUEUED)):
            for _ in pool.map(lambda turn: ask(turn[0], inputs[turn[1] % len(inputs)]), some):
                on_answer()
    return [tally.score(index, version.model, version.version) for index, version in enumerate(versions)]


def winner_of(scores: Sequence[Score]) -> Score | None:
    """Give the one that failed least, and of those the one with the lowest p95; None where none answered anything."""
    answered = [score for score in scores if score.answered_count]
    return min(answered, key=lambda score: (score.failed_count, score.p95_ms), default=None)


def _turns(versions: int, requests: int) -> Iterator[tuple[int, int]]:
    """Give the version and the number of each request."""
    order = list(range(versions))
    for number in range(requests):
        random.shuffle(order)
        for index in order:
            yield index, number


class _Tally:
    """What came of the requests so far, by version; any thread may add."""

    def __init__(self, versions: int) -> None:
        self._versions = versions
        self.clear()

    def clear(self) -> None:
        self._seconds: list[list[float]] = [[] for _ in range(self._versions)]
        self._failures: list[list[str]] = [[] for _ in range(self._versions)]

    def answer(self, index: int, seconds: float) -> None:
        self._seconds[index].append(seconds)

    def fail(self, index: int, reason: str) -> None:
        self._failures[index].append(reason)

    def score(self, index: int, model: str, version: str) -> Score:
        taken_ms = np.asarray(self._seconds[index] or [np.nan]) * 1000
        p50_ms, p95_ms, p99_ms = np.percentile(taken_ms, [50, 95, 99]).tolist()
        return Score(
            model,
            version,
            len(self._seconds[index]),
            Counter(self._failures[index]),
            float(taken_ms.mean()),
            p50_ms,
            p95_ms,
            p99_ms,
        )
