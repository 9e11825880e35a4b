"""An answer as it is kept, and whatever keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from services.inference.caching.counts import CacheCounts
from services.inference.tensors import Tensor

# What Python and numpy add to the bytes themselves, as measured: the entry with its key, an array, an element of BYTES.
ENTRY_BYTES = 700
TENSOR_BYTES = 200
ELEMENT_BYTES = 41


@dataclass(frozen=True, slots=True, eq=False)
class KeptAnswer:
    """The outputs of a request, in the order asked for, which nobody can write to any more."""

    outputs: Mapping[str, Tensor]
    row_count: int

    @classmethod
    def of(cls, outputs: Mapping[str, Tensor], row_count: int) -> KeptAnswer:
        """Copy outputs: an answer may be a view of a whole batch's, which would be kept with it."""
        return cls({name: _frozen(tensor) for name, tensor in outputs.items()}, row_count)


def size_bytes(outputs: Mapping[str, Tensor]) -> int:
    """Weigh outputs as they lie in memory, in bytes."""
    size = ENTRY_BYTES
    for tensor in outputs.values():
        size += TENSOR_BYTES + tensor.nbytes
        if tensor.dtype.hasobject:
            size += sum(map(len, tensor.flat)) + ELEMENT_BYTES * tensor.size
    return size


def _frozen(tensor: Tensor) -> Tensor:
    copy = np.array(tensor, copy=True)
    copy.flags.writeable = False
    return copy


@dataclass(frozen=True, slots=True)
class AnswerKey:
    """Which answer: a digest of the version and of all that was asked. `counts` are its version's."""

    model: str
    digest: bytes
    counts: CacheCounts


@dataclass(frozen=True, slots=True)
class Found:
    """What a look brought. `ticket` is handed back when the answer is to be kept; None: it can't be."""

    answer: KeptAnswer | None
    ticket: bytes | None


@dataclass(frozen=True, slots=True)
class Held:
    """What is kept in this process's memory; zeros where it is kept elsewhere."""

    reachable: bool = True
    entry_count: int = 0
    size_bytes: int = 0
    max_bytes: int = 0


class AnswerStore(Protocol):
    """Keeps answers. Whatever goes wrong with it is a look in vain, and never an error."""

    backend: str
    shared: bool
    """Whether other processes meet the same answers."""

    def find(self, key: AnswerKey) -> Found:
        """Look for an answer."""
        ...

    def keep(self, key: AnswerKey, answer: KeptAnswer, ticket: bytes, ttl_ms: int) -> None:
        """Keep an answer for so long, unless its model's were purged since the look that gave the ticket."""
        ...

    def purge(self, model: str) -> int:
        """Forget a model's answers, "": all, and say how many; raises Unavailable(CACHE_UNREACHABLE)."""
        ...

    def held(self) -> Held:
        """Say what is kept."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...
