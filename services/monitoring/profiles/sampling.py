"""As many rows as there is room for: all, or a uniform sample of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from services.common.errors import InvalidArgument
from services.monitoring.profiles.frames import Frame, joined

MAX_ROWS = 1_000_000
MAX_BYTES = 128 * 1024 * 1024
_PLACE_BYTES = 9
"""A tag and a number."""
_SEED = 1_597
"""The same file makes the same profile."""


class RowSample:
    """Rows that come in frames; whenever they are too many, each is kept with a chance of one half."""

    def __init__(self, *, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._random = np.random.default_rng(_SEED)
        self._share = 1.0
        self._frames: list[Frame] = []
        self._names: set[str] = set()

    def add(self, frame: Frame) -> None:
        """Add rows.

        Raises:
            InvalidArgument: a single row of them has no room (TOO_LARGE).
        """
        if self._share < 1:
            frame = frame.take(self._random.random(frame.row_count) < self._share)
        self._frames.append(frame)
        self._names.update(frame.columns)
        while self._row_count > self._max_rows or self._size_bytes > self._max_bytes:
            if self._row_count <= 1:
                raise InvalidArgument("a row is larger than all rows may be together", reason="TOO_LARGE")
            self._share /= 2
            halved = [one.take(self._random.random(one.row_count) < 0.5) for one in self._frames]
            self._frames = [one for one in halved if one.row_count]

    def frame(self) -> Frame:
        """Give the rows, in the order in which they came."""
        return joined(self._frames)

    @property
    def _row_count(self) -> int:
        return sum(frame.row_count for frame in self._frames)

    @property
    def _size_bytes(self) -> int:
        """What the rows take, or will once every column has a place for each."""
        return max(sum(self._sizes()), self._row_count * len(self._names) * _PLACE_BYTES)

    def _sizes(self) -> Iterator[int]:
        return (frame.size_bytes for frame in self._frames)
