"""The one small protocol behind which every task stands, and the arithmetic that several share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidArgument
from services.inference.runtimes.transformers.batches import Batch
from services.inference.runtimes.transformers.tokenizing import Sequences
from services.inference.tensors import Tensor

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks to be read: texts or pairs. `labels` are those of each row, where a row makes several."""

    sequences: Sequences
    labels: Sequence[Sequence[str]] = ()


class Head(Protocol):
    """Reads one task's texts off a request, and its answer off the graph's numbers."""

    output: str
    """The graph's output that it reads."""
    rank: int
    """The rank of that output."""
    needs_offsets: bool
    """Whether it must know where each token stands in its text."""

    def ask(self, inputs: Mapping[str, Tensor]) -> Asked:
        """Read the inputs; raises InvalidArgument that names the row."""
        ...

    def blank(self) -> Tensor:
        """What `read` gives for no text at all."""
        ...

    def read(self, values: Tensor, batch: Batch, asked: Asked) -> Tensor:
        """Turn the graph's output for a batch into rows, in the batch's order."""
        ...

    def answer(self, rows: Tensor, asked: Asked) -> dict[str, Tensor]:
        """Give the served outputs, a row for each row of the request."""
        ...


def softmax(logits: Tensor) -> Floats:
    """Exponentials that add up to 1 along the last dimension."""
    shares = np.exp(np.asarray(logits, np.float32) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True), np.float32)


def sigmoid(logits: Tensor) -> Floats:
    """1 / (1 + e^-x), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * np.asarray(logits, np.float32))), np.float32)


def objects(values: Sequence[bytes]) -> Tensor:
    """Make a BYTES tensor [rows]."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def check_rows(inputs: Mapping[str, Tensor], one: str, other: str) -> None:
    """Refuse two inputs of unlike length."""
    if len(inputs[one]) != len(inputs[other]):
        sentence = f"{len(inputs[other])} rows came, and {len(inputs[one])} of {one!r}; send one for each"
        raise InvalidArgument.field(other, sentence, reason="RAGGED_INPUT")
