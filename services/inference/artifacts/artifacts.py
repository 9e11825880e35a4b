"""Model files on disk, kept by digest: fetched once, verified, shared by the processes of one machine.

    <folder>/models/<digest>/…     a version's files, whole and verified
    <folder>/fetching/…            what is on its way; left-overs of a dead process are swept away at the start
    <folder>/quarantine/<digest>   what is wrong with an artifact whose stored bytes do not match
    <folder>/locks/00 … 3f         held while a digest of that stripe is fetched, by any thread or process

A folder in use is locked by its users (a shared flock on the folder itself), so no process evicts what another has
open. The cache can always be rebuilt: nothing here is fsynced, and what does not match its digest is fetched anew.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from services.common.errors import DataLoss, FailedPrecondition, ResourceExhausted
from services.inference.artifacts.quarantine import Quarantine
from services.inference.models import ArtifactFile, ResolvedVersion
from services.inference.runtimes.runtime import Artifact

log = logging.getLogger(__name__)

Fetch = Callable[[ResolvedVersion, ArtifactFile, Path], None]
"""Writes one file of a version to a path; bounded in time and bytes by whoever made it."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCK_STRIPES = 64
READ_BYTES = 1 << 20
# Made anew this often, at most, when another process evicts or a file turns out corrupt in between.
MAX_ATTEMPTS = 5
# The first mismatch may be the way's fault; the second is the store's.
FETCH_ATTEMPTS = 2
QUARANTINE_S = 3600.0


class ArtifactCache:
    """A bounded folder of verified artifacts; those that are in use are never evicted."""

    def __init__(
        self, folder: Path, fetch: Fetch, *, max_bytes: int = 50 * 2**30, quarantine_s: float = QUARANTINE_S
    ) -> None:
        self._models = folder / "models"
        self._fetching = folder / "fetching"
        self._locks = folder / "locks"
        self._quarantine = Quarantine(folder / "quarantine", quarantine_s)
        self._fetch_file = fetch
        self._max_bytes = max_bytes
        self._verified: set[str] = set()
        self._mutex = threading.Lock()
        self.downloads = 0
        self.evictions = 0
        self.corruptions = 0

    def open(self) -> None:
        """Make the folders, and sweep away what a dead process was fetching."""
        for folder in (self._models, self._fetching, self._locks):
            folder.mkdir(parents=True, exist_ok=True)
        self._quarantine.open()
        for left in self._fetching.iterdir():
            with _try_exclusive(left) as free:
                if free:
                    shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def use(self, version: ResolvedVersion) -> Iterator[Artifact]:
        """Hold the version's files, fetching them if need be; they stay until the block ends.

        Raises FailedPrecondition(ARTIFACT_CORRUPT) when the store's own bytes are wrong, and for an hour after that was
        found without asking the store; ResourceExhausted with ARTIFACT_TOO_LARGE or DISK_FULL; and what the download
        raises.
        """
        for file in version.files:
            _check_path(file.path)
        target = self._models / version.digest
        descriptor = self._hold(version, target)
        try:
            os.utime(target)  # how recently it was used
            yield Artifact(version, target)
        finally:
            os.close(descriptor)

    @property
    def used_bytes(self) -> int:
        """What the whole artifacts take on disk."""
        return sum(_size_of(folder) for folder in self._models.iterdir())

    def _hold(self, version: ResolvedVersion, target: Path) -> int:
        """Return a descriptor of the version's folder under a shared lock, its files whole and verified."""
        for _ in range(MAX_ATTEMPTS):
            descriptor = _hold_folder(target)
            if descriptor is None:
                self._fetch_once(version, target)
                continue
            if version.digest in self._verified or _matches(target, version.files):
                with self._mutex:
                    self._verified.add(version.digest)
                return descriptor
            os.close(descriptor)
            self._discard(version, target)
        sentence = f"the files of {version.key} keep vanishing from the cache; is another process emptying it?"
        raise FailedPrecondition(sentence, reason="ARTIFACT_UNSTABLE")

    def _discard(self, version: ResolvedVersion, target: Path) -> None:
        log.warning("the cached files of %s are corrupt; fetching them anew", version.key)
        with self._mutex:
            self.corruptions += 1
        # Whoever has it open keeps its own files: a renamed folder's inodes live on.
        self._remove(target)

    def _fetch_once(self, version: ResolvedVersion, target: Path) -> None:
        """Fetch, unless another thread or process did so while we waited for the lock."""
        stripe = self._locks / f"{int(version.digest[:8], 16) % LOCK_STRIPES:02x}"
        with stripe.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if target.exists():
                return
            known = self._quarantine.find(version.digest)
            if known is not None:
                raise FailedPrecondition(known, reason="ARTIFACT_CORRUPT")
            self._make_room(version.size_bytes)
            temporary = Path(tempfile.mkdtemp(prefix=version.digest[:16] + ".", dir=self._fetching))
            descriptor = os.open(temporary, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                for file in version.files:
                    self._fetch(version, file, temporary / file.path)
                temporary.rename(target)
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
                sentence = f"the model's files cannot be kept on disk: {error.strerror}"
                raise ResourceExhausted(sentence, reason="DISK_FULL") from error
            finally:
                os.close(descriptor)
                shutil.rmtree(temporary, ignore_errors=True)
        with self._mutex:
            self._verified.add(version.digest)
            self.downloads += 1

    def _fetch(self, version: ResolvedVersion, file: ArtifactFile, path: Path) -> None:
        """Fetch one file, and take nobody's word for its bytes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(FETCH_ATTEMPTS):
            try:
                self._fetch_file(version, file, path)
            except DataLoss as error:
                log.warning("the stored bytes of %s are wrong: %s", version.key, error)
                continue
            if _digest_of(path) == file.sha256:
                return
        sentence = (
            f"the stored bytes of {file.path!r} of {version.model} {version.version} do not match their digest; "
            "register the version again, or repair the store: it is asked again after an hour"
        )
        log.error("%s is in quarantine", version.key)
        self._quarantine.add(version.digest, sentence)
        raise FailedPrecondition(sentence, reason="ARTIFACT_CORRUPT")

    def _make_room(self, size_bytes: int) -> None:
        """Evict the least recently used artifacts that nobody has open, until so much is free."""
        if size_bytes > self._max_bytes:
            sentence = f"the model's files take {size_bytes} bytes; the disk cache holds {self._max_bytes}: raise it"
            raise ResourceExhausted(sentence, reason="ARTIFACT_TOO_LARGE")
        used = {folder: _size_of(folder) for folder in self._models.iterdir()}
        total = sum(used.values())
        for folder in sorted(used, key=_last_used):
            if total + size_bytes <= self._max_bytes:
                return
            with _try_exclusive(folder) as free:
                if free:
                    self._remove(folder)
                    total -= used[folder]
                    with self._mutex:
                        self.evictions += 1
        if total + size_bytes > self._max_bytes:
            sentence = f"every artifact in the disk cache of {self._max_bytes} bytes is in use: raise its limit"
            raise ResourceExhausted(sentence, reason="ARTIFACT_TOO_LARGE")

    def _remove(self, folder: Path) -> None:
        """Take a folder out of sight in one step, then delete it."""
        with self._mutex:
            self._verified.discard(folder.name)
        doomed = Path(tempfile.mkdtemp(prefix="evicted.", dir=self._fetching))
        with suppress(FileNotFoundError):
            folder.rename(doomed / folder.name)
        shutil.rmtree(doomed, ignore_errors=True)


def _check_path(path: str) -> None:
    """Refuse a path that would leave the folder; the registry refuses it too, and files are not taken on trust."""
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") for part in parts) or "\0" in path:
        raise FailedPrecondition(f"{path!r} is not a path within an artifact", reason="INVALID_PATH")


def _hold_folder(folder: Path) -> int | None:
    """Open a folder under a shared lock; None where it is not there or went while we locked it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        if folder.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except FileNotFoundError:
        pass
    os.close(descriptor)
    return None


@contextmanager
def _try_exclusive(folder: Path) -> Iterator[bool]:
    """Lock a folder if nobody uses it; says whether that worked."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def _matches(folder: Path, files: tuple[ArtifactFile, ...]) -> bool:
    return all(_digest_of(folder / file.path) == file.sha256 for file in files)


def _digest_of(path: Path) -> str | None:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as opened:
            while chunk := opened.read(READ_BYTES):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()


def _size_of(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # another process may be evicting it
                total += Path(root, name).stat().st_size
    return total


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
