"""What is found in windows of live data: events as they come, counted as they are, against a reference of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from google.protobuf.struct_pb2 import NULL_VALUE, Value

from penstock.api.monitoring.v1.monitoring_pb2 import Payload
from penstock.ids import uuid7
from penstock.values import to_value
from services.monitoring.configuration.models import QualityConfiguration
from services.monitoring.profiles.count import BucketCounter, BucketCounts
from services.monitoring.profiles.frames import ColumnBuilder, Frame
from services.monitoring.profiles.models import BUCKET, FeatureKind, LiveWindow, Reference
from services.monitoring.profiles.reference import Columns, build_reference
from services.monitoring.profiles.sums import sum_up
from services.monitoring.profiles.values import LiveRow
from services.monitoring.quality.findings import examine
from services.monitoring.quality.models import QualityFinding, QualityIssue, QualityReport, QualityStatus
from services.monitoring.quality.unreferenced import examine_rows

Row = Mapping[str, Any]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
KINDS = {"plan": FeatureKind.CATEGORICAL, "note": FeatureKind.TEXT_LENGTH}
USUAL = QualityConfiguration()


def good_rows(count: int, seed: int = 1) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    columns = {
        "age": np.round(rng.normal(40, 8, count), 3).tolist(),
        "plan": rng.choice(["free", "team", "firm"], count, p=[0.6, 0.3, 0.1]).tolist(),
        "member": (rng.random(count) < 0.5).tolist(),
        "note": ["x" * length for length in rng.integers(1, 40, count).tolist()],
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def reference_of(rows: Sequence[Row], kinds: Mapping[str, FeatureKind] = KINDS) -> Reference:
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        builder = ColumnBuilder(len(rows))
        builder.put_values(np.arange(len(rows)), [row.get(name) for row in rows])
        columns[name] = builder.build()
    known = {name: kind for name, kind in kinds.items() if name in names}
    found = build_reference(Frame(len(rows), columns), Columns(kinds=known))
    return Reference(
        id=UUID(int=1),
        model="churn",
        version="1.0.0",
        number=1,
        row_count=found.row_count,
        features=found.features,
        accuracy=None,
        judged_count=0,
        duplicate_share=found.duplicate_share,
        create_time=NOON,
        created_by="ada",
        note="",
    )


def payload(row: Row) -> bytes:
    message = Payload()
    for name, value in row.items():
        sent = Value(null_value=NULL_VALUE) if value is None else to_value(name, value)
        message.fields.fields[name].CopyFrom(sent)
    return message.SerializeToString()


def events(
    rows: Sequence[Row], *, every: timedelta = timedelta(seconds=1), user: Callable[[int], str]
) -> list[LiveRow]:
    return [
        LiveRow(UUID(uuid7(NOON + number * every)), user(number), "", 1, payload(row), None, None)
        for number, row in enumerate(rows)
    ]


def window_of(reference: Reference, rows: Sequence[Row], **options: Any) -> LiveWindow:
    """Count rows as the service does: an event a row, in buckets of 5 minutes."""
    sent = events(rows, user=options.pop("user", lambda _: ""), **options)
    every = options.get("every", timedelta(seconds=1))
    buckets: dict[datetime, list[LiveRow]] = {}
    for number, event in enumerate(sent):
        buckets.setdefault(NOON + (number * every) // BUCKET * BUCKET, []).append(event)
    end = max(buckets, default=NOON) + BUCKET
    return sum_up(reference, NOON, end, [(start, counted(reference, each)) for start, each in buckets.items()])


def counted(reference: Reference, sent: Sequence[LiveRow]) -> BucketCounts:
    counter = BucketCounter(reference)
    counter.add(sent)
    return counter.result()


@pytest.fixture(scope="module")
def reference() -> Reference:
    return reference_of(good_rows(3_000))


def look(reference: Reference, rows: Sequence[Row], **options: Any) -> QualityReport:
    return examine(reference, window_of(reference, rows, **options), USUAL)


def violations(report: QualityReport) -> dict[tuple[QualityIssue, str], QualityFinding]:
    return {(finding.issue, finding.feature): finding for finding in report.findings if finding.violated}


def changed(rows: Sequence[Row], share: float, **values: Any) -> list[dict[str, Any]]:
    """Change some features in a share of the rows, evenly spread; `...` leaves one out."""
    found = []
    for number, row in enumerate(rows):
        hit = int((number + 1) * share) > int(number * share)
        merged = {**row, **values} if hit else dict(row)
        found.append({name: value for name, value in merged.items() if value is not ...})
    return found


def test_data_as_in_the_reference_is_well(reference: Reference) -> None:
    report = look(reference, good_rows(1_000, seed=2))
    assert report.status is QualityStatus.OK
    assert report.summary == "nothing is worse than the reference allows for, in 1,000 rows of 4 features"
    assert report.violation_count == 0


@pytest.mark.parametrize("count", [0, 49])
def test_too_few_rows_are_never_ok(reference: Reference, count: int) -> None:
    report = look(reference, changed(good_rows(count), 1.0, age=None))
    assert report.status is QualityStatus.INSUFFICIENT_DATA
    assert not report.findings


BAD: dict[str, tuple[dict[str, Any], float, tuple[QualityIssue, str], str]] = {
    "missing": ({"age": None}, 0.05, (QualityIssue.MISSING, "age"), "age is missing in 5 % of 1,000 rows"),
    "left out": ({"age": ...}, 0.05, (QualityIssue.MISSING, "age"), "age is missing in 5 % of 1,000 rows"),
    "text": ({"age": "forty"}, 0.05, (QualityIssue.TYPE, "age"), "age is not a number in 5 % of 1,000 rows"),
    "list": ({"age": [1, [2]]}, 0.05, (QualityIssue.TYPE, "age"), "age is not a number in 5 % of 1,000 rows"),
    "object": ({"plan": {"a": 1}}, 0.05, (QualityIssue.TYPE, "plan"), "plan is not a category in 5 % of 1,000 rows"),
    "infinite": ({"age": math.inf}, 0.05, (QualityIssue.NOT_FINITE, "age"), "age is infinite in 5 % of 1,000 rows"),
    "nan": ({"age": math.nan}, 0.05, (QualityIssue.MISSING, "age"), "age is missing in 5 % of 1,000 rows"),
    "range": ({"age": -1.0}, 0.05, (QualityIssue.RANGE, "age"), "and went from -1 to "),
    "outlier": ({"age": 1e6}, 0.05, (QualityIssue.OUTLIER, "age"), "robust σ"),
    "category": ({"plan": "trial"}, 0.05, (QualityIssue.UNKNOWN_CATEGORY, "plan"), "plan has categories that the"),
    "unknown": ({"colour": "red"}, 0.05, (QualityIssue.SCHEMA, "colour"), "the reference does not know it"),
    "gone": ({"age": ...}, 1.0, (QualityIssue.SCHEMA, "age"), "age never came in 1,000 rows"),
    "constant number": ({"age": 40.0}, 1.0, (QualityIssue.CONSTANT, "age"), "age is 40 in all 1,000 rows"),
    "constant category": ({"plan": "firm"}, 1.0, (QualityIssue.CONSTANT, "plan"), "plan is firm in all 1,000 rows"),
    "constant boolean": ({"member": True}, 1.0, (QualityIssue.CONSTANT, "member"), "member is true in all 1,000"),
    "constant length": ({"note": "abc"}, 1.0, (QualityIssue.CONSTANT, "note"), "note is 3 characters long"),
}


@pytest.mark.parametrize("name", BAD)
def test_each_kind_of_bad_data_is_found(reference: Reference, name: str) -> None:
    values, share, key, sentence = BAD[name]
    report = look(reference, changed(good_rows(1_000, seed=3), share, **values))
    assert report.status is QualityStatus.VIOLATED
    found = violations(report)
    assert key in found
    assert sentence in found[key].summary
    assert found[key].value == share
    assert found[key].value > found[key].threshold >= found[key].reference_value
    assert found[key].count == 1_000 * share
    assert {feature for _, feature in found} <= {key[1], ""}, "the others are well"
    assert report.violation_count == len(found)


def test_what_the_reference_has_itself_is_let_pass() -> None:
    """A feature that is missing in a tenth, and texts among the numbers, are no news where they always were."""
    odd = [changed(good_rows(3_000, seed=seed), 0.1, age=None, member="yes") for seed in (4, 5)]
    report = look(reference_of(odd[0]), odd[1][:1_000])
    assert report.status is QualityStatus.OK
    (missing,) = [one for one in report.findings if one.issue is QualityIssue.MISSING]
    assert missing.reference_value == pytest.approx(0.1)
    assert missing.threshold > 0.11
    assert "in the reference it is 10 %" in missing.summary


def test_more_than_the_reference_has_is_found() -> None:
    report = look(
        reference_of(changed(good_rows(3_000, seed=4), 0.01, age=None)),
        changed(good_rows(2_000, seed=5), 0.05, age=None),
    )
    assert violations(report).keys() == {(QualityIssue.MISSING, "age")}


def test_a_small_reference_proves_little() -> None:
    """60 clean rows are no proof that nothing is ever missing; 3,000 are."""
    rows = changed(good_rows(100, seed=6), 0.1, age=None)
    assert look(reference_of(good_rows(60)), rows).status is QualityStatus.OK
    assert look(reference_of(good_rows(3_000)), rows).status is QualityStatus.VIOLATED


def test_rows_of_few_users_say_less_than_as_many_rows(reference: Reference) -> None:
    """Two users of twenty, whose client never sends the age, are no more than two mishaps."""

    def user(number: int) -> str:
        return f"user-{number // 20}"

    rows = [dict(row, age=None) if number // 20 in (3, 7) else row for number, row in enumerate(good_rows(800, seed=7))]
    of_users = look(reference, rows, user=user)
    by_chance = look(reference, changed(good_rows(800, seed=7), 0.05, age=None), user=user)
    assert violations(of_users).keys() == set()
    assert violations(by_chance).keys() == {(QualityIssue.MISSING, "age")}


def test_a_feature_that_stops_is_stale(reference: Reference) -> None:
    rows = [row if n < 500 else {**row, "plan": None} for n, row in enumerate(good_rows(1_000, seed=8))]
    report = look(reference, rows, every=timedelta(seconds=20))
    finding = violations(report)[QualityIssue.STALE, "plan"]
    assert finding.value == pytest.approx(500 * 20)
    assert finding.threshold == 3600
    assert finding.summary.startswith("plan came in none of the last 500 rows: its last value is 166m older")
    within = examine(
        reference,
        window_of(reference, rows, every=timedelta(seconds=20)),
        replace(USUAL, stale_after=timedelta(hours=3)),
    )
    assert (QualityIssue.STALE, "plan") not in violations(within)


@pytest.mark.slow
def test_a_feature_that_stops_within_the_last_step_of_a_month_is_stale(reference: Reference) -> None:
    rows = [row if n < 2_993 else {**row, "plan": None} for n, row in enumerate(good_rows(3_000, seed=8))]
    report = look(reference, rows, every=timedelta(minutes=14.4))
    assert violations(report).keys() == {(QualityIssue.STALE, "plan")}


def test_a_rare_feature_is_not_stale() -> None:
    rows = [{**row, "age": row["age"] if n % 100 == 0 else None} for n, row in enumerate(good_rows(3_000))]
    live = [{**row, "age": row["age"] if n == 0 else None} for n, row in enumerate(good_rows(100, seed=9))]
    for sent in (live, [{**row, "age": None} for row in live]):
        report = look(reference_of(rows), sent, every=timedelta(minutes=2))
        assert report.status is QualityStatus.OK
        assert {one.issue for one in report.findings} == {QualityIssue.MISSING}, "no rule is to wake anybody for it"


@pytest.mark.parametrize("value", [None, ..., math.nan], ids=["null", "left out", "NaN"])
def test_a_feature_that_has_been_gone_for_the_whole_window_stays_stale(reference: Reference, value: object) -> None:
    """An alert on stale_s that fired when it stopped is not told a day later that it is 0 s old."""
    rows = changed(good_rows(300, seed=8), 1.0, age=value)
    report = look(reference, rows, every=timedelta(minutes=2))
    finding = violations(report)[QualityIssue.STALE, "age"]
    assert (finding.value, finding.threshold) == (10 * 3600, 3600)
    assert finding.summary == "age came in none of 300 rows: its last value is 10h old or older, and 1h is let pass"
    short = look(reference, rows, every=timedelta(seconds=10))
    assert (QualityIssue.STALE, "age") not in violations(short), "of less than stale_after it cannot be told"


def test_repeats_are_found_where_the_reference_has_none(reference: Reference) -> None:
    rows = [row for row in good_rows(500, seed=10) for _ in range(2)]
    finding = violations(look(reference, rows))[QualityIssue.DUPLICATE, ""]
    assert finding.value == 0.5
    assert "50 % of 1,000 rows repeat another one of the same 5m" in finding.summary


def test_repeats_that_larger_buckets_bring_by_chance_are_let_pass() -> None:
    """Of rows that can be 400 kinds, 100 hardly repeat and 1,000 must."""
    rng = np.random.default_rng(11)

    def rows(count: int) -> list[Row]:
        return [{"a": float(a) + 0.5, "b": float(b) + 0.5} for a, b in rng.integers(0, 20, (count, 2))]

    report = look(reference_of(rows(100)), rows(1_000), every=timedelta(milliseconds=100))
    (repeats,) = [one for one in report.findings if one.issue is QualityIssue.DUPLICATE]
    assert repeats.value > 0.5 > repeats.reference_value
    assert not repeats.violated


def test_how_alike_the_references_rows_are_blinds_no_check_of_live_ones(reference: Reference) -> None:
    alike = {
        name: replace(each, overdispersion=25.0, counts=tuple(100 * count for count in each.counts))
        for name, each in reference.features.items()
    }
    large = replace(reference, features=alike, row_count=300_000)
    rows = [{**row, "age": 1_000.0 + n} if n % 20 == 0 else row for n, row in enumerate(good_rows(2_000, seed=13))]
    found = violations(look(large, rows))
    assert (QualityIssue.OUTLIER, "age") in found


def test_one_value_that_nearly_all_have_is_no_constant() -> None:
    rows = [{**row, "plan": "free" if n % 500 else "team"} for n, row in enumerate(good_rows(3_000))]
    report = look(reference_of(rows), [{**row, "plan": "free"} for row in good_rows(300, seed=12)])
    assert report.status is QualityStatus.OK


def test_unknown_features_are_named_up_to_a_bound(reference: Reference) -> None:
    rows = [{**row, **{f"extra-{k}": 1.0 for k in range(120)}} for row in good_rows(100, seed=13)]
    found = violations(look(reference, rows))
    assert sum(issue is QualityIssue.SCHEMA for issue, _ in found) == 100


def test_a_name_from_outside_is_shown_plain_and_short(reference: Reference) -> None:
    rows = [{**row, "a\0b\n" + "c" * 100: 1.0} for row in good_rows(100, seed=14)]
    report = look(reference, rows)
    assert "b\\nccc" in report.summary
    assert "…" in report.summary
    assert report.summary.isprintable()


def test_violations_come_first_and_the_first_is_the_summary(reference: Reference) -> None:
    rows = changed(changed(good_rows(1_000, seed=15), 0.2, plan="trial"), 0.5, age="forty")
    report = look(reference, rows)
    assert [(one.issue, one.violated) for one in report.findings[:2]] == [
        (QualityIssue.TYPE, True),
        (QualityIssue.UNKNOWN_CATEGORY, True),
    ]
    assert report.violation_count > 1
    assert report.summary == f"{report.findings[0].summary}. And {report.violation_count - 1} more"


def look_alone(rows: Sequence[Row], **options: Any) -> QualityReport:
    return examine_rows(events(rows, user=lambda _: "", **options), USUAL)


def test_without_a_reference_what_needs_none_is_found() -> None:
    rows = changed(good_rows(500, seed=16), 0.1, age=math.inf, member="yes", note=math.nan)
    report = look_alone(rows)
    assert violations(report).keys() == {(QualityIssue.NOT_FINITE, "age"), (QualityIssue.TYPE, "member")}
    assert "there is no reference" in report.findings[0].summary
    (missing,) = [one for one in report.findings if one.issue is QualityIssue.MISSING]
    assert (missing.feature, missing.value, missing.violated) == ("note", 0.1, False)


def test_without_a_reference_a_vector_that_lacks_a_value_is_missing_and_not_infinite() -> None:
    rows: list[Row] = [{"v": [1.0, math.nan if n % 4 == 0 else math.inf if n % 4 == 1 else 2.0]} for n in range(400)]
    found = {one.issue: one.count for one in look_alone(rows).findings if one.count}
    assert found == {QualityIssue.MISSING: 100, QualityIssue.NOT_FINITE: 100}


def test_without_a_reference_good_rows_are_well_as_far_as_can_be_told() -> None:
    report = look_alone(good_rows(500, seed=17))
    assert report.status is QualityStatus.OK
    assert report.summary.endswith("a profile makes the rest tellable")
    assert look_alone(good_rows(10)).status is QualityStatus.INSUFFICIENT_DATA


def test_without_a_reference_a_feature_that_stops_is_stale() -> None:
    rows = [row if n < 300 else {**row, "plan": None} for n, row in enumerate(good_rows(600, seed=18))]
    report = look_alone(rows, every=timedelta(seconds=20))
    assert violations(report).keys() == {(QualityIssue.STALE, "plan")}
