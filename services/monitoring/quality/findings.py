"""What is wrong with a window of live data, by what its reference allows for.

Each question is whether a share of the live rows is larger than the reference's own share, what is tolerated, and
chance together: see `bounds`. Some faults are shares in disguise: a feature that never came is missing in all rows, one
that has stopped is missing in all since its last value, and a constant one has all its values in one bin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from services.monitoring.configuration.models import QualityConfiguration
from services.monitoring.profiles.models import LiveWindow, Reference
from services.monitoring.quality import sentences
from services.monitoring.quality.bounds import LEVEL, Numbers, Questions, largest_shares
from services.monitoring.quality.features import FeatureLook, Suspicion
from services.monitoring.quality.models import QualityFinding, QualityIssue, QualityReport, QualityStatus

MAX_UNKNOWN_FEATURES = 100
"""Features that the reference does not know are named up to here, the most frequent first."""
MAX_FINDINGS = 1_000
"""Findings that are kept of a check, the worst first."""
Compared = Callable[[float, float], str]
"""Says what a share is compared with: that of the reference, and what is let pass."""


def examine(
    reference: Reference, window: LiveWindow, configuration: QualityConfiguration, level: float = LEVEL
) -> QualityReport:
    """Say what is wrong with a window, wrongly in `level` of all cases; INSUFFICIENT_DATA below the least rows."""
    rows = window.row_count
    if rows < max(configuration.min_rows, 1):
        return insufficient(rows, configuration.min_rows)
    suspicions = list(_suspicions(reference, window, configuration))
    return report(rows, judge(suspicions, level=level), sentences.well(rows, len(reference.features)))


def insufficient(rows: int, wanted: int) -> QualityReport:
    """Say that nothing can be said."""
    return QualityReport(QualityStatus.INSUFFICIENT_DATA, rows, 0, (), sentences.too_few(rows, wanted))


def report(rows: int, findings: Sequence[QualityFinding], well: str) -> QualityReport:
    """Put findings in order, and say what they come to; `well` is said where nothing is wrong."""
    worth_telling = [finding for finding in findings if finding.violated or finding.value > 0]
    ordered = sorted(worth_telling, key=lambda one: (not one.violated, -_size(one), one.feature, one.issue.value))
    violations = [finding for finding in ordered if finding.violated]
    status = QualityStatus.VIOLATED if violations else QualityStatus.OK
    summary = sentences.violated(violations) if violations else well
    return QualityReport(status, rows, len(violations), ordered[:MAX_FINDINGS], summary)


def _size(finding: QualityFinding) -> float:
    """Give what to order by: a share, and for what counts in seconds how far it is beyond what is let pass."""
    if finding.issue is QualityIssue.STALE:
        return min(finding.value / max(finding.threshold, 1.0) - 1, 1.0)
    return finding.value


def judge(
    suspicions: Sequence[Suspicion], compared: Compared = sentences.compared, *, level: float = LEVEL
) -> list[QualityFinding]:
    """Answer the questions of one check together; `compared` says what shares are compared with."""
    allowed = largest_shares(
        Questions(
            rows=_numbers(each.rows / each.design for each in suspicions),
            reference_share=_numbers(each.reference_share for each in suspicions),
            reference_rows=_numbers(each.reference_rows for each in suspicions),
            tolerance=_numbers(each.tolerance for each in suspicions),
            growth=_numbers(each.growth for each in suspicions),
        ),
        level=level,
    )
    return [_finding(one, float(limit), compared) for one, limit in zip(suspicions, allowed, strict=True)]


def _numbers(values: Iterable[float]) -> Numbers:
    return np.fromiter(values, np.float64)


def _finding(one: Suspicion, allowed: float, compared: Compared) -> QualityFinding:
    violated = one.share > allowed
    if one.shown_value is not None and one.shown_limit is not None:
        violated = violated and one.shown_value > one.shown_limit
        # What chance explains is no value that a rule should compare: a rare feature is always some hours old.
        value, threshold, summary = one.shown_value * violated, one.shown_limit, one.sentence
    else:
        value, threshold = one.share, allowed
        summary = f"{one.sentence}; {compared(one.reference_share, allowed)}"
    return QualityFinding(
        issue=one.issue,
        feature=one.feature,
        value=value,
        reference_value=one.reference_share,
        threshold=threshold,
        violated=violated,
        count=one.count,
        summary=summary,
    )


def _suspicions(reference: Reference, window: LiveWindow, configuration: QualityConfiguration) -> Iterator[Suspicion]:
    newest = max((live.last_time for live in window.features.values() if live.last_time), default=None)
    designs = [1.0]
    for name, known in reference.features.items():
        look = FeatureLook(known, window.features[name], reference, window, configuration.tolerance)
        designs.append(look.design)
        yield from look.questions(newest, configuration.stale_after)
    yield from _unknown_features(reference, window, configuration.tolerance)
    yield _duplicates(reference, window, configuration.tolerance, max(designs))


def _unknown_features(reference: Reference, window: LiveWindow, tolerance: float) -> Iterator[Suspicion]:
    """Ask about features that the reference does not know: it has them in none of its rows."""
    rows = window.row_count
    by_count = sorted(window.unknown_features.items(), key=lambda item: (-item[1], item[0]))
    for name, count in by_count[:MAX_UNKNOWN_FEATURES]:
        # A name that came again within a row counts again.
        seen = min(count, rows)
        sentence = sentences.unknown_feature(name, seen / rows, rows)
        yield Suspicion(QualityIssue.SCHEMA, name, seen, rows, 0.0, reference.row_count, sentence, tolerance=tolerance)


def _duplicates(reference: Reference, window: LiveWindow, tolerance: float, design: float) -> Suspicion:
    """Ask about repeated rows. They are counted within a bucket, so its rows are what the reference's compare with."""
    rows = window.row_count
    count = min(window.duplicate_count, rows)
    return Suspicion(
        QualityIssue.DUPLICATE,
        "",
        count,
        rows,
        reference.duplicate_share,
        reference.row_count / max([1.0, *(known.overdispersion for known in reference.features.values())]),
        sentences.duplicate(count / rows, rows),
        tolerance=tolerance,
        design=design,
        growth=max(1.0, window.largest_bucket / max(reference.row_count, 1)),
    )
