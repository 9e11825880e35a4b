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
FileSource = str | PathLike[str] | bytes | bytearray | memoryview | BinaryIO
Source = FileSource | Mapping[str, FileSource]
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
        stream: where its bytes come from.
        start: where they begin; None where the stream can't seek, so that it can be read only once.
        size_bytes: 0 where it is not known beforehand.
        sha256: lowercase hex; empty where the stream can't be read twice.
    """

    path: str
    stream: BinaryIO
    start: int | None = None
    size_bytes: int = 0
    sha256: str = ""
    # A failed try may still be reading when the next one begins: each read seeks first.
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, path: str, stream: BinaryIO) -> UploadFile:
        """Take a stream; a seekable one is read through once, for its digest: the server then checks what arrives."""
        file = cls(path, stream, start=stream.tell() if stream.seekable() else None)
        if file.start is not None:
            digest = sha256()
            for chunk in file.chunks():
                digest.update(chunk)
                file.size_bytes += len(chunk)
            file.sha256 = digest.hexdigest()
        return file

    def chunks(self) -> Iterator[bytes]:
        """Read the file, from its beginning wherever that can be done."""
        position = self.start
        while True:
            with self._lock:
                if position is not None:
                    self.stream.seek(position)
                chunk = self.stream.read(CHUNK_BYTES)
            if not chunk:
                return
            yield chunk
            position = None if position is None else position + len(chunk)


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
        sent_bytes = 0
        yield pb.RegisterVersionRequest(header=header)
        for file in self.files:
            yield pb.RegisterVersionRequest(
                file=pb.FileHeader(path=file.path, sha256=file.sha256, size_bytes=file.size_bytes, unpack=self.unpack)
            )
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
        yield Upload(tuple(UploadFile.of(path, _stream(each, stack)) for path, each in named.items()), unpack)


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
    if isinstance(source, str | PathLike):
        path = Path(source)
        if path.is_dir():
            return {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if file.is_file()}
        return {path.name: path}
    name = getattr(source, "name", None)
    return {Path(name).name if isinstance(name, str) else "model.onnx": source}


def _stream(source: FileSource, stack: ExitStack) -> BinaryIO:
    if isinstance(source, str | PathLike):
        return stack.enter_context(Path(source).open("rb"))
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    return source
