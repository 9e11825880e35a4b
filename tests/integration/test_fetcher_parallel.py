"""Several parts and files at once over connections that stay open: order, memory, ends, and what is kept."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from mmap import mmap
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import DomainError
from services.common.jobs import Stopped, StopReason
from services.fetcher.downloading import lines
from services.fetcher.downloading.assembly import Assembly
from services.fetcher.downloading.ending import Ending
from services.fetcher.downloading.lines import Lines
from services.fetcher.faults import DigestMismatch, NetworkError, StorageError
from services.fetcher.models import Part
from services.fetcher.sources.source import Stopping
from services.fetcher.store.downloads import DownloadStore
from tests.bringing import COUNT, PART, Bench, bringing, sha256_of
from tests.ranges import Answer, Asked, empty
from tests.registry import wait_until

pytestmark = pytest.mark.slow
CloneDatabase = Callable[[str], str]


@pytest.fixture
def bench(clone_database: CloneDatabase, tmp_path: Path) -> Iterator[Bench]:
    with bringing(clone_database("fetcher"), tmp_path) as made:
        yield made


def test_parts_come_at_once_over_connections_that_stay_open(bench: Bench) -> None:
    content = os.urandom(COUNT * PART + 9)
    four = threading.Barrier(4, timeout=60)

    def script(asked: Asked, answer: Answer) -> Answer:
        if 1 <= asked.number <= 4:
            four.wait()  # passed by four that are asked for at once, and by no fewer
        return answer

    file = bench.find(bench.ranges.serve("/model.onnx", content, script))
    assert bench.bring(bench.claim(), file) == [sha256_of(content)]
    assert sorted(bench.ranges.begins("/model.onnx")) == [number * PART for number in range(COUNT + 1)]
    assert len({asked.connection for asked in bench.ranges.asked["/model.onnx"][1:]}) == 4
    assert all(asked.headers["If-Range"] == '"one"' for asked in bench.ranges.asked["/model.onnx"][1:])
    assert bench.parts() == list(range(COUNT + 1))


def test_parts_that_come_last_to_first_are_one_file_in_order(bench: Bench) -> None:
    content = os.urandom(4 * PART)
    came = [threading.Event() for _ in range(5)]
    came[4].set()

    def script(asked: Asked, answer: Answer) -> Answer:
        if asked.number:
            assert came[asked.begin // PART + 1].wait(60)
            noted = asked.begin // PART
            bench.blobs.after_put = lambda: came[noted].set()
        return answer

    file = bench.find(bench.ranges.serve("/model.onnx", content, script))
    assert bench.bring(bench.claim(), file) == [sha256_of(content)]


def test_no_more_parts_are_in_memory_than_connections_and_two_while_the_store_is_slow(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(4 * COUNT * PART)
    go_on, full, held, most, lock = threading.Event(), threading.Event(), [0], [0], threading.Lock()
    has_room, give_back = Lines._has_room, Lines.give_back

    def looking(lines: Lines) -> bool:
        if not has_room(lines):
            full.set()
            return False
        with lock:
            held[0] += 1
            most[0] = max(most[0], held[0])
        return True

    def hold() -> None:
        go_on.wait(60)

    def giving_back(lines: Lines, buffer: mmap) -> None:
        with lock:
            held[0] -= 1
        give_back(lines, buffer)

    monkeypatch.setattr(Lines, "_has_room", looking)
    monkeypatch.setattr(Lines, "give_back", giving_back)
    bench.blobs.before_put = hold
    file = bench.find(bench.ranges.serve("/model.onnx", content))
    with ThreadPoolExecutor(1) as pool:
        brought = pool.submit(bench.bring, bench.claim(), file)
        wait_until(lambda: full.is_set() or most[0] == 4 * COUNT or None)
        go_on.set()
    assert brought.result() == [sha256_of(content)]
    assert most[0] == 4 + 2


def test_a_part_that_is_late_holds_up_no_other(bench: Bench) -> None:
    content = os.urandom(4 * COUNT * PART)
    others = threading.Event()
    stored = [0]

    def after() -> None:
        stored[0] += 1
        if stored[0] == 4 * COUNT - 1:
            others.set()

    def script(asked: Asked, answer: Answer) -> Answer:
        if asked.number and asked.begin == 0:
            assert others.wait(60), "all others come before the first, in the memory of six parts"
        return answer

    bench.blobs.after_put = after
    file = bench.find(bench.ranges.serve("/model.onnx", content, script))
    assert bench.bring(bench.claim(), file) == [sha256_of(content)]


def test_a_part_that_is_written_and_hashed_leaves_its_memory_to_others_before_it_is_noted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, here = os.urandom(COUNT * PART), list[int]()
    go_on, note = threading.Event(), DownloadStore.put

    def noting(*args: Any) -> None:
        assert go_on.wait(60)
        note(*args)

    monkeypatch.setattr(DownloadStore, "put", noting)
    file = bench.find(bench.ranges.serve("/model.onnx", content))
    with ThreadPoolExecutor(1) as pool:
        brought = pool.submit(bench.bring, bench.claim(), file, connections=1, told=here.append)
        wait_until(lambda: here[-1:] == [5 * PART] or None)  # two that are to be noted, and three in memory
        assert bench.parts() == []
        go_on.set()
    assert brought.result() == [sha256_of(content)]


def test_who_waits_for_memory_is_woken_once_the_digest_waits_for_a_late_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_LOOK_S", 600)  # by what happens alone
    waits = threading.Event()
    with Lines(1) as shared, ThreadPoolExecutor(2) as pool:
        ending = Ending(Stopping())

        def store(number: int, content: memoryview, _taken: Callable[[], None]) -> Part:
            return Part(number, sha256_of(bytes(content)), len(content))

        assembly = Assembly(shared, ending, (), 5, store=store, read=lambda part: [bytes(part.size_bytes)])
        with shared.holder(assembly):
            for number in (1, 2, 3):
                assembly.add(number, shared.take(1, ending.stopping), 1)
            wait_until(lambda: len(assembly.parts) == 3 or None)
            late = pool.submit(shared.take, 1, Stopping(check=waits.set))
            assert waits.wait(60)  # told in the lock, which is let go where it waits
            digest = pool.submit(assembly.digest)
            assembly.add(0, late.result(60), 1)
            assembly.add(4, shared.take(1, ending.stopping), 1)
            assert digest.result(60) == sha256_of(bytes(5))
            assembly.settle()


def test_parts_of_another_size_are_gone_on_with(bench: Bench) -> None:
    content = os.urandom(COUNT * PART + 5)

    def script(asked: Asked, answer: Answer) -> Answer:
        return empty(500) if asked.begin >= 3 * PART else answer

    file = bench.find(bench.ranges.serve("/model.onnx", content, script))
    run = bench.claim()
    with pytest.raises(NetworkError):
        bench.bring(run, file, connections=2)
    noted = bench.parts()
    bench.ranges.files["/model.onnx"] = content, lambda _, answer: answer
    assert bench.bring(run, file, part_bytes=PART // 2 + 1) == [sha256_of(content)]
    assert bench.parts() == list(range(COUNT + 1)), "in the size that they began with"
    assert set(noted) < set(range(COUNT + 1))


def test_several_small_files_come_at_once(bench: Bench) -> None:
    four = threading.Barrier(4, timeout=60)

    def script(asked: Asked, answer: Answer) -> Answer:
        if asked.number:
            four.wait()
        return answer

    contents = [os.urandom(900 + number) for number in range(8)]
    files = [bench.find(bench.ranges.serve(f"/{n}.json", content, script)) for n, content in enumerate(contents)]
    assert bench.bring(bench.claim(), *files) == [sha256_of(content) for content in contents]


def test_the_same_file_under_two_paths_comes_once(bench: Bench) -> None:
    content = os.urandom(3 * PART)
    file = bench.find(bench.ranges.serve("/layer", content))
    brought = bench.bring(bench.claim(), *(replace(file, path=f"{number}.bin") for number in range(4)))
    assert brought == [sha256_of(content)] * 4
    assert sorted(bench.ranges.begins("/layer")) == [0, PART, 2 * PART]


def test_room_is_needed_once_for_what_a_plan_has_twice(bench: Bench) -> None:
    content = os.urandom(3 * PART)
    file = bench.find(bench.ranges.serve("/layer", content))
    bench.blobs.free = 3 * PART
    assert bench.bring(bench.claim(), file, replace(file, path="again.bin")) == [sha256_of(content)] * 2


def test_a_file_that_fails_ends_the_others_and_what_came_whole_stays(bench: Bench) -> None:
    small = os.urandom(100)
    whole = threading.Event()

    def held(asked: Asked, answer: Answer) -> Answer:
        if asked.number:
            assert whole.wait(60)
            return empty(404)
        return answer

    gone = bench.find(bench.ranges.serve("/gone.bin", os.urandom(3 * PART), held))
    here = bench.find(bench.ranges.serve("/here.json", small))
    bench.blobs.after_put = whole.set
    run = bench.claim()
    with pytest.raises(DomainError, match="nothing is there"):
        bench.bring(run, gone, here)
    asked = len(bench.ranges.asked["/here.json"])
    assert bench.bring(run, here) == [sha256_of(small)]
    assert len(bench.ranges.asked["/here.json"]) <= asked + 1


def test_a_cancelled_run_ends_all_connections_at_once(bench: Bench) -> None:
    content = os.urandom(COUNT * PART)
    four, go_on = threading.Barrier(5, timeout=60), threading.Event()
    outlasted: list[bool] = []

    def script(asked: Asked, answer: Answer) -> Answer:
        if asked.number:
            four.wait()
            outlasted.append(not go_on.wait(60))  # else the source goes on at last
        return answer

    run = bench.claim()
    file = bench.find(bench.ranges.serve("/model.onnx", content, script))

    def cancel() -> None:
        four.wait()
        run.stop(StopReason.CANCELLED)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises((NetworkError, Stopped)):
        bench.bring(run, file)
    assert outlasted == [], "while the source still says nothing"
    go_on.set()
    canceller.join()


@pytest.mark.parametrize("connections", [1, 4])
def test_a_wrong_digest_is_found_whatever_order_the_parts_came_in(bench: Bench, connections: int) -> None:
    content = os.urandom(COUNT * PART)
    file = bench.find(bench.ranges.serve("/model.onnx", content), sha256="0" * 64)
    with pytest.raises(DigestMismatch):
        bench.bring(bench.claim(), file, connections=connections)
    assert bench.parts() == []


def test_a_disk_without_room_for_what_lacks_is_said_before_anything_is_asked_for(bench: Bench) -> None:
    content = os.urandom(COUNT * PART)
    file = bench.find(bench.ranges.serve("/model.onnx", content))
    run = bench.claim()
    bench.blobs.free = COUNT * PART + 99
    with pytest.raises(StorageError, match=r"lacks 1 bytes: 655,459 are free, of which 100 stay so"):
        bench.bring(run, file, reserve_bytes=100)
    assert bench.ranges.begins("/model.onnx") == []
    bench.blobs.free += 1
    assert bench.bring(run, file, reserve_bytes=100) == [sha256_of(content)]
    bench.blobs.free = 100
    assert bench.bring(run, file, reserve_bytes=100) == [sha256_of(content)], "nothing lacks, so no room is needed"
