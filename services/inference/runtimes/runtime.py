"""The one small protocol behind which every runtime stands."""

from __future__ import annotations

import enum
from collections.abc import Generator, Mapping, Sequence
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
        """End the runs that have been going for so long; they raise ModelFailed(RUN_TERMINATED).

        Returns how many runs of that age are still going: those told just now, those that were told before and do not
        heed it, and those that nothing can end. A number that does not fall is how a watchdog knows that they hang. A
        stream is such a run only while it waits for its model, and has the age by which its own limit of time is over:
        one whose reader is slow is not.
        """
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class Run(Protocol):
    """A run that has yet to begin: call it, once, for what `Session.run` gives."""

    def __call__(self) -> dict[str, Tensor]:
        """Run."""
        ...

    def cancel(self) -> None:
        """End it, now or before it begins, from any thread: it raises Cancelled."""
        ...


class CancellableSession(Session, Protocol):
    """A session that takes so long, or costs so much, that it pays to end a run for which nobody waits any more."""

    def prepare(self, inputs: Mapping[str, Tensor]) -> Run:
        """Make ready to run; raises what `run` does of bad inputs."""
        ...


class Runtime(Protocol):
    """Opens one framework's artifacts. How it does so, threads for example, was settled when it was built."""

    def load(self, artifact: Artifact) -> Session:
        """Open the model; raises FailedPrecondition(MODEL_LOAD_FAILED) with what the runtime said."""
        ...


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How to generate; None is the model's own default. See GenerateOptions in inference.proto."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


class FinishReason(enum.Enum):
    """Why a generation ended."""

    UNSPECIFIED = "unspecified"
    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a generation ended; the tokens are 0 where nobody counted them."""

    finish_reason: FinishReason
    prompt_token_count: int = 0
    output_token_count: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the text. The last one alone has an `ending`."""

    text: str
    ending: Ending | None = None


class Generation(Protocol):
    """A text that is being written. Nothing is asked of the model before the first piece is; read it once."""

    def __iter__(self) -> Generator[Piece, None, None]:
        """Give the pieces as they come; raises what `Session.run` does. Closing it half-way ends it."""
        ...

    def cancel(self) -> None:
        """End it at once, from any thread: whoever waits for the next piece hears Cancelled."""
        ...


class GeneratingSession(Session, Protocol):
    """A session whose answers can be read while they are written."""

    def stream(self, inputs: Mapping[str, Tensor], options: GenerationOptions) -> Generation:
        """Generate from one row, within the runtime's own limits of time."""
        ...
