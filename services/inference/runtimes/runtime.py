"""The one small protocol behind which every runtime stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.inference.models import ResolvedVersion, Signature
from services.inference.tensors import Tensor


@dataclass(frozen=True, slots=True)
class Artifact:
    """A version's files, verified and in a folder of their own that stays until the session is closed."""

    version: ResolvedVersion
    folder: Path


class Session(Protocol):
    """A model in memory. Any number of threads may run it at once; nobody may once it is closed."""

    @property
    def signature(self) -> Signature:
        """What the model takes and gives, read from the files."""
        ...

    @property
    def size_bytes(self) -> int:
        """The least the model takes in memory, as far as the runtime knows; the cache measures the rest."""
        ...

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str] = ()) -> dict[str, Tensor]:
        """Answer with the named outputs, or all. BYTES tensors are arrays of `bytes` in, `bytes` or `str` out.

        Raises InvalidArgument where the runtime blames the input, ModelFailed for the rest.
        """
        ...

    def terminate(self, *, longer_than_s: float = 0.0) -> int:
        """End the runs that have been going for so long; they raise ModelFailed(RUN_TERMINATED). Says how many."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class Runtime(Protocol):
    """Opens one framework's artifacts. How it does so, threads for example, was settled when it was built."""

    def load(self, artifact: Artifact) -> Session:
        """Open the model; raises FailedPrecondition(MODEL_LOAD_FAILED) with what the runtime said."""
        ...
