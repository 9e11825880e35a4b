"""What quality checks say to people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from penstock.durations import write_duration
from services.monitoring.profiles.bins import OUTLIER_Z
from services.monitoring.profiles.models import BUCKET, FeatureKind, Moments
from services.monitoring.quality.models import QualityFinding

MAX_NAME_CHARS = 64
_KINDS = {
    FeatureKind.NUMERIC: "a number",
    FeatureKind.CATEGORICAL: "a category",
    FeatureKind.BOOLEAN: "a boolean",
    FeatureKind.TEXT_LENGTH: "a text",
    FeatureKind.EMBEDDING: "a vector",
}


def shown(name: str) -> str:
    """Give a name that came from outside as a sentence can hold it."""
    plain = name if name.isprintable() else repr(name)[1:-1]
    return plain if len(plain) <= MAX_NAME_CHARS else f"{plain[:MAX_NAME_CHARS]}…"


def percent(share: float) -> str:
    """Write a share so that a small one is not taken for none."""
    if 0 < share < 0.0001:
        return "under 0.01 %"
    digits = 2 if share < 0.01 else 1
    return f"{100 * share:.{digits}f}".rstrip("0").rstrip(".") + " %" if share else "0 %"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _features(count: int) -> str:
    return "1 feature" if count == 1 else f"{count:,} features"


def compared(reference_share: float, threshold: float) -> str:
    """Say what a share is compared with."""
    return f"in the reference it is {percent(reference_share)}, and up to {percent(threshold)} is let pass"


def by_itself(_: float, threshold: float) -> str:
    """Say the same where there is no reference."""
    return f"there is no reference, and up to {percent(threshold)} is let pass"


def missing(name: str, share: float, rows: int) -> str:
    """Say that values are missing."""
    return f"{shown(name)} is missing in {percent(share)} of {_rows(rows)}"


def wrong_type(name: str, share: float, rows: int, kind: FeatureKind) -> str:
    """Say that values are of another type."""
    return f"{shown(name)} is not {_KINDS[kind]} in {percent(share)} of {_rows(rows)}"


def mixed_types(name: str, share: float, rows: int) -> str:
    """Say that values are of several types."""
    return f"{shown(name)} is of another type than mostly in {percent(share)} of {_rows(rows)}"


def missing_unjudged(name: str, share: float, rows: int) -> str:
    """Say that values are missing, where nobody knows whether that is much."""
    return f"{missing(name, share, rows)}; without a reference nobody can say whether that is much"


def not_finite(name: str, share: float, rows: int) -> str:
    """Say that values are infinite."""
    return f"{shown(name)} is infinite in {percent(share)} of {_rows(rows)}"


def out_of_range(name: str, share: float, rows: int, moments: Moments, least: float, greatest: float) -> str:
    """Say that values lie beyond the reference's."""
    known, seen = f"{moments.min:g} to {moments.max:g}", f"{least:g} to {greatest:g}"
    return f"{shown(name)} lies beyond {known} in {percent(share)} of {_rows(rows)}, and went from {seen}"


def outlier(name: str, share: float, rows: int, moments: Moments) -> str:
    """Say that values lie far out."""
    far = (
        f"more than {OUTLIER_Z:g} robust σ, of {moments.mad:g} each, from the reference's median of {moments.median:g}"
    )
    return f"{shown(name)} lies {far} in {percent(share)} of {_rows(rows)}"


def unknown_category(name: str, share: float, rows: int) -> str:
    """Say that there are new categories."""
    return f"{shown(name)} has categories that the reference does not know in {percent(share)} of {_rows(rows)}"


def duplicate(share: float, rows: int) -> str:
    """Say that rows are repeats."""
    return f"{percent(share)} of {_rows(rows)} repeat another one of the same {write_duration(BUCKET)}"


def never_came(name: str, rows: int, reference_missing: float) -> str:
    """Say that a feature never came."""
    return f"{shown(name)} never came in {_rows(rows)}; the reference has it in {percent(1 - reference_missing)} of its"


def unknown_feature(name: str, share: float, rows: int) -> str:
    """Say that the reference does not know a feature."""
    return f"{shown(name)} came in {percent(share)} of {_rows(rows)}, and the reference does not know it"


def constant(kind: FeatureKind, name: str, value: str, rows: int, reference_share: float) -> str:
    """Say that a feature has one value only."""
    what = f"{shown(value)} character{'s' * (value != '1')} long" if kind is FeatureKind.TEXT_LENGTH else shown(value)
    of_reference = f"in the reference at most {percent(reference_share)} of them are so"
    return f"{shown(name)} is {what} in all {_rows(rows)} that have it; {of_reference}"


def stale(name: str, age: timedelta, rows: int, limit: timedelta) -> str:
    """Say that a feature has stopped coming."""
    # Whole minutes: a duration is written as it is read, with all its digits.
    minutes = timedelta(minutes=age // timedelta(minutes=1))
    since = f"its last value is {write_duration(minutes)} older than the newest of others"
    return f"{shown(name)} came in none of the last {_rows(rows)}: {since}, and {write_duration(limit)} is let pass"


def gone(name: str, window: timedelta, rows: int, limit: timedelta) -> str:
    """Say that a feature had stopped coming before the window began."""
    since = f"its last value is {write_duration(window)} old or older"
    return f"{shown(name)} came in none of {_rows(rows)}: {since}, and {write_duration(limit)} is let pass"


def too_few(rows: int, wanted: int) -> str:
    """Say that nothing can be said."""
    if rows == 0:
        return "no rows with features came in the window; their capture may be switched off for this version"
    return f"only {_rows(rows)} with features came in the window; from {wanted:,} on it can be judged"


def well(rows: int, features: int) -> str:
    """Say that nothing is wrong."""
    return f"nothing is worse than the reference allows for, in {_rows(rows)} of {_features(features)}"


def well_by_itself(rows: int, features: int) -> str:
    """Say that nothing is wrong that needs no reference."""
    looked = f"nothing is wrong in {_rows(rows)} of {_features(features)} that can be told without a reference"
    return f"{looked}; a profile makes the rest tellable"


def violated(violations: Sequence[QualityFinding]) -> str:
    """Say what is wrong, the first of it in words."""
    first = violations[0].summary
    return first if len(violations) == 1 else f"{first}. And {len(violations) - 1:,} more"
