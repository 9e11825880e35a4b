"""Listing, finding and following versions in a registry that holds 200,000: 100 models of 1,000, and one of 100,000.

The registry and its PostgreSQL run in processes of their own, on unpinned cores; one client asks over gRPC, one call at
a time, in a warm state: what is measured is a call's whole way. Calls take turns, so that a machine that is busy for a
while disturbs them alike. Run it by `.venv/bin/python -m benchmarks registry`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.catalogue import LARGE, Size, fill, version_name
from benchmarks.contenders.registry import RunningRegistry, running_registry
from benchmarks.harness import interleave, surroundings
from examples.models.small import identity
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.registry.v1.registry_pb2_grpc import RegistryServiceStub

CALL_TIMEOUT_S, SNAPSHOT_TIMEOUT_S = 60.0, 600.0
MEBIBYTE = 1024 * 1024
Call = Callable[[], int]
"""Makes one call; gives how many items came."""
console = Console()
if not console.is_terminal:
    console = Console(width=120)  # the table's own; a pipe has none


class Caller:
    """Asks a registry."""

    def __init__(self, stub: RegistryServiceStub) -> None:
        self._stub = stub

    def models(self, *, pages: int = 0, page_size: int = 50) -> Call:
        """List a page of models after so many others; -1: the last one."""
        request = pb.ListModelsRequest(page_size=page_size)
        ask: Callable[[], Any] = lambda: self._stub.ListModels(request, timeout=CALL_TIMEOUT_S)  # noqa: E731 - asked again
        _turn_pages(ask, request, pages)
        return lambda: len(ask().models)

    def versions(self, *, pages: int = 0, page_size: int = 50, **filters: Any) -> Call:
        """List a page of versions after so many others; -1: the last one."""
        request = pb.ListVersionsRequest(page_size=page_size, **filters)
        ask: Callable[[], Any] = lambda: self._stub.ListVersions(request, timeout=CALL_TIMEOUT_S)  # noqa: E731 - asked again
        _turn_pages(ask, request, pages)
        return lambda: len(ask().versions)

    def resolve(self, selector: str) -> Call:
        """Find a version of the large model."""
        request = pb.ResolveVersionRequest(model=LARGE, selector=selector)
        return lambda: bool(self._stub.ResolveVersion(request, timeout=CALL_TIMEOUT_S).version.version)

    def snapshot(self) -> int:
        """Follow all models until the snapshot is complete."""
        events = self._stub.WatchModels(pb.WatchModelsRequest(), timeout=SNAPSHOT_TIMEOUT_S)
        count = 0
        for event in events:
            count += len(event.snapshot.versions)
            if event.snapshot.complete:
                break
        events.cancel()
        return count


def _turn_pages(ask: Callable[[], Any], request: Any, pages: int) -> None:
    """Leave in the request the token of the page that comes after so many."""
    while pages and (token := ask().next_page_token):
        request.page_token = token
        pages -= 1


def calls(caller: Caller, size: Size) -> dict[str, Call]:
    """Everything that is asked, by what the table calls it."""
    half = version_name(size.versions_of_large // 2)
    deep = size.versions_of_large // 2 // 1000
    return {
        "ListModels, first page": caller.models(),
        "ListModels, last page": caller.models(pages=-1),
        "ListVersions of the large model, first page": caller.versions(model=LARGE),
        "… page of 1,000": caller.versions(page_size=1000, model=LARGE),
        "… page of 1,000 in the middle": caller.versions(page_size=1000, pages=deep, model=LARGE),
        "… last page of 1,000": caller.versions(page_size=1000, pages=-1, model=LARGE),
        "… of a stage (1 %)": caller.versions(stage=pb.STAGE_STAGING, model=LARGE),
        "… of a framework (10 %)": caller.versions(framework=pb.FRAMEWORK_TENSORFLOW, model=LARGE),
        "… with a label (5 %)": caller.versions(labels={"team": "team-7"}, model=LARGE),
        "… by a rare word": caller.versions(query="777", model=LARGE),
        "… by a word that all have": caller.versions(query="batch", model=LARGE),
        "… by a word that none has": caller.versions(query="nowhere", model=LARGE),
        "ListVersions of all models, first page": caller.versions(),
        "… in PRODUCTION": caller.versions(stage=pb.STAGE_PRODUCTION),
        "… with a label, a stage and a word": caller.versions(
            labels={"team": "team-10"}, stage=pb.STAGE_STAGING, query="batch"
        ),
        "ResolveVersion, exact": caller.resolve(half),
        "… by stage": caller.resolve("production"),
        "… by alias": caller.resolve("stable"),
        "… latest": caller.resolve("latest"),
        "… default": caller.resolve(""),
    }


def prepare(registry: RunningRegistry, size: Size) -> None:
    """Fill the database, then let the registry itself promote a version of each model and set an alias."""
    registry.client.registry.register_version(LARGE, version_name(1), identity(), framework="onnx")
    began = time.monotonic()
    fill(registry.database_url, size)
    for model in registry.client.registry.list_models():
        registry.client.registry.promote(
            model.name, version_name(50), "production", approved_by="the benchmark", note="to be found"
        )
    registry.client.registry.set_alias(LARGE, "stable", version_name(50))
    console.print(f"filled in {time.monotonic() - began:.0f} s")


def timed(call: Call) -> tuple[float, int]:
    began = time.perf_counter()
    count = call()
    return (time.perf_counter() - began) * 1000, count


def rows_of(asked: dict[str, Call], rounds: int) -> list[Sequence[str]]:
    """Let the calls take turns; medians and tails in ms."""
    interleave(tuple(asked), lambda name: asked[name](), 3)  # warms up
    taken = interleave(tuple(asked), lambda name: timed(asked[name]), rounds)
    rows: list[Sequence[str]] = []
    for name, turns in taken.items():
        p50_ms, p95_ms = np.percentile([ms for ms, _ in turns], [50, 95])
        rows.append((name, f"{turns[0][1]:,}", f"{p50_ms:.1f}", f"{p95_ms:.1f}"))
    return rows


def watch(registry: RunningRegistry, caller: Caller, rounds: int) -> Sequence[str]:
    """Take whole snapshots, and see what they cost."""
    taken: list[tuple[float, int]] = []
    grown_bytes = [registry.memory_growth_bytes(lambda: taken.append(timed(caller.snapshot))) for _ in range(rounds)]
    seconds = np.median([ms for ms, _ in taken]) / 1000
    return (
        f"WatchModels: a snapshot of {taken[0][1]:,} versions in {seconds:.1f} s",
        f"the registry grew by at most {max(grown_bytes) / MEBIBYTE:.0f} MiB",
    )


def main() -> None:
    """Measure, and show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="how often each call is made")
    parser.add_argument("--snapshots", type=int, default=3, help="how many whole snapshots are taken")
    parser.add_argument("--versions", type=int, default=100_000, help="versions of the large model, at least 1,000")
    options = parser.parse_args()
    size = Size(versions_of_large=options.versions)
    with tempfile.TemporaryDirectory(prefix="penstock-registry-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # as root, PostgreSQL's own user passes through
        with running_registry(folder, {"PENSTOCK_BLOB_URL": f"file://{folder}/blobs"}) as registry:
            prepare(registry, size)
            with grpc.insecure_channel(registry.address, [("grpc.max_receive_message_length", -1)]) as channel:
                caller = Caller(RegistryServiceStub(channel))
                table = Table("call", "items", "p50 ms", "p95 ms", title=f"{options.rounds} rounds")
                for row in rows_of(calls(caller, size), options.rounds):
                    table.add_row(*row)
                console.print(table)
                for sentence in watch(registry, caller, options.snapshots):
                    console.print(sentence)
    for fact, value in surroundings().items():
        console.print(f"{fact}: {value}")


if __name__ == "__main__":
    main()
