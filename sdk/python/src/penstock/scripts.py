"""The client of scripts: Python of your own that the recipe `script` runs, in versions that never change."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from penstock.api.registry.v1 import registry_pb2
from penstock.api.trainer.v1 import scripts_pb2 as pb
from penstock.channels import Connection
from penstock.downloads import download
from penstock.errors import InvalidArgument, PenstockError
from penstock.ids import uuid7
from penstock.paging import pages
from penstock.retries import Tries
from penstock.stubs import TrainerStub
from penstock.uploads import Progress, UploadFile

WORK_TIMEOUT_S = 300.0
"""The service answers when all is compiled and kept, and says nothing before."""
# The same files are the same bytes, whenever they are packed.
_PACK_TIME = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16
# What the service unpacks of one script.
_MAX_FILES = 1_000
_MAX_BYTES = 64 * 1024 * 1024


class ScriptsClient:
    """Calls the trainer, which keeps scripts."""

    def __init__(self, connection: Connection[TrainerStub]) -> None:
        self._connection = connection

    def upload(
        self,
        name: str,
        source: str | PathLike[str] | bytes,
        *,
        entry: str = "",
        description: str = "",
        request_id: str = "",
        progress: Progress | None = None,
    ) -> pb.UploadScriptResponse:
        """Make a version of a script; the same bytes as in its newest version are that version (`existed`).

        Args:
            name: the script's.
            source: the path of a Python file, of a zip, or of a folder, which is packed without `__pycache__` and what
                begins with a dot; or the bytes of a file.
            entry: the file that defines train(context); empty: train.py, or train/__init__.py.
            description: what it is.
            request_id: the same again gives the first result; empty: one is made, so that a retry makes no second
                version.
            progress: told the bytes so far and in all.

        Raises:
            InvalidArgument: it is no Python (SYNTAX_ERROR), its entry is not there (ENTRY_NOT_FOUND) or has no function
                train(context) (NO_TRAIN), a module is called as one of the standard library or of Penstock
                (RESERVED_NAME), a file is compiled (COMPILED_CODE), the folder is empty (NO_FILES), has a link in it
                (ARCHIVE_UNSAFE), or more than 1,000 files or 64 MiB (ARCHIVE_TOO_LARGE), or the zip is not one to be
                unpacked.
            FailedPrecondition: policy allows no scripts there (RECIPE_NOT_ALLOWED).
            ResourceExhausted: it is too large (TOO_LARGE), or too many are being read (TOO_MANY_UPLOADS).
            OSError: a file can't be read.
        """
        with _opened(source) as file:
            header = pb.UploadScriptHeader(
                name=name, entry=entry, description=description, sha256=file.sha256, request_id=request_id or uuid7()
            )
            tries = Tries(self._connection.retry)
            while True:
                try:
                    return self._connection.upload(
                        self._connection.stub.UploadScript,
                        pb.UploadScriptRequest,
                        _requests(header, file, progress),
                        idle_timeout_s=WORK_TIMEOUT_S,
                    )
                except PenstockError as error:
                    tries.again(error)

    def get(self, name: str, version: int = 0) -> pb.Script:
        """Give a version, 0: the newest.

        Raises:
            NotFound: SCRIPT_NOT_FOUND, SCRIPT_VERSION_NOT_FOUND.
        """
        request = pb.GetScriptRequest(name=name, version=version)
        return self._connection.unary(self._connection.stub.GetScript, request).script

    def list(self, name: str = "", *, page_size: int = 0) -> Iterator[pb.Script]:
        """List the newest version of each script by name, or all versions of one, the newest first."""

        def fetch(token: str) -> pb.ListScriptsResponse:
            request = pb.ListScriptsRequest(name=name, page_size=page_size, page_token=token)
            return self._connection.unary(self._connection.stub.ListScripts, request)

        for page in pages(fetch):
            yield from page.scripts

    def download(
        self, name: str, destination: str | PathLike[str], version: int = 0, *, progress: Progress | None = None
    ) -> Path:
        """Download a version as it was uploaded, a Python file or a zip; gives its final path.

        It appears whole and verified, or not at all. A break is resumed where it happened.

        Args:
            name: the script's.
            destination: the file's new path, or an existing folder for it.
            version: 0: the newest.
            progress: told the bytes so far and in all.

        Raises:
            NotFound: SCRIPT_NOT_FOUND, SCRIPT_VERSION_NOT_FOUND.
            DataLoss: the bytes are not those that the trainer keeps.
            OSError: the destination can't be written.
        """
        fetch = _ScriptFetch(self._connection, name, version)
        return download(fetch, Path(destination), self._connection.retry, progress)

    def delete(self, name: str, version: int) -> None:
        """Delete a version; its number is never given again.

        Raises:
            FailedPrecondition: a run that has not ended trains with it (SCRIPT_IN_USE).
            NotFound: SCRIPT_NOT_FOUND, SCRIPT_VERSION_NOT_FOUND.
        """
        self._connection.unary(self._connection.stub.DeleteScript, pb.DeleteScriptRequest(name=name, version=version))


class _ScriptFetch:
    """Begins a download at a byte; broken off, it goes on with the same version."""

    def __init__(self, connection: Connection[TrainerStub], name: str, version: int) -> None:
        self._connection = connection
        self._request = pb.DownloadScriptRequest(name=name, version=version)

    def __call__(self, offset: int) -> Generator[registry_pb2.DownloadFileResponse, None, None]:
        """Give what comes from a byte on."""
        self._request.offset = offset
        with closing(self._connection.stream(self._connection.stub.DownloadScript, self._request)) as answers:
            for answer in answers:
                sent = registry_pb2.DownloadFileResponse(chunk=answer.chunk)
                if answer.HasField("script"):
                    self._request.version = answer.script.version
                    sent.file.path = file_name_of(answer.script)
                    sent.file.sha256, sent.file.size_bytes = answer.script.sha256, answer.script.size_bytes
                yield sent


def file_name_of(script: pb.Script) -> str:
    """Say what a version's file is called where nobody says: NAME-VERSION.py, or .zip."""
    return f"{script.name}-{script.version}.{'zip' if script.packed else 'py'}"


def pack(folder: Path, out: BinaryIO) -> None:
    """Write a zip of a folder's files; the same files give the same bytes.

    Left out is what begins with a dot, and `__pycache__`. What the service would refuse is not read to its end.

    Raises:
        InvalidArgument: there is no file in it (NO_FILES), or a link (ARCHIVE_UNSAFE); it has more than 1,000 files or
            64 MiB (ARCHIVE_TOO_LARGE).
        OSError: a file can't be read.
    """
    count, left_bytes = 0, _MAX_BYTES
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in _files_in(folder):
            count += 1
            if count > _MAX_FILES:
                raise _too_large(folder, f"it has more than {_MAX_FILES:,} entries")
            with path.open("rb") as file:
                content = file.read(left_bytes + 1)
            left_bytes -= len(content)
            if left_bytes < 0:
                raise _too_large(folder, f"more than {_MAX_BYTES:,} bytes come out of it")
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _PACK_TIME)
            info.external_attr = _MODE
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    if not count:
        raise InvalidArgument(f"there is no file in {str(folder)!r}; name the folder of the script", reason="NO_FILES")


def _files_in(folder: Path) -> Iterator[Path]:
    """Give the files of a folder in the order of their paths; a folder that is left out is not looked into."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == "__pycache__":
            continue
        if path.is_symlink():
            sentence = f"{str(path)!r} is a symbolic link; pack plain files and folders, and leave out the rest"
            raise InvalidArgument(sentence, reason="ARCHIVE_UNSAFE")
        if path.is_dir():
            yield from _files_in(path)
        elif path.is_file():
            yield path


def _too_large(folder: Path, what: str) -> InvalidArgument:
    sentence = f"the folder {str(folder)!r}: {what}; send less: the script alone, without its data and libraries"
    return InvalidArgument(sentence, reason="ARCHIVE_TOO_LARGE")


@contextmanager
def _opened(source: str | PathLike[str] | bytes) -> Iterator[UploadFile]:
    if not isinstance(source, bytes) and not Path(source).is_dir():
        yield UploadFile.of(Path(source).name, Path(source))
        return
    with tempfile.TemporaryFile() as held:
        if isinstance(source, bytes):
            held.write(source)
        else:
            pack(Path(source), held)
        held.seek(0)
        yield UploadFile.of("script", held)


def _requests(
    header: pb.UploadScriptHeader, file: UploadFile, progress: Progress | None
) -> Iterator[pb.UploadScriptRequest]:
    yield pb.UploadScriptRequest(header=header)
    sent_bytes = 0
    for chunk in file.chunks():
        yield pb.UploadScriptRequest(chunk=chunk)
        sent_bytes += len(chunk)
        if progress is not None:
            progress(sent_bytes, file.size_bytes or None)
