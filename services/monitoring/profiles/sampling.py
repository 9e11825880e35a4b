"""As many rows as there is room for: all, or a uniform sample of them."""

from __future__ import annotations

import numpy as np

from services.common.errors import InvalidArgument
from services.monitoring.profiles.frames import Frame, joined

MAX_ROWS = 1_000_000
MAX_BYTES = 128 * 1024 * 1024
_PLACE_BYTES = 9
"""A tag and a number."""
_SMALL_ROWS = 4_096
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
        self._row_count = 0
        self._frames_bytes = 0
        self._names: set[str] = set()

    def add(self, frame: Frame) -> None:
        """Add rows.

        Raises:
            InvalidArgument: a single row of them has no room (TOO_LARGE).
        """
        if self._share < 1:
            frame = frame.take(self._random.random(frame.row_count) < self._share)
        if not frame.row_count:
            return
        self._names.update(frame.columns)
        self._put(frame)
        while self._row_count > self._max_rows or self._size_bytes > self._max_bytes:
            if self._row_count <= 1:
                raise InvalidArgument("a row is larger than all rows may be together", reason="TOO_LARGE")
            self._share /= 2
            frames, self._frames, self._row_count, self._frames_bytes = self._frames, [], 0, 0
            for one in frames:
                self._put(one.take(self._random.random(one.row_count) < 0.5))

    def frame(self) -> Frame:
        """Give the rows, in the order in which they came."""
        return joined(self._frames) if self._frames else Frame(0, {})

    def _put(self, frame: Frame) -> None:
        """Keep a frame. Small ones are put together, each row few times: a frame takes more than its rows do."""
        while self._frames and frame.row_count < _SMALL_ROWS and self._frames[-1].row_count <= frame.row_count:
            last = self._frames.pop()
            self._row_count -= last.row_count
            self._frames_bytes -= last.size_bytes
            frame = joined([last, frame])
        if frame.row_count:
            self._frames.append(frame)
            self._row_count += frame.row_count
            self._frames_bytes += frame.size_bytes

    @property
    def _size_bytes(self) -> int:
        """What the rows take, or will once every column has a place for each."""
        return max(self._frames_bytes, self._row_count * len(self._names) * _PLACE_BYTES)
