"""The follower, with a registry that says what the test wants it to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.api.registry.v1.registry_pb2 import ModelVersion, WatchModelsResponse
from penstock.errors import OutOfRange, Unavailable
from services.inference.following.catalog import Catalog
from services.inference.following.follower import CatalogTaker, Follower
from services.inference.following.takeovers import Takeovers
from services.inference.models import ResolvedVersion
from tests.serving import wait_until

Script = list[WatchModelsResponse | Exception]


class ScriptedWatch:
    """A registry whose watches send, one after the other, what was written for them; then silence."""

    def __init__(self, *scripts: Script) -> None:
        self.asked: list[tuple[int, str]] = []
        self._scripts = list(scripts)
        self._closed = threading.Event()

    def watch(self, after_revision: int, *, epoch: str) -> Iterator[WatchModelsResponse]:
        """Send the next script."""
        self.asked.append((after_revision, epoch))
        for message in self._scripts.pop(0) if self._scripts else ():
            if isinstance(message, Exception):
                raise message
            yield message
        self._closed.wait(60)
        raise Unavailable("closed", reason="CLOSED", retryable=True)

    def close(self) -> None:
        """End the silence."""
        self._closed.set()


def part(revision: int, *names: str, complete: bool = False, epoch: str = "e") -> WatchModelsResponse:
    message = WatchModelsResponse(revision=revision, epoch=epoch)
    message.snapshot.versions.extend(ModelVersion(model=name, version="1") for name in names)
    message.snapshot.complete = complete
    return message


def change(revision: int, *, deleted: str, epoch: str = "e") -> WatchModelsResponse:
    message = WatchModelsResponse(revision=revision, epoch=epoch)
    message.change.versions.add(model=deleted, version="1").delete_time.GetCurrentTime()
    return message


def broken() -> Unavailable:
    return Unavailable("cut", reason="CUT", retryable=True)


def nothing(_before: ResolvedVersion, _now: ResolvedVersion | None = None) -> None:
    """Nothing is loaded here."""


class Following:
    """A follower of a scripted registry, and what it knows."""

    def __init__(self, folder: Path, *scripts: Script) -> None:
        self.client = ScriptedWatch(*scripts)
        self.catalog = Catalog()
        taker = CatalogTaker(Takeovers(self.catalog, nothing, nothing))
        self.follower = Follower(self.client, taker, folder)

    def __enter__(self) -> Following:
        self.follower.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.follower.close()

    def knows(self, *names: str) -> None:
        """Wait until exactly these models are known."""
        wait_until(lambda: self.catalog.heard and set(self.catalog.models()) == set(names))

    def asks(self, *asked: tuple[int, str]) -> None:
        """Wait until the watches began so."""
        wait_until(lambda: self.client.asked == list(asked))


def test_a_snapshot_that_broke_off_leaves_nothing_in_the_next(tmp_path: Path) -> None:
    """What came of the first may have been deleted since."""
    first: Script = [part(5, "deleted-since", "kept"), broken()]
    with Following(tmp_path, first, [part(6, "kept"), part(6, "new", complete=True)]) as following:
        following.knows("kept", "new")
        following.asks((0, ""), (0, ""))


def test_it_goes_on_after_the_last_revision_of_the_same_epoch(tmp_path: Path) -> None:
    first: Script = [part(5, "a", "b", complete=True), change(6, deleted="a"), broken()]
    with Following(tmp_path, first) as following:
        following.asks((0, ""), (6, "e"))
        following.knows("b")
    with Following(tmp_path) as following:  # from disk
        following.asks((6, "e"))
        following.knows("b")


def test_what_was_deleted_takes_nothing_of_its_name_along(tmp_path: Path) -> None:
    """A FAILED version was deleted, and one that bore its name before was restored, in changes that came together."""
    both = WatchModelsResponse(revision=6, epoch="e")
    both.change.versions.add(model="a", version="1", deployment_number=1)
    both.change.versions.add(model="a", version="1", deployment_number=2).delete_time.GetCurrentTime()
    with Following(tmp_path, [part(5, "b", complete=True), both, broken()]) as following:
        following.asks((0, ""), (6, "e"))
        following.knows("a", "b")
    with Following(tmp_path) as following:  # from disk
        following.knows("a", "b")


@pytest.mark.parametrize("reason", ["EPOCH_CHANGED", "REVISION_COMPACTED"])
def test_it_begins_anew_and_serves_what_it_knew_until_the_new_snapshot_is_whole(tmp_path: Path, reason: str) -> None:
    first: Script = [part(5, "a", "b", complete=True), OutOfRange("begin anew", reason=reason)]
    again: Script = [part(2, "c", epoch="f"), broken()]
    with Following(tmp_path, first, again) as following:
        following.asks((0, ""), (0, ""), (0, ""))
        following.knows("a", "b")
    with Following(tmp_path, [OutOfRange("begin anew", reason=reason), part(9)]) as following:
        following.asks((5, "e"), (0, ""))  # what is on disk is still the whole truth of before
        following.knows("a", "b")
    with Following(tmp_path, [part(3, "c", complete=True, epoch="f")]) as following:
        following.knows("c")
    with Following(tmp_path) as following:
        following.asks((3, "f"))
        following.knows("c")


def test_a_snapshot_on_disk_without_an_epoch_is_served_and_taken_anew(tmp_path: Path) -> None:
    with Following(tmp_path, [part(5, "a", complete=True, epoch="")]) as following:
        following.knows("a")
    with Following(tmp_path) as following:
        following.asks((0, ""))
        following.knows("a")
