"""What every source can do: look at what a reference names, and give the bytes of a file from some byte on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final, Protocol

from services.common.errors import DomainError
from services.fetcher.faults import UnsupportedFramework
from services.fetcher.models import Plan, Reference, RemoteFile
from services.fetcher.sources.kept import KeptConnections

MAX_FILES: Final = 1_000
"""As many as the registry takes for a version."""
ARCHIVES: Final = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True, slots=True)
class Variant:
    """One of several forms of a model, of which one is fetched.

    Attributes:
        name: such as quantized.
        files: what is fetched with it, what all variants share among them.
        precision: of the weights, such as fp16; '' where nothing says so.
    """

    name: str
    files: tuple[RemoteFile, ...]
    precision: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What a reference names.

    Attributes:
        plan: what a fetch would bring.
        suggested_model: what the model may be called where nobody says.
        warnings: sentences on what was left out, and on a licence with conditions.
        variants: the default first; none where the source has none: then the plan is all there is.
        licence: its identifier, as the source has it; '' where it says none.
        has_default: whether the first variant is fetched where none is named; else one has to be.
        refusal: what keeps anything of it from being fetched as it was asked for; the plan is the first variant's then.
        unserved: why nobody could serve it, as far as the source tells; '' where it tells no such thing.
    """

    plan: Plan
    suggested_model: str
    warnings: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()
    licence: str = ""
    has_default: bool = True
    refusal: DomainError | None = None
    unserved: str = ""

    def check(self, *, framework_named: bool) -> None:
        """See that it can be fetched; a look is given what cannot, too.

        `framework_named`: whether whoever asks says by which framework it is served, whatever the source tells.

        Raises:
            InvalidArgument: a variant has to be named (UNKNOWN_VARIANT).
            UnsupportedFramework: nobody could serve it.
        """
        if self.refusal is not None:
            raise self.refusal
        if self.unserved and not framework_named:
            raise UnsupportedFramework(self.unserved)


class Flow(Protocol):
    """The bytes of a file, on their way."""

    @property
    def offset(self) -> int:
        """Where they begin; 0 where the source gives no part of a file."""
        ...

    @property
    def size_bytes(self) -> int | None:
        """The whole file's size; None where the source does not say."""
        ...

    def readinto(self, buffer: memoryview) -> int:
        """Read what is there into memory, waiting for some; gives how many bytes, 0 at the end.

        Raises:
            NetworkError: they end too early.
            SourceChanged: in the end, where they are no more those of the file.
        """
        ...

    def shut(self) -> None:
        """End it from another thread: whoever iterates finds an error at once."""
        ...


@dataclass(frozen=True, slots=True)
class Stopping:
    """How a call to a source is ended from outside: `check` raises, `on_stop` is told what to call then.

    `kept`: what calls of one attempt leave to each other; None: each is by itself.
    """

    check: Callable[[], None] = field(default=lambda: None)
    on_stop: Callable[[Callable[[], None]], None] = field(default=lambda _: None)
    forget: Callable[[Callable[[], None]], None] = field(default=lambda _: None)
    kept: KeptConnections | None = None


class Source(Protocol):
    """A place that models are fetched from. Safe to use from many threads.

    All methods but `check` ask the source, and raise what faults.py has: NetworkError, RateLimited, ModelNotFound,
    Unauthorized, Forbidden, FileTooLarge, UnsupportedFramework.
    """

    name: str
    reference_form: str
    """What a reference looks like, for people."""
    has_revisions: bool

    @property
    def disabled_reason(self) -> str:
        """Why nothing is fetched from it here, and what to do; '' where it is."""
        ...

    def check(self, reference: Reference) -> None:
        """See that a reference can be one, without asking anybody.

        Raises:
            InvalidArgument: it cannot (INVALID_REFERENCE).
            Forbidden: it leads where this service must not go (SECURITY).
        """
        ...

    def host(self, reference: Reference) -> str:
        """Name whom a fetch burdens: jobs of one host share a limit."""
        ...

    def find(self, reference: Reference, stopping: Stopping) -> Found:
        """Look at what a reference names."""
        ...

    def open(
        self, file: RemoteFile, offset: int, stopping: Stopping, *, end: int | None = None
    ) -> AbstractContextManager[Flow]:
        """Open a file of a plan from byte `offset` on, up to before `end`; None: all the rest.

        Raises:
            SourceChanged: it is another by now.
        """
        ...


def is_archive(name: str) -> bool:
    """Say whether a file's name is that of an archive."""
    return name.lower().endswith(ARCHIVES)


def model_name(text: str) -> str:
    """Make a model's name out of a file's or a repository's; '' where nothing of it can stand in one."""
    name = PurePosixPath(text).name.lower()
    for suffix in (*sorted(ARCHIVES, key=len, reverse=True), ".onnx", ".keras"):
        name = name.removesuffix(suffix)
    kept = "".join(letter if (letter.isascii() and letter.isalnum()) or letter in "._-" else "-" for letter in name)
    return kept.strip("-._")[:128]
