"""A large file through the registry and back, against the bare minio client and against a plain copy.

On S3 the other side is minio's `fput_object` and `fget_object` as they come; on file blobs it is `cp`, with an fsync on
the way in, since the registry makes one as well. A declared upload is a path: the SDK hashes it first, and that is part
of the time. An undeclared one is a pipe, whose digest follows its last byte. Sides take turns on unpinned cores; the
file is random, no two uploads are alike, and it is in the page cache when a turn begins, so that no side reads it from
the disk. All that was written before a turn is synced before it.
Run it by `.venv/bin/python -m benchmarks transfer --mib 1024`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import psutil
from rich.console import Console
from rich.table import Table

import penstock
from benchmarks.contenders.registry import RunningRegistry, running_registry
from benchmarks.harness import Ratio, cpu_seconds, interleave, surroundings
from penstock import RetryPolicy
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.downloads import download
from tests.s3 import find_minio, s3_server

MEBIBYTE = 1024 * 1024
MODEL, BARE_OBJECT = "transfer", "bare"
UPLOADS = ("declared", "undeclared", "bare")
DOWNLOADS = ("registry", "url", "bare")
console = Console()
if not console.is_terminal:
    console = Console(width=120)  # the table's own; a pipe has none


@dataclass(frozen=True, slots=True)
class Turn:
    """One transfer. `cpu_s`: what it took of processors, the store's and the client's included; `registry_cpu_s`: the
    registry's part of that. `grown_bytes`: the peak of the registry's memory meanwhile, above what it had before.
    """

    seconds: float
    cpu_s: float
    registry_cpu_s: float
    grown_bytes: int


@dataclass(frozen=True, slots=True)
class Bare:
    """The same without a registry."""

    name: str
    put: Callable[[Path], object]
    get: Callable[[Path], object]
    clear: Callable[[], None]
    """Removes what the store holds, so that a run needs no disk for all its turns."""


class Side:
    """A registry over one kind of blob store, and the way past it."""

    def __init__(self, registry: RunningRegistry, bare: Bare) -> None:
        self._registry = registry
        self._client = registry.client.registry
        self._count = 0
        self.bare = bare

    def upload(self, source: Path, how: str) -> Turn:
        """Take one turn; a new version each, which the validator has read and refused before this returns."""
        self.bare.clear()
        stamp(source)
        if how == "bare":
            return self._turn(lambda: self.bare.put(source))
        self._count += 1
        with ExitStack() as stack:
            stream = source if how == "declared" else stack.enter_context(piped(source))
            turn = self._turn(lambda: self._register(stream))
        with suppress(penstock.ValidationFailed):
            self._client.wait_until_ready(MODEL, self._version)
        return turn

    def download(self, target: Path, how: str) -> Turn:
        """Take one turn: the last version that was registered, or the object that was put last."""
        target.unlink(missing_ok=True)
        if how == "bare":
            return self._turn(lambda: self.bare.get(target))
        if how == "url":
            return self._turn(lambda: self._client.download(MODEL, self._version, target))
        return self._turn(lambda: download(self._stream, target, RetryPolicy(), None))

    @property
    def ways_down(self) -> tuple[str, ...]:
        """How files come down: only S3 answers to URLs."""
        signed = self._client.download_url(MODEL, self._version).url
        return DOWNLOADS if signed else tuple(how for how in DOWNLOADS if how != "url")

    def _stream(self, offset_bytes: int) -> Generator[pb.DownloadFileResponse, None, None]:
        """Read the file through the registry, as the SDK does where there is no URL."""
        connection = self._client._connection
        request = pb.DownloadFileRequest(model=MODEL, version=self._version, offset_bytes=offset_bytes)
        return connection.stream(connection.stub.DownloadFile, request)

    @property
    def _version(self) -> str:
        return f"1.0.{self._count}"

    def _register(self, source: Path | BinaryIO) -> None:
        self._client.register_version(MODEL, self._version, source, framework="onnx", wait=False)

    def _turn(self, transfer: Callable[[], object]) -> Turn:
        os.sync()
        pid = self._registry.pid
        cpu_s, registry_cpu_s, began = all_cpu_seconds(), cpu_seconds(pid), time.perf_counter()
        grown_bytes = self._registry.memory_growth_bytes(transfer)
        seconds = time.perf_counter() - began
        return Turn(seconds, all_cpu_seconds() - cpu_s, cpu_seconds(pid) - registry_cpu_s, grown_bytes)


@contextmanager
def piped(source: Path) -> Iterator[BinaryIO]:
    """Give the file as a stream that can't be read twice."""
    with subprocess.Popen(["cat", source], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        yield cat.stdout  # type: ignore[misc]  # a BufferedReader, which typeshed does not count as BinaryIO


def all_cpu_seconds() -> float:
    """Give the processor time of this process and its children, those that ended too; in hundredths of a second."""
    own = psutil.Process().cpu_times()
    ended = own.children_user + own.children_system
    return own.user + own.system + ended + sum(cpu_seconds(child.pid) for child in psutil.Process().children())


def write_random(path: Path, mib: int) -> None:
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MEBIBYTE))


def stamp(path: Path) -> None:
    """Make the file unlike any before, so that no store has its bytes already."""
    with path.open("r+b") as file:
        file.write(os.urandom(32))


@contextmanager
def on_s3(folder: Path) -> Iterator[Side]:
    """Run MinIO, and a registry over it."""
    with s3_server(folder) as server:
        bucket, client = server.make_bucket().name, server.client()

        def clear() -> None:
            for found in client.list_objects(bucket, recursive=True):
                client.remove_object(bucket, str(found.object_name))

        environment = {
            "PENSTOCK_BLOB_URL": f"s3://{bucket}?endpoint={server.endpoint}&public_endpoint={server.endpoint}"
            f"&region={server.region}",
            "PENSTOCK_BLOB_ACCESS_KEY": server.access_key,
            "PENSTOCK_BLOB_SECRET_KEY": server.secret_key,
        }
        bare = Bare(
            "minio client",
            put=lambda source: client.fput_object(bucket, BARE_OBJECT, str(source)),
            get=lambda target: client.fget_object(bucket, BARE_OBJECT, str(target)),
            clear=clear,
        )
        with running_registry(folder, environment) as registry:
            yield Side(registry, bare)


@contextmanager
def on_files(folder: Path) -> Iterator[Side]:
    """Run a registry over a folder."""
    blobs, copied = folder / "blobs", folder / "copied"

    def clear() -> None:
        for blob in (*blobs.rglob("*"), copied):
            if blob.is_file():
                blob.unlink()

    bare = Bare(
        "cp",
        put=lambda source: copy(source, copied, sync=True),
        get=lambda target: copy(copied, target, sync=False),
        clear=clear,
    )
    with running_registry(folder, {"PENSTOCK_BLOB_URL": f"file://{blobs}"}) as registry:
        yield Side(registry, bare)


STORES: Mapping[str, Callable[[Path], AbstractContextManager[Side]]] = {"S3": on_s3, "files": on_files}


def copy(source: Path, target: Path, *, sync: bool) -> None:
    """Copy as a person would; `sync` until it is on the disk."""
    subprocess.run(["cp", "--reflink=never", source, target], check=True)
    if sync:
        handle = os.open(target, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def measure(side: Side, source: Path, rounds: int) -> dict[tuple[str, str], list[Turn]]:
    """Take turns: uploads first, then downloads. The first of each is a warm-up, which counts for memory alone."""
    uploads = interleave(UPLOADS, lambda how: side.upload(source, how), rounds + 1)
    # Every upload cleared what was there before: bring back one of each for the downloads.
    target = source.with_name("downloaded")
    side.upload(source, "declared")
    side.bare.put(source)
    downloads = interleave(side.ways_down, lambda how: side.download(target, how), rounds + 1)
    if target.read_bytes() != source.read_bytes():
        raise SystemExit("what was downloaded is not what was uploaded")
    target.unlink()
    taken = {("upload", how): turns for how, turns in uploads.items()}
    return taken | {("download", how): turns for how, turns in downloads.items()}


def rows_of(store: str, bare: str, mib: int, taken: Mapping[tuple[str, str], Sequence[Turn]]) -> Iterator[list[str]]:
    """Write one store's rows: medians over the rounds, ratios within each, the registry's largest growth."""
    for (direction, how), (warm_up, *turns) in taken.items():
        base = [1 / turn.seconds for turn in taken[direction, "bare"][1:]]
        ratio = Ratio.of([1 / turn.seconds for turn in turns], base)
        grown_mib = max(turn.grown_bytes for turn in (warm_up, *turns)) / MEBIBYTE
        yield [
            store,
            direction,
            {"bare": bare, "registry": "registry, streamed", "url": "SDK, signed URL"}.get(how, f"registry, {how}"),
            f"{mib / statistics.median(turn.seconds for turn in turns):,.0f}",
            f"{ratio.median:.2f}",
            f"{ratio.low:.2f}, {ratio.high:.2f}",
            f"{1024 / mib * statistics.median(turn.cpu_s for turn in turns):.2f}",
            "" if how == "bare" else f"{1024 / mib * statistics.median(turn.registry_cpu_s for turn in turns):.2f}",
            "" if how == "bare" else f"{grown_mib:.0f}",
        ]


HEADINGS = ("blobs", "direction", "through", "MiB/s", "ratio", "low, high", "CPU s/GiB", "registry", "grows by MiB")


def main() -> None:
    """Measure, and show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="the file's size in MiB")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side, after one to warm up")
    parser.add_argument("--stores", nargs="+", choices=STORES, default=list(STORES))
    options = parser.parse_args()
    if "S3" in options.stores and find_minio() is None:
        raise SystemExit("no MinIO was found: .ci/minio builds one where Go is, and PENSTOCK_TEST_MINIO names one")
    table = Table(*HEADINGS, title=f"{options.mib} MiB, {options.rounds} rounds")
    for store in options.stores:
        with tempfile.TemporaryDirectory(prefix="penstock-transfer-") as name:
            folder = Path(name)
            folder.chmod(0o711)  # as root, PostgreSQL's own user passes through
            source = folder / "model.onnx"
            write_random(source, options.mib)
            with STORES[store](folder) as side:
                for row in rows_of(store, side.bare.name, options.mib, measure(side, source, options.rounds)):
                    table.add_row(*row)
    console.print(table)
    for fact, value in surroundings().items():
        console.print(f"{fact}: {value}")


if __name__ == "__main__":
    main()
