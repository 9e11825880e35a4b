"""Files and folders of this machine, inside the roots that a setting allows, walked without following a link."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from services.common.errors import InvalidArgument
from services.fetcher.faults import (
    FileTooLarge,
    Forbidden,
    ModelNotFound,
    NetworkError,
    RegistrationRefused,
    SourceChanged,
)
from services.fetcher.models import Plan, Reference, RemoteFile
from services.fetcher.sources.file_names import check_distinct, fault_of, shown, told_of
from services.fetcher.sources.source import MAX_FILES, Found, Stopping, is_archive, model_name

MOST_AT_ONCE: Final = 1024 * 1024
MAX_ENTRIES: Final = 10_000
MAX_DEPTH: Final = 32
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_MISSING: Final = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}
_LINK: Final = {errno.ELOOP, errno.EMLINK}


class FileFlow:
    """The bytes of an open file; see `Flow`."""

    def __init__(self, handle: int, file: RemoteFile, offset: int, end: int | None) -> None:
        self._handle = handle
        self._file = file
        self._end = end
        self._shut = threading.Event()
        self._position = offset
        self.offset = offset
        self.size_bytes = file.size_bytes

    def readinto(self, buffer: memoryview) -> int:
        """See `Flow.readinto`."""
        if self._shut.is_set():
            raise NetworkError("the reading was ended")
        end = (self.size_bytes or 0) if self._end is None else self._end
        with _told(self._file.path):
            count = os.preadv(self._handle, [buffer[: min(MOST_AT_ONCE, end - self._position)]], self._position)
        self._position += count
        if not count:
            _check_same(self._handle, self._file)
        return count

    def shut(self) -> None:
        """End it from another thread."""
        self._shut.set()


class FilesystemSource:
    """`/absolute/path` or `file:///absolute/path` of a file or a folder. `roots` are file:/// URIs of folders."""

    name = "filesystem"
    reference_form = "/absolute/path"
    has_revisions = False

    def __init__(self, roots: Iterable[str]) -> None:
        self._roots = tuple(PurePosixPath(unquote(urlsplit(root).path)) for root in roots)

    @property
    def disabled_reason(self) -> str:
        """See `Source.disabled_reason`."""
        return "" if self._roots else "no folder is allowed: set PENSTOCK_FETCHER_ROOTS where the fetcher runs"

    def check(self, reference: Reference) -> None:
        """See `Source.check`."""
        if reference.revision or reference.variant:
            field = "revision" if reference.revision else "variant"
            raise InvalidArgument.field(
                f"source.{field}", "a folder has none; leave it out", reason="INVALID_REFERENCE"
            )
        self._placed(reference.reference)

    def host(self, reference: Reference) -> str:  # noqa: ARG002 - the protocol's
        """See `Source.host`."""
        return ""

    def find(self, reference: Reference, stopping: Stopping) -> Found:
        """Look at the file, or at all files of the folder; links in it are left out, and said."""
        root, inner = self._placed(reference.reference)
        left_out: list[tuple[str, str]] = []
        with _opened(root, inner, _FILE) as handle, _told(inner.name):
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                files = tuple(_walked(handle, str(root / inner), left_out, stopping))
            elif fault := fault_of(inner.name):
                raise RegistrationRefused(f"{shown(inner.name)} can be no file of a version: {fault}; rename it")
            else:
                files = (_described(handle, inner.name, str(root / inner)),)
        if not files:
            raise ModelNotFound(f"there is no file in {shown(reference.reference)}")
        check_distinct(file.path for file in files)
        if reference.sha256 and len(files) == 1:
            files = (RemoteFile(files[0].path, files[0].locator, files[0].tag, files[0].size_bytes, reference.sha256),)
        unpack = len(files) == 1 and is_archive(files[0].path)
        plan = Plan("", files, unpack=unpack, canonical=str(root / inner))
        return Found(plan, model_name(inner.name or root.name), told_of(left_out))

    @contextmanager
    def open(self, file: RemoteFile, offset: int, stopping: Stopping, *, end: int | None = None) -> Iterator[FileFlow]:
        """Open a file that is still the same."""
        root, inner = self._placed(file.locator)
        with _opened(root, inner, _FILE) as handle:
            _check_same(handle, file)
            flow = FileFlow(handle, file, offset, end)
            stopping.on_stop(flow.shut)
            try:
                yield flow
            finally:
                stopping.forget(flow.shut)

    def _placed(self, text: str) -> tuple[PurePosixPath, PurePosixPath]:
        """Give the root that a path lies in, and its way from there."""
        said = unquote(urlsplit(text).path) if text.startswith("file://") else text
        path = PurePosixPath(said)
        if not path.is_absolute() or "\0" in said or (text.startswith("file://") and urlsplit(text).netloc):
            sentence = f"write {self.reference_form}, or file:// and it"
            raise InvalidArgument.field("source.reference", sentence, reason="INVALID_REFERENCE")
        for root in self._roots:
            if path.is_relative_to(root) and ".." not in path.parts:
                return root, path.relative_to(root)
        places = ", ".join(map(str, self._roots)) or "none is"
        raise Forbidden(f"the reference lies in no folder that PENSTOCK_FETCHER_ROOTS allows ({places})")


@contextmanager
def _opened(root: PurePosixPath, inner: PurePosixPath, flags: int) -> Iterator[int]:
    """Open what lies inside a root, folder by folder: no step follows a link."""
    with _told(inner.name):
        top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)  # the root itself is the operator's word, link or not
        try:
            handle = _descended(top, inner.parts, flags)
        finally:
            os.close(top)
    try:
        with _told(inner.name):
            _check_kind(handle, inner.name)
        yield handle
    finally:
        os.close(handle)


def _descended(folder: int, names: Sequence[str], flags: int) -> int:
    """Open what lies below an open folder, which stays open."""
    handle = os.dup(folder)
    for number, name in enumerate(names, start=1):
        outer = handle
        try:
            handle = _stepped(outer, name, flags if number == len(names) else _FOLDER)
        finally:
            os.close(outer)
    return handle


def _stepped(folder: int, name: str, flags: int) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:
        # A link where a folder was wanted is told as no folder.
        if error.errno == errno.ENOTDIR and stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error
        raise


def _check_kind(handle: int, name: str) -> None:
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise Forbidden(f"{name} is neither a file nor a folder")


def _walked(folder: int, place: str, left_out: list[tuple[str, str]], stopping: Stopping) -> Iterator[RemoteFile]:
    """Give the files of an open folder and of those in it, by name. One folder is open at a time, however many wait."""
    count = seen = 0
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        stopping.check()
        above = waiting.pop()
        handle = _descended(folder, above, _FOLDER)
        try:
            with os.scandir(handle) as listed:
                entries = list(islice(listed, MAX_ENTRIES + 1 - seen))
            seen += len(entries)
            if seen > MAX_ENTRIES:
                raise FileTooLarge(f"the folder has more than {MAX_ENTRIES:,} entries")
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = "/".join((*above, entry.name))
                if fault := fault_of(path):
                    left_out.append((path, fault))
                elif entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
                    left_out.append((path, "links and devices are not followed"))
                elif entry.is_dir(follow_symlinks=False):
                    if len(above) == MAX_DEPTH:
                        raise FileTooLarge(f"the folder has folders more than {MAX_DEPTH} deep")
                    waiting.append((*above, entry.name))
                else:
                    count += 1
                    if count > MAX_FILES:
                        raise FileTooLarge(f"the folder has more than {MAX_FILES:,} files")
                    inside = os.open(entry.name, _FILE, dir_fd=handle)
                    try:
                        yield _described(inside, path, f"{place}/{path}")
                    finally:
                        os.close(inside)
        finally:
            os.close(handle)


def _check_same(handle: int, file: RemoteFile) -> None:
    if _tag(os.fstat(handle)) != file.tag:
        raise SourceChanged(f"{file.path} has changed since it was looked at; it is begun anew")


def _described(handle: int, path: str, place: str) -> RemoteFile:
    found = os.fstat(handle)
    return RemoteFile(path, place, _tag(found), found.st_size)


def _tag(found: os.stat_result) -> str:
    return f"{found.st_dev}-{found.st_ino}-{found.st_size}-{found.st_mtime_ns}"


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Translate what the system says of a file; what its reader does with the bytes is another matter."""
    try:
        yield
    except OSError as error:
        raise _fault_of(error, name) from error


def _fault_of(error: OSError, name: str) -> Exception:
    if error.errno in _MISSING:
        return ModelNotFound(f"{name} is not there")
    if error.errno in _LINK:
        return Forbidden(f"{name} is a link, or lies behind one; links are not followed")
    if error.errno in (errno.EACCES, errno.EPERM):
        return Forbidden(f"{name} may not be read by the fetcher's user")
    return NetworkError(f"{name} cannot be read ({error.strerror})")
