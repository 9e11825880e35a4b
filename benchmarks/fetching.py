"""A large file through the fetcher into its blob store, against curl and against the bare minio client.

All ask the same server on loopback, which sends by sendfile from the page cache. On a folder the other side is
`curl -o` into the same file system: by itself, with an fsync in the end, since the fetcher makes one of each part, and
through sha256sum as well, since the fetcher hashes all of it. On S3 it is minio's `put_object` of the same stream. The
fetcher's time is that from the request to the file being whole, hashed and noted in PostgreSQL; it asks a registry
beforehand whether it has the model, and is stopped as it begins to register it. Sides take turns on unpinned cores;
each turn brings another file, and what was written before is synced first.
Run it by `.venv/bin/python -m benchmarks fetching --mib 1024`; `--mib 5120 --rounds 1` shows the memory of 5 GiB.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import urllib3
from minio import Minio
from rich.console import Console
from rich.table import Table

from benchmarks.contenders.fetcher import RunningFetcher, running_fetcher
from benchmarks.contenders.registry import running_registry
from benchmarks.harness import Ratio, cpu_seconds, interleave, memory_growth_bytes, running, surroundings, wait_until
from benchmarks.transfer import stamp, write_random
from penstock.cli.embedded.ports import free_port
from tests.s3 import find_minio, s3_server

MEBIBYTE = 1024 * 1024
NAME = "model.onnx"
CURL = ("curl", "--silent", "--show-error", "--fail")
console = Console()
if not console.is_terminal:
    console = Console(width=120)  # the table's own; a pipe has none


@dataclass(frozen=True, slots=True)
class Turn:
    """One fetch. `cpu_s` and `grown_bytes`: the fetcher's, 0 of others."""

    seconds: float
    cpu_s: float = 0.0
    grown_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A fetcher over one kind of blob store, and the ways past it, by name."""

    fetcher: RunningFetcher
    others: Mapping[str, Callable[[str], object]]
    clear: Callable[[], None]

    def take(self, how: str, source: Path, url: str) -> Turn:
        """Bring a file that is like none before."""
        self.clear()
        self.fetcher.forget()
        stamp(source)
        os.sync()
        if how == "fetcher":
            return self._fetched(url)
        began = time.perf_counter()
        self.others[how](url)
        return Turn(time.perf_counter() - began)

    def _fetched(self, url: str) -> Turn:
        taken: list[float] = []
        cpu_s = cpu_seconds(self.fetcher.pid)
        grown_bytes = memory_growth_bytes(self.fetcher.pid, lambda: taken.append(self.fetcher.fetch(url)))
        return Turn(taken[0], cpu_seconds(self.fetcher.pid) - cpu_s, grown_bytes)


@contextmanager
def on_files(folder: Path, settings: Mapping[str, str]) -> Iterator[Place]:
    """Run a fetcher over a folder."""
    blobs, target = folder / "blobs", folder / "curled"

    def clear() -> None:
        for path in (*blobs.rglob("*"), target):
            if path.is_file():
                path.unlink()

    def curl(url: str) -> None:
        subprocess.run([*CURL, "-o", target, url], check=True)

    def curl_and_sync(url: str) -> None:
        curl(url)
        sync(target)

    def curl_hash_and_sync(url: str) -> None:
        pipeline = '"$@" | tee "$0" | sha256sum --binary'
        subprocess.run(["sh", "-c", pipeline, target, *CURL, url], check=True, stdout=subprocess.DEVNULL)
        sync(target)

    others = {"curl": curl, "curl, fsync": curl_and_sync, "curl, sha256sum, fsync": curl_hash_and_sync}
    with running_fetcher(folder, {**settings, "PENSTOCK_BLOB_URL": f"file://{blobs}"}) as fetcher:
        yield Place(fetcher, others, clear)


@contextmanager
def on_s3(folder: Path, settings: Mapping[str, str]) -> Iterator[Place]:
    """Run MinIO, and a fetcher over it."""
    with s3_server(folder) as server:
        bucket, client = server.make_bucket().name, server.client()

        def clear() -> None:
            for found in client.list_objects(bucket, recursive=True):
                client.remove_object(bucket, str(found.object_name))

        environment = {
            **settings,
            "PENSTOCK_BLOB_URL": f"s3://{bucket}?endpoint={server.endpoint}&region={server.region}",
            "PENSTOCK_BLOB_ACCESS_KEY": server.access_key,
            "PENSTOCK_BLOB_SECRET_KEY": server.secret_key,
        }
        with running_fetcher(folder, environment) as fetcher:
            yield Place(fetcher, {"minio client": lambda url: put(client, bucket, url)}, clear)


STORES: Mapping[str, Callable[[Path, Mapping[str, str]], AbstractContextManager[Place]]] = {
    "files": on_files,
    "S3": on_s3,
}


def sync(path: Path) -> None:
    """Have a file on the disk."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def put(client: Minio, bucket: str, url: str) -> None:
    """Put what a URL gives, as the client's documentation does."""
    with urllib3.PoolManager() as pool:
        response = pool.request("GET", url, preload_content=False)
        client.put_object(bucket, "bare", response, int(response.headers["Content-Length"]))  # type: ignore[arg-type]
        response.release_conn()


def measure(place: Place, source: Path, url: str, rounds: int) -> dict[str, list[Turn]]:
    """Take turns; the first of each is a warm-up, which counts for memory alone."""
    look = ["curl", "--silent", "--fail", "--range", "0-0", "-o", os.devnull, url]
    wait_until(lambda: subprocess.run(look, check=False).returncode == 0, "the origin does not answer")
    return interleave(("fetcher", *place.others), lambda how: place.take(how, source, url), rounds + 1)


def rows_of(store: str, mib: int, taken: Mapping[str, Sequence[Turn]]) -> Iterator[list[str]]:
    """Write one store's rows: medians over the rounds, and within each round how the fetcher compares."""
    _, *fetched = taken["fetcher"]
    for how, (warm_up, *turns) in taken.items():
        ratio = Ratio.of([1 / turn.seconds for turn in fetched], [1 / turn.seconds for turn in turns])
        own = how == "fetcher"
        yield [
            store,
            how,
            f"{mib / statistics.median(turn.seconds for turn in turns):,.0f}",
            "" if own else f"{ratio.median:.2f}",
            "" if own else f"{ratio.low:.2f}, {ratio.high:.2f}",
            f"{1024 / mib * statistics.median(turn.cpu_s for turn in turns):.2f}" if own else "",
            f"{max(turn.grown_bytes for turn in (warm_up, *turns)) / MEBIBYTE:.0f}" if own else "",
        ]


HEADINGS = ("blobs", "through", "MiB/s", "the fetcher to it", "low, high", "CPU s/GiB", "grows by MiB")


def main() -> None:
    """Measure, and show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="the file's size in MiB")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side, after one to warm up")
    parser.add_argument("--connections", type=int, default=4, help="of the fetcher at once")
    parser.add_argument("--stores", nargs="+", choices=STORES, default=list(STORES))
    parser.add_argument("--folder", help="where all of it lies, on whichever disk; by default the system's for such")
    options = parser.parse_args()
    if "S3" in options.stores and find_minio() is None:
        raise SystemExit("no MinIO was found: .ci/minio builds one where Go is, and PENSTOCK_TEST_MINIO names one")
    table = Table(*HEADINGS, title=f"{options.mib} MiB, {options.rounds} rounds, {options.connections} connections")
    for store in options.stores:
        with tempfile.TemporaryDirectory(prefix="penstock-fetching-", dir=options.folder) as name:
            folder, port = Path(name), free_port()
            folder.chmod(0o711)  # as root, PostgreSQL's own user passes through
            served, beside = folder / "served", folder / "registry"
            served.mkdir()
            beside.mkdir()
            write_random(served / NAME, options.mib)
            origin = [sys.executable, "-m", "benchmarks.contenders.origin", str(served), str(port)]
            with (
                running(origin, os.environ, folder / "origin.log"),
                running_registry(beside, {"PENSTOCK_BLOB_URL": f"file://{beside}/blobs"}) as registry,
                STORES[store](
                    folder,
                    {
                        "PENSTOCK_REGISTRY_ADDRESS": registry.address,
                        "PENSTOCK_FETCHER_CONNECTIONS": str(options.connections),
                    },
                ) as place,
            ):
                taken = measure(place, served / NAME, f"http://127.0.0.1:{port}/{NAME}", options.rounds)
            for row in rows_of(store, options.mib, taken):
                table.add_row(*row)
    console.print(table)
    for fact, value in surroundings().items():
        console.print(f"{fact}: {value}")


if __name__ == "__main__":
    main()
