"""How a version's rows are divided into parts: the same split gives the same parts on every machine."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class SplitBy(enum.StrEnum):
    """What decides where a row goes."""

    SEED = "SEED"
    """A hash of its place and the seed; evenly over the values of `stratify_column`, where one is named."""
    TIME = "TIME"
    """A time column: the earliest train, the latest test; rows of one time stay together."""
    KEY = "KEY"
    """A hash of a column's value and the seed: rows of one key stay together, in every version and dataset."""


@dataclass(frozen=True, slots=True)
class Split:
    """How rows are divided; what is left over is the test's.

    Attributes:
        by: what decides.
        train_share: of the rows, 0 to 1.
        validation_share: likewise; both together at most 1.
        seed: any 64-bit number.
        column: of TIME and KEY.
        stratify_column: of SEED; '': none.
    """

    by: SplitBy = SplitBy.SEED
    train_share: float = 0.7
    validation_share: float = 0.15
    seed: int = 0
    column: str = ""
    stratify_column: str = ""
