"""How requests leave their lane: counted, whatever became of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from services.inference.engine.requests import Ticket
from services.inference.engine.statistics import VersionStatistics
from services.inference.engine.terms import ModelShare

log = logging.getLogger(__name__)


def let_out(members: Sequence[Ticket], statistics: VersionStatistics, share: ModelShare) -> int:
    """Count those who ran together, or one that never ran; returns their rows. The caller holds the share's lock."""
    rows, now_ns = 0, time.monotonic_ns()
    for member in members:
        rows += member.rows
        statistics.in_flight -= 1
        if member.done is None:
            share.in_flight -= 1
    try:
        for member in members:
            answer = member.answer
            answer.timings.total_ns = total_ns = now_ns - member.began_ns
            if answer.error is None:
                statistics.count_success(answer.row_count, answer.timings)
            else:
                statistics.count_failure(answer.error, total_ns)
        if members[0].answer.error is None:
            statistics.count_run(rows, members[0].answer.timings)
    except Exception:
        # Where counts are kept may break, on a full disk say; nobody's answer may hang on that.
        log.exception("requests of %s could not be counted", statistics.version.key)
    return rows
