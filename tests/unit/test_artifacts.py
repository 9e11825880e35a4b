from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.common.errors import DataLoss, FailedPrecondition, ResourceExhausted, Unavailable
from services.inference.artifacts.artifacts import ArtifactCache
from services.inference.models import ArtifactFile, ResolvedVersion
from tests.serving import LINEAR, BlobShelf


@pytest.fixture
def shelf() -> BlobShelf:
    return BlobShelf()


def cache_over(folder: Path, shelf: BlobShelf, max_bytes: int = 1000) -> ArtifactCache:
    cache = ArtifactCache(folder, shelf.fetch, max_bytes=max_bytes)
    cache.open()
    return cache


@pytest.fixture
def cache(tmp_path: Path, shelf: BlobShelf) -> ArtifactCache:
    return cache_over(tmp_path, shelf)


def test_files_are_fetched_once_and_lie_at_their_paths(cache: ArtifactCache, shelf: BlobShelf) -> None:
    version = shelf.version({"model.onnx": b"graph", "data/weights.bin": b"weights"})
    for _ in range(2):
        with cache.use(version) as artifact:
            assert (artifact.folder / "model.onnx").read_bytes() == b"graph"
            assert (artifact.folder / "data/weights.bin").read_bytes() == b"weights"
    assert len(shelf.asked) == 2
    assert cache.used_bytes == 12


def test_many_threads_that_want_one_artifact_fetch_it_once(tmp_path: Path, shelf: BlobShelf) -> None:
    version = shelf.version({"model.onnx": b"graph"})
    # Two caches over one folder stand for two processes: the locks are the same.
    caches = [cache_over(tmp_path, shelf), cache_over(tmp_path, shelf)]
    start = threading.Barrier(16)

    def read(index: int) -> bytes:
        start.wait(60)
        with caches[index % 2].use(version) as artifact:
            return (artifact.folder / "model.onnx").read_bytes()

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(read, range(16))) == {b"graph"}
    assert len(shelf.asked) == 1


@pytest.mark.parametrize("stored", [b"grapX", b"gra", b"graph and more", b""])
def test_wrong_bytes_in_the_store_are_refused_and_leave_nothing(
    cache: ArtifactCache, shelf: BlobShelf, stored: bytes, tmp_path: Path
) -> None:
    version = shelf.version({"model.onnx": b"graph"})
    shelf.blobs[version.files[0].sha256] = stored
    with pytest.raises(FailedPrecondition, match="do not match their digest; register the version again") as caught:
        hold(cache, version)
    assert caught.value.reason == "ARTIFACT_CORRUPT"
    assert list((tmp_path / "models").iterdir()) == []
    assert list((tmp_path / "fetching").iterdir()) == []


def hold(cache: ArtifactCache, version: ResolvedVersion) -> None:
    with cache.use(version):
        pass


def test_what_is_corrupt_in_the_store_is_not_fetched_again_at_every_request(
    cache: ArtifactCache, shelf: BlobShelf, tmp_path: Path
) -> None:
    version = shelf.version({"model.onnx": b"graph"})
    shelf.blobs[version.files[0].sha256] = b"grapX"
    later = cache_over(tmp_path, shelf)  # another process, or this one after a restart
    for each in (cache, cache, later):
        with pytest.raises(FailedPrecondition) as caught:
            hold(each, version)
        assert caught.value.reason == "ARTIFACT_CORRUPT"
    assert len(shelf.asked) == 2, "once, and once more in case it was the way's fault"
    other = shelf.version({"model.onnx": b"another graph"}, version="2.0.0")
    hold(cache, other)


def test_a_repaired_store_is_asked_again_once_the_quarantine_is_over_or_lifted(
    shelf: BlobShelf, tmp_path: Path
) -> None:
    version = shelf.version({"model.onnx": b"graph"})
    for lift in (lambda path: os.utime(path, (0, 0)), Path.unlink):
        cache = cache_over(tmp_path, shelf)
        shelf.blobs[version.files[0].sha256] = b"grapX"
        with pytest.raises(FailedPrecondition):
            hold(cache, version)
        shelf.blobs[version.files[0].sha256] = b"graph"
        lift(tmp_path / "quarantine" / version.digest)
        hold(cache, version)
        shutil.rmtree(tmp_path / "models" / version.digest)


def test_a_mismatch_on_the_way_is_made_good_at_once(tmp_path: Path, shelf: BlobShelf) -> None:
    version = shelf.version({"model.onnx": b"graph"})
    mishaps: list[Exception] = [DataLoss("the file: what came is not what was promised", reason="DIGEST_MISMATCH")]

    def fetch(version: ResolvedVersion, file: ArtifactFile, path: Path) -> None:
        if mishaps:
            raise mishaps.pop()
        shelf.fetch(version, file, path)

    cache = ArtifactCache(tmp_path, fetch)
    cache.open()
    hold(cache, version)
    assert list((tmp_path / "quarantine").iterdir()) == []


def test_an_old_quarantine_is_forgotten_at_the_start(tmp_path: Path, shelf: BlobShelf) -> None:
    cache_over(tmp_path, shelf)
    old = tmp_path / "quarantine" / "ab"
    old.write_text("it was corrupt")
    os.utime(old, (0, 0))
    cache_over(tmp_path, shelf)
    assert not old.exists()


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_file_damaged_on_disk_is_fetched_anew_by_the_next_process(
    cache: ArtifactCache, shelf: BlobShelf, tmp_path: Path, damage: str
) -> None:
    version = shelf.version({"model.onnx": b"graph"})
    with cache.use(version) as artifact:
        path = artifact.folder / "model.onnx"
    if damage == "changed":
        path.write_bytes(b"grapX")
    else:
        path.unlink()
    later = cache_over(tmp_path, shelf)
    with later.use(version) as artifact:
        assert (artifact.folder / "model.onnx").read_bytes() == b"graph"
    assert (later.corruptions, len(shelf.asked)) == (1, 2)


def test_a_good_file_outlives_its_process_and_needs_no_store(
    cache: ArtifactCache, shelf: BlobShelf, tmp_path: Path
) -> None:
    version = shelf.version({"model.onnx": b"graph"})
    with cache.use(version):
        pass
    shelf.blobs.clear()
    with cache_over(tmp_path, shelf).use(version) as artifact:
        assert (artifact.folder / "model.onnx").read_bytes() == b"graph"


def test_the_least_recently_used_goes_and_what_is_in_use_stays(cache: ArtifactCache, shelf: BlobShelf) -> None:
    a, b, c, d = (shelf.version({"m.onnx": name * 400}, model="m") for name in (b"a", b"b", b"c", b"d"))
    with cache.use(a) as held:
        with cache.use(b) as other:
            pass
        for age, artifact in ((100, held), (50, other)):
            os.utime(artifact.folder, (1_000_000 - age, 1_000_000 - age))
        with cache.use(c):
            assert (held.folder / "m.onnx").exists()
            assert not other.folder.exists()
            with pytest.raises(ResourceExhausted, match="in use"), cache.use(d):
                pass
    with cache.use(d):
        assert not held.folder.exists()
    assert cache.evictions == 2
    assert cache.used_bytes <= 1000


def test_an_artifact_over_the_limit_is_refused_and_evicts_nothing(cache: ArtifactCache, shelf: BlobShelf) -> None:
    small = shelf.version({"m.onnx": b"small"})
    with cache.use(small):
        pass
    with pytest.raises(ResourceExhausted) as caught, cache.use(shelf.version({"m.onnx": b"x" * 1001})):
        pass
    assert caught.value.reason == "ARTIFACT_TOO_LARGE"
    assert cache.evictions == 0


@pytest.mark.parametrize("path", ["../out", "/etc/passwd", "a//b", "a/../b", "", "a\0b", "."])
def test_a_path_that_leaves_the_folder_is_refused(cache: ArtifactCache, path: str) -> None:
    version = ResolvedVersion("m", "1", 1, "onnx", "PRODUCTION", LINEAR, (ArtifactFile(path, "0" * 64, 1),))
    with pytest.raises(FailedPrecondition) as caught, cache.use(version):
        pass
    assert caught.value.reason == "INVALID_PATH"


def test_a_store_that_is_down_leaves_nothing_and_the_next_try_succeeds(tmp_path: Path, shelf: BlobShelf) -> None:
    version = shelf.version({"m.onnx": b"graph"})
    down = True

    def fetch(version: ResolvedVersion, file: ArtifactFile, path: Path) -> None:
        path.write_bytes(b"gr")
        if down:
            raise Unavailable("the registry is down")
        path.write_bytes(b"graph")

    cache = ArtifactCache(tmp_path, fetch)
    cache.open()
    with pytest.raises(Unavailable), cache.use(version):
        pass
    down = False
    with cache.use(version) as artifact:
        assert (artifact.folder / "m.onnx").read_bytes() == b"graph"


@pytest.mark.parametrize(("code", "error"), [(errno.ENOSPC, ResourceExhausted), (errno.ECONNRESET, OSError)])
def test_a_full_disk_is_said_to_be_one(tmp_path: Path, code: int, error: type[Exception]) -> None:
    def fetch(version: ResolvedVersion, file: ArtifactFile, path: Path) -> None:
        raise OSError(code, os.strerror(code))

    cache = ArtifactCache(tmp_path, fetch)
    cache.open()
    with pytest.raises(error), cache.use(BlobShelf().version({"m.onnx": b"graph"})):
        pass


def test_what_a_dead_process_was_fetching_is_swept_away_and_a_living_ones_is_not(
    tmp_path: Path, shelf: BlobShelf
) -> None:
    cache_over(tmp_path, shelf)
    dead, living = tmp_path / "fetching" / "dead", tmp_path / "fetching" / "living"
    dead.mkdir()
    living.mkdir()
    descriptor = os.open(living, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    cache_over(tmp_path, shelf)
    assert (dead.exists(), living.exists()) == (False, True)
    os.close(descriptor)
