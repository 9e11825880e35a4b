"""What a version is uploaded from: paths, folders, bytes and open files, hashed beforehand where that can be."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.errors import InvalidArgument

CHUNK_BYTES = 1024 * 1024
Progress = Callable[[int, int | None], None]
"""Called with the bytes so far and the bytes in all, None where that is not known beforehand."""

_TOKENIZERS = {"tokenizer.json", "tokenizer_config.json", "vocab.txt"}
NO_FILES: Mapping[str, FileSource] = {}
"""The source of a version that is a reference."""


@dataclass(slots=True)
class UploadFile:
    """One file to upload, from where the open file stood.

    Attributes:
        path: its name within the version, relative, with forward slashes.
        source: where its bytes come from: a path, opened for each reading, or an open file.
        start: where they begin; None where they can be read only once.
        size_bytes: 0 where it is not known beforehand.
        sha256: lowercase hex; empty where it can't be read twice.
        upload_id: the upload by which its bytes went already; empty: they go with the version.
    """

    path: str
    source: Path | BinaryIO
    start: int | None = None
    size_bytes: int = 0
    sha256: str = ""
    upload_id: str = ""
    # Several may read one open file, a failed try and the next one for example: each read seeks first.
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, path: str, source: Path | BinaryIO) -> UploadFile:
        """Take a source; what can be read twice is read through once, for its digest: the server then checks it."""
        start = 0 if isinstance(source, Path) else source.tell() if source.seekable() else None
        file = cls(path, source, start=start)
        if file.start is not None:
            digest = sha256()
            for chunk in file.chunks():
                digest.update(chunk)
                file.size_bytes += len(chunk)
            file.sha256 = digest.hexdigest()
        return file

    def chunks(self, offset_bytes: int = 0, size_bytes: int | None = None) -> Iterator[bytes]:
        """Read the file, or so many bytes of it, in chunks of at most 1 MiB."""
        if isinstance(self.source, Path):
            with self.source.open("rb", buffering=0) as stream:
                yield from self._chunks(stream, offset_bytes, size_bytes)
        else:
            yield from self._chunks(self.source, offset_bytes, size_bytes)

    def _chunks(self, stream: BinaryIO, offset_bytes: int, size_bytes: int | None) -> Iterator[bytes]:
        position = None if self.start is None else self.start + offset_bytes
        left = size_bytes
        while left is None or left > 0:
            with self._lock:
                if position is not None:
                    stream.seek(position)
                chunk = stream.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
            if not chunk:
                return
            yield chunk
            position = None if position is None else position + len(chunk)
            left = None if left is None else left - len(chunk)


_Unread = str | PathLike[str] | bytes | bytearray | memoryview | BinaryIO
FileSource = _Unread | UploadFile
"""A path, bytes, an open file; or one whose digest is known already, which is not read through for it."""
Source = FileSource | Mapping[str, FileSource]


@dataclass(frozen=True, slots=True)
class Upload:
    """The files of a version; `unpack`: they are archives of them."""

    files: tuple[UploadFile, ...]
    unpack: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether it can be sent again."""
        return all(file.start is not None for file in self.files)

    @property
    def framework(self) -> pb.Framework.ValueType | None:
        """What the names of the files say; None where they say nothing."""
        return framework_of(file.path for file in self.files)

    def requests(self, header: pb.VersionHeader, progress: Progress | None) -> Iterator[pb.RegisterVersionRequest]:
        """Give the messages of the upload; progress is told once a chunk is on its way."""
        total_bytes = sum(file.size_bytes for file in self.files) if self.repeatable else None
        sent_bytes = sum(file.size_bytes for file in self.files if file.upload_id)
        yield pb.RegisterVersionRequest(header=header)
        for file in self.files:
            yield pb.RegisterVersionRequest(
                file=pb.FileHeader(
                    path=file.path,
                    sha256=file.sha256,
                    size_bytes=file.size_bytes,
                    unpack=self.unpack,
                    upload_id=file.upload_id,
                )
            )
            if file.upload_id:
                continue
            digest = None if file.sha256 else sha256()
            for chunk in file.chunks():
                yield pb.RegisterVersionRequest(chunk=chunk)
                if digest is not None:
                    digest.update(chunk)
                sent_bytes += len(chunk)
                if progress is not None:
                    progress(sent_bytes, total_bytes)
            if digest is not None:
                # Without it the server could not tell a stream that broke from one that is complete.
                yield pb.RegisterVersionRequest(end=pb.FileEnd(sha256=digest.hexdigest()))


@contextmanager
def opened(source: Source | None, *, unpack: bool = False) -> Iterator[Upload]:
    """Open a source: the path of a file or a folder, bytes, a binary file, or several of these by their names.

    A binary file is read from where it stands, and left open. `NO_FILES` alone may be empty.

    Raises:
        InvalidArgument: there is no file in it (NO_FILES).
        OSError: a file can't be read.
    """
    with ExitStack() as stack:
        named = source if isinstance(source, Mapping) else {} if source is None else _named(source)
        if not named and source is not NO_FILES:
            where = "there is no source" if source is None else f"there is no file in {source!r}"
            raise InvalidArgument(f"{where}; only a reference to Ollama has no files", reason="NO_FILES")
        files = (
            each if isinstance(each, UploadFile) else UploadFile.of(path, _readable(each, stack))
            for path, each in named.items()
        )
        yield Upload(tuple(files), unpack)


def framework_of(paths: Iterable[str]) -> pb.Framework.ValueType | None:
    """Tell a framework by the names of a version's files; None where they say nothing, or two things."""
    names = {PurePosixPath(path).name.lower() for path in paths}
    if "saved_model.pb" in names:
        return pb.FRAMEWORK_TENSORFLOW  # whatever lies in its assets
    suffixes = {PurePosixPath(name).suffix for name in names}
    found = set[pb.Framework.ValueType]()
    if ".keras" in suffixes:
        found.add(pb.FRAMEWORK_TENSORFLOW)
    if ".onnx" in suffixes:
        found.add(pb.FRAMEWORK_TRANSFORMERS if names & _TOKENIZERS else pb.FRAMEWORK_ONNX)
    return found.pop() if len(found) == 1 else None


def _named(source: FileSource) -> dict[str, FileSource]:
    if isinstance(source, UploadFile):
        return {source.path: source}
    if isinstance(source, str | PathLike):
        path = Path(source)
        if path.is_dir():
            return {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if file.is_file()}
        return {path.name: path}
    name = getattr(source, "name", None)
    return {Path(name).name if isinstance(name, str) else "model.onnx": source}


def _readable(source: _Unread, stack: ExitStack) -> Path | BinaryIO:
    if isinstance(source, str | PathLike):
        path = Path(source)
        # A folder may hold more files than a process may open at once. A pipe has a path too, and is read once.
        return path if path.is_file() else stack.enter_context(path.open("rb"))
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    return source
