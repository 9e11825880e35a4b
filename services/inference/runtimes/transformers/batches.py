"""Texts of unlike length in batches that waste little: sorted by length, bounded in tokens, padded to the longest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.inference.models import Signature
from services.inference.runtimes.transformers.bundle import refused
from services.inference.tensors import DTYPES, Tensor

IDS: Final = "input_ids"
MASK: Final = "attention_mask"
KINDS: Final = "token_type_ids"
POSITIONS: Final = "position_ids"


@dataclass(frozen=True, slots=True)
class Batch:
    """Encodings that run together: `rows` are their places in the request, `lengths` their tokens [rows]."""

    rows: NDArray[np.int64]
    lengths: NDArray[np.int64]
    encodings: list[Any]
    feed: dict[str, Tensor]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Which places hold a token, and no padding: [rows, tokens]."""
        places = np.arange(self.feed[IDS].shape[1])
        return np.asarray(places < self.lengths[:, None])


class Batcher:
    """Makes a graph's inputs of encodings.

    `max_tokens` bounds a batch, padding included; a single text may be longer. A graph of one row, or whose rows are
    not independent, gets each text alone.
    """

    def __init__(self, graph: Signature, *, max_tokens: int, alone: bool) -> None:
        ids = next((spec for spec in graph.inputs if spec.name == IDS), None)
        unknown = [spec.name for spec in graph.inputs if spec.name not in (IDS, MASK, KINDS, POSITIONS)]
        if ids is None or unknown or any(len(spec.shape) != 2 for spec in graph.inputs):
            names = ", ".join(repr(spec.name) for spec in graph.inputs)
            raise refused(f"the graph takes {names}; a tokenizer gives {IDS}, {MASK}, {KINDS} and {POSITIONS}")
        if ids.shape[0] > 1:
            raise refused(
                f"the graph takes {ids.shape[0]} texts at once, no more and no fewer; export it with any size"
            )
        self.fixed_tokens = max(ids.shape[1], 0)
        self._dtypes = {spec.name: DTYPES[spec.datatype] for spec in graph.inputs}
        self.pad_id = 0
        self._max_tokens = max_tokens
        self._alone = alone or ids.shape[0] == 1

    def split(self, encodings: Sequence[Any], begin_row: int = 0) -> Iterator[Batch]:
        """Cut encodings into batches, the longest texts first; the first of them is the request's row `begin_row`."""
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        order = np.argsort(-lengths, kind="stable")
        begin = 0
        while begin < len(order):
            longest = self.fixed_tokens or max(int(lengths[order[begin]]), 1)
            count = 1 if self._alone else max(self._max_tokens // longest, 1)
            rows = order[begin : begin + count]
            begin += count
            chosen = [encodings[row] for row in rows.tolist()]
            yield self._batch(rows + begin_row, lengths[rows], chosen, longest)

    def _batch(self, rows: NDArray[np.int64], lengths: NDArray[np.int64], encodings: list[Any], longest: int) -> Batch:
        shape = (len(rows), longest)
        feed: dict[str, Tensor] = {}
        for name, dtype in self._dtypes.items():
            if name == IDS:
                feed[name] = _filled(encodings, lambda each: each.ids, np.full(shape, self.pad_id, dtype))
            elif name == KINDS:
                feed[name] = _filled(encodings, lambda each: each.type_ids, np.zeros(shape, dtype))
            elif name == MASK:
                feed[name] = (np.arange(longest) < lengths[:, None]).astype(dtype)
            else:
                feed[name] = np.broadcast_to(np.arange(longest, dtype=dtype), shape).copy()
        return Batch(rows, lengths, encodings, feed)


def _filled(encodings: list[Any], read: Callable[[Any], list[int]], values: Tensor) -> Tensor:
    for row, encoding in enumerate(encodings):
        values[row, : len(encoding)] = read(encoding)
    return values
