"""What a fetch is: frozen values, as its row has them."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self
from uuid import UUID


class Phase(enum.StrEnum):
    """What a job is at."""

    DOWNLOADING = "DOWNLOADING"
    PROCESSING = "PROCESSING"
    VALIDATING = "VALIDATING"
    """Its version is registered, and the job is put back until the registry's validator has judged it."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What is to be fetched: of which source, in its own terms; '' where nothing was said."""

    source: str
    reference: str
    revision: str = ""
    variant: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file at a source.

    Attributes:
        path: within the version, relative, with forward slashes.
        locator: where the source finds it: a URL, a path.
        tag: changes when any byte does, such as a strong ETag; '' where the source has none, or where nobody could tell
            the end of the file from a break, for its size is not known.
        size_bytes: None where the source does not say.
        sha256: lowercase hex; '' where the source does not say.
        ranges: whether the source is known to give any range of it.
    """

    path: str
    locator: str
    tag: str
    size_bytes: int | None = None
    sha256: str = ""
    ranges: bool = False


MAX_WARNINGS: Final = 50
MAX_WARNING_CHARS: Final = 500


def kept(warnings: Sequence[str]) -> tuple[str, ...]:
    """Bound sentences to what a row keeps: 50 of 500 characters; the last counts those that found no room."""
    room = MAX_WARNINGS if len(warnings) <= MAX_WARNINGS else MAX_WARNINGS - 1
    told = [each if len(each) <= MAX_WARNING_CHARS else f"{each[: MAX_WARNING_CHARS - 1]}…" for each in warnings[:room]]
    if len(warnings) > room:
        told.append(f"{len(warnings) - room:,} more warnings; a look at the source gives all (penstock fetch inspect)")
    return tuple(told)


def size_of(files: Iterable[RemoteFile]) -> int | None:
    """Add up files; None where a size is not known."""
    sizes = [file.size_bytes for file in files]
    return None if None in sizes else sum(size for size in sizes if size is not None)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job fetches, as the source said when the job began.

    Attributes:
        revision: that is fetched, such as a commit; '' where the source has none.
        files: all of them.
        unpack: the only file is an archive of them.
        framework: a name of the registry's Framework without its prefix, such as ONNX; '': by the files' names.
        metadata: what the source says of the model: the registry's Metadata as JSON.
        warnings: what the source said of it that whoever fetches should know; see `kept`.
        canonical: the one spelling of the reference, without a revision; '' where it is the one that was asked for.
    """

    revision: str
    files: tuple[RemoteFile, ...]
    unpack: bool = False
    framework: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    canonical: str = ""

    @property
    def size_bytes(self) -> int | None:
        """All files together; None where a size is not known."""
        return size_of(self.files)

    def columns(self) -> dict[str, Any]:
        """Give it as JSON."""
        return asdict(self)

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Self:
        """Read it from JSON."""
        files = tuple(RemoteFile(**file) for file in columns["files"])
        told = tuple(columns["warnings"])
        said = {name: columns[name] for name in ("revision", "unpack", "framework", "metadata", "canonical")}
        return cls(files=files, warnings=told, **said)


@dataclass(frozen=True, slots=True)
class StoredWebhook:
    """Who is told of a job's end, as the database has it.

    Attributes:
        shown_url: without its path, which may be secret.
        signed: whether what is posted is signed.
        target: the URL and the secret as JSON; encrypted, unless neither is secret and there is no key.
        sealed: whether it is encrypted.
    """

    shown_url: str
    signed: bool
    target: str = field(repr=False)
    sealed: bool = True


@dataclass(frozen=True, slots=True)
class FetchSpec:
    """A job's own columns. `target` is a serialised FetchTarget; `plan` is None until the source has answered.

    `model` and `version` are the target's, and what was chosen in their place once it was; `webhook` is told of the
    end, None: nobody is; `webhook_message_id` is the message that told of the latest.
    """

    reference: Reference
    target: bytes
    model: str = ""
    version: str = ""
    webhook: StoredWebhook | None = None
    schedule_id: UUID | None = None
    webhook_message_id: UUID | None = None
    phase: Phase = Phase.DOWNLOADING
    plan: Plan | None = None
    reused_bytes: int = 0
    done_files: int = 0
    bytes_per_second: int = 0

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> Self:
        """Read the columns of a job's row."""
        names = ("source", "reference", "revision", "variant", "sha256")
        return cls(
            reference=Reference(**{name: payload[name] for name in names}),
            target=bytes(payload["target"]),
            model=payload["model"],
            version=payload["version"],
            webhook=StoredWebhook(**payload["webhook"]) if payload["webhook"] else None,
            schedule_id=payload["schedule_id"],
            webhook_message_id=payload["webhook_message_id"],
            phase=Phase(payload["phase"]),
            plan=Plan.of(payload["plan"]) if payload["plan"] else None,
            reused_bytes=payload["reused_bytes"],
            done_files=payload["done_files"],
            bytes_per_second=payload["bytes_per_second"],
        )

    def columns(self) -> dict[str, Any]:
        """Give the columns of a new job's row."""
        target = {"target": self.target, "model": self.model, "version": self.version}
        webhook = json.dumps(asdict(self.webhook)) if self.webhook else None
        return {**asdict(self.reference), **target, "webhook": webhook, "schedule_id": self.schedule_id}


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of a download that are safe: a blob, by its address. Parts are numbered from 0, without gaps.

    `own`: the job that asks has brought it, in whichever attempt.
    """

    number: int
    address: str
    size_bytes: int
    own: bool = True


@dataclass(frozen=True, slots=True)
class Download:
    """A file that is here, whole: its parts in order, its digest and size."""

    download_id: UUID
    sha256: str
    size_bytes: int
    parts: Sequence[Part]

    @property
    def reused_bytes(self) -> int:
        """Bytes that the job which asked for it did not bring itself."""
        return sum(part.size_bytes for part in self.parts if not part.own)


@dataclass(frozen=True, slots=True)
class Leftover:
    """A version that a job may have registered before it ended without it, and where it came from."""

    job_id: UUID
    source: str
    reference: str
    model: str
    version: str


@dataclass(frozen=True, slots=True)
class FetchResult:
    """The version that a job made, or found made already. `warnings`: what the source said, and what was not done."""

    model: str
    version: str
    deployment_number: int
    existed: bool
    downloaded_bytes: int
    warnings: Sequence[str] = ()
