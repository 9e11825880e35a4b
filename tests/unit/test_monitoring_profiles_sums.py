"""Buckets of live rows added up: whatever a window's length, and of whichever shares its buckets are."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import numpy as np
import pytest

from penstock.ids import uuid7
from services.monitoring.profiles.count import BUCKET_SAMPLE_SIZE, BucketCounter, BucketCounts
from services.monitoring.profiles.models import (
    BUCKET,
)
from services.monitoring.profiles.overdispersion import user_number
from services.monitoring.profiles.packing import (
    pack_counts,
    pack_floats,
    pack_samples,
    unpack_counts,
    unpack_floats,
    unpack_samples,
)
from services.monitoring.profiles.store import payloads
from services.monitoring.profiles.sums import sum_up
from services.monitoring.profiles.values import LiveRow
from tests.live_rows import AT, INF, NAN, NUMBER, VECTOR, bins, counted, event, fields, named, reference, window


def mixed_events(count: int = 400) -> list[LiveRow]:
    generator = np.random.default_rng(3)
    values = np.round(generator.normal(size=count), 1)
    return [
        event(
            fields({"x": float(value), "e": generator.normal(size=3).tolist()}),
            user=f"user-{number % 50}" if number % 2 else "",
            at=AT + timedelta(milliseconds=number),
        )
        for number, value in enumerate(values)
    ]


def test_how_events_are_cut_into_slices_changes_nothing() -> None:
    events, against = mixed_events(), reference(NUMBER, replace(VECTOR, name="e"))
    whole, cut = counted(events, against), counted(events, against, at_once=7)
    for name in BucketCounts.__slots__:
        if name != "samples":
            assert np.array_equal(getattr(whole, name), getattr(cut, name), equal_nan=name == "extremes"), name
    assert np.array_equal(whole.samples["e"].vectors, cut.samples["e"].vectors)
    assert whole.samples["e"].vectors.shape == (BUCKET_SAMPLE_SIZE, 3)
    assert whole.group_row_counts.sum() == 200
    assert whole.groups[:, :4].sum() == 200


def test_each_vector_of_a_sample_keeps_its_user() -> None:
    names = [f"user-{number}" if number % 3 else "" for number in range(300)]
    events = [event(fields({"e": [float(number)] * 3}), user=name) for number, name in enumerate(names)]
    against = reference(replace(VECTOR, name="e"))
    parts = []
    for number in range(2):
        found = counted(events[150 * number : 150 * number + 150], against, at_once=7)
        parts.append((AT + number * BUCKET, replace(found, samples=unpack_samples(pack_samples(found.samples)))))
    sample = sum_up(against, AT, AT + 2 * BUCKET, parts).features["e"].sample
    assert sample is not None
    assert len(sample) > 50
    assert sample.users.tolist() == [user_number(names[int(vector[0])]) for vector in sample.vectors]


def test_a_window_is_the_sum_of_its_buckets() -> None:
    events, against = mixed_events(), reference(NUMBER, replace(VECTOR, name="e"))
    whole = window(events, against)
    parts = [(AT, counted(events[:150], against)), (AT + BUCKET, counted(events[150:], against))]
    summed = sum_up(against, AT, AT + 2 * BUCKET, parts)
    assert summed.row_counts.tolist() == [150, 250]
    assert summed.features["x"].counts.shape == (2, 4)
    assert bins(summed.features["x"]) == bins(whole.features["x"])
    assert np.array_equal(summed.features["x"].groups, whole.features["x"].groups)
    assert (summed.features["x"].min, summed.features["x"].max) == (whole.features["x"].min, whole.features["x"].max)
    assert summed.features["x"].last_time == whole.features["x"].last_time == AT + timedelta(milliseconds=399)


def test_a_window_without_rows_has_every_feature() -> None:
    empty = sum_up(reference(NUMBER), AT, AT + BUCKET, [])
    assert (empty.row_count, empty.features["x"].counts.shape) == (0, (0, 4))


@pytest.mark.slow
def test_the_sample_of_a_window_is_uniform_over_its_rows() -> None:
    against = reference(VECTOR)
    busy = [event(fields({"x": [1.0, 0.0, 0.0]})) for _ in range(3_000)]
    quiet = [event(fields({"x": [0.0, 0.0, 0.0]})) for _ in range(1_000)]
    shares = []
    for _ in range(8):
        parts = [
            (AT + number * BUCKET, counted(part, against))
            for number, part in enumerate([busy[:1_000], busy[1_000:], quiet])
        ]
        sample = sum_up(against, AT, AT + 3 * BUCKET, parts).features["x"].sample
        assert sample is not None
        shares.append(sample.vectors[:, 0].mean())
        busy = [row._replace(inference_id=UUID(uuid7(AT))) for row in busy]
        quiet = [row._replace(inference_id=UUID(uuid7(AT))) for row in quiet]
    assert np.mean(shares) == pytest.approx(0.75, abs=0.06)


def test_repeats_are_rows_that_are_equal_in_all_known_features() -> None:
    events = [event(fields({"x": 1, "id": number})) for number in range(3)]
    assert window([*events, event(fields({"x": 2}))], reference(NUMBER)).duplicate_count == 2
    both = [event(fields({"x": 1, "y": number % 2})) for number in range(4)]
    assert window(both, named("x", "y")).duplicate_count == 2


def test_rows_repeat_across_slices_whatever_else_a_slice_lacks() -> None:
    same = event(fields({"x": 1.5, "y": 2}))
    lacking = event(fields({"y": 7}))
    more = event(fields({"x": 1.5, "y": 2, "z": None}))
    against = named("x", "y", "z")
    rows = [same, more, lacking, same, event(fields({"y": 7})), event(fields({"x": "text", "y": 7}))]
    for at_once in (1, 2, 3, 6):
        assert counted(rows, against, at_once=at_once).duplicate_count == 3, at_once
    zero = [event(fields({"x": 0, "y": 1})), event(fields({"y": 1}))]
    assert counted(zero, against, at_once=1).duplicate_count == 0


def day(night_rows: int, noon_rows: int) -> tuple[list[LiveRow], list[LiveRow]]:
    """A quiet and a busy bucket of a plain daily cycle: values below 0 at night, above it at noon."""
    night = [event(fields({"x": -1.0, "e": [0.0, 0.0, 0.0]}), user=str(number)) for number in range(night_rows)]
    return night, [event(fields({"x": 1.0, "e": [1.0, 0.0, 0.0]}), user=str(number)) for number in range(noon_rows)]


def test_hours_of_which_a_sample_was_read_keep_their_weight() -> None:
    against = reference(NUMBER, replace(VECTOR, name="e"))
    night, noon = day(400, 4_000)
    counter = BucketCounter(against)
    counter.add([row for number, row in enumerate(noon) if number % 4 == 0])
    parts = [(AT, counted(night, against)), (AT + BUCKET, counter.result(0.25))]
    summed = sum_up(against, AT, AT + 2 * BUCKET, parts, share=0.25)
    assert summed.share == 0.25
    assert summed.row_counts.tolist() == [100, 1_000]
    assert bins(summed.features["x"]) == [100, 1_000, 0, 0]
    assert summed.features["x"].groups.sum() == pytest.approx(1_100, abs=32)
    sample = summed.features["e"].sample
    assert sample is not None
    assert sample.vectors[:, 0].mean() == pytest.approx(10 / 11, abs=0.15)


def test_what_weights_round_away_is_not_lost_over_a_day() -> None:
    against = reference(NUMBER)
    rare = counted([event(fields({"x": 1.0})), event(fields({"x": None}))], against)
    parts = [(AT + number * BUCKET, rare) for number in range(288)]
    summed = sum_up(against, AT, AT + 288 * BUCKET, parts, share=0.125)
    assert bins(summed.features["x"]) == [0, 36, 36, 0]
    assert summed.row_count == 72


def test_a_month_takes_no_more_steps_than_a_day() -> None:
    against = reference(NUMBER, replace(VECTOR, name="e"))
    each = counted(mixed_events(60), against)
    count = 30 * 288
    summed = sum_up(against, AT, AT + count * BUCKET, ((AT + number * BUCKET, each) for number in range(count)))
    assert summed.features["x"].counts.shape == (288, 4)
    assert summed.row_counts.tolist() == [30 * 60] * 288
    assert summed.largest_bucket == 60
    assert bins(summed.features["x"]) == [int(one) * count for one in each.counts[:4]]
    assert summed.bucket_times[:2] == [AT, AT + 30 * BUCKET]
    assert summed.features["e"].sample is not None
    assert summed.features["e"].sample.vectors.shape == (500, 3)
    gone = sum_up(against, AT, AT + count * BUCKET, [(AT + 95 * BUCKET, each)])
    assert (gone.bucket_times, gone.row_counts.tolist()) == ([AT + 90 * BUCKET], [60])


def test_a_slice_of_events_has_no_more_cells_than_there_is_room_for() -> None:
    def sizes(count: int, rows: int, size_bytes: int = 100) -> list[payloads.Size]:
        return [(UUID(uuid7(AT)), size_bytes, rows) for _ in range(count)]

    def lengths(found: list[payloads.Size], columns: int) -> list[int]:
        return [len(ids) for ids in payloads._slices(found, columns)]

    assert lengths(sizes(5_000, 1), 50) == [2_000, 2_000, 1_000]
    assert lengths(sizes(3, 10_000), 2_000) == [1, 1, 1]
    assert lengths(sizes(20, 10_000), 50) == [8, 8, 4]
    assert lengths(sizes(3, 1_000_000), 400) == [1, 1, 1]  # of which no more than 10,000 rows are counted
    assert lengths(sizes(20, 1, 1024 * 1024), 4) == [8, 8, 4]


def test_what_is_packed_comes_out_again() -> None:
    for greatest in (0, 255, 256, 70_000, 2**40):
        counts = np.array([0, 1, greatest], np.int64)
        assert unpack_counts(pack_counts(counts)).tolist() == counts.tolist()
    assert len(pack_counts(np.zeros(20_000, np.int64))) < 200
    floats = np.array([NAN, -1.5, INF])
    assert np.array_equal(unpack_floats(pack_floats(floats)), floats, equal_nan=True)
    samples = counted(mixed_events(10), reference(replace(VECTOR, name="e"))).samples
    found = unpack_samples(pack_samples(samples))["e"]
    assert np.array_equal(found.vectors, samples["e"].vectors)
    assert (found.keys.tolist(), found.whole) == (samples["e"].keys.tolist(), True)
