"""Regions of shared memory: which may be registered, and what can be read and written through them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from services.common.errors import (
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unimplemented,
)
from services.inference.shared_memory import control
from services.inference.shared_memory.control import SharedMemory, open_regions
from services.inference.shared_memory.regions import MAX_REGIONS, Place, Region, Regions
from services.inference.workers.commands import Arguments, Commands, Decision, OneProcess, Reply

LETTERS = b"abcdefghijklmnop"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "letters").write_bytes(LETTERS)
    return tmp_path


@pytest.fixture
def regions(folder: Path) -> Regions:
    return Regions(folder)


def refused(regions: Regions, region: Region) -> str:
    with pytest.raises(DomainError) as caught:
        regions.register(region)
    assert regions.list_regions() == []
    return caught.value.reason


def test_a_place_is_counted_from_the_regions_own_beginning(regions: Regions, folder: Path) -> None:
    regions.register(Region("r", "/letters", 4, 8))
    assert regions.read(Place("r", 0, 8)) == b"efghijkl"
    assert regions.read(Place("r", 6, 2)) == b"kl"
    assert regions.read(Place("r", 8, 0)) == b""
    regions.write(Place("r", 1, 4), b"XYZ")
    assert (folder / "letters").read_bytes() == b"abcdeXYZijklmnop"


@pytest.mark.parametrize(
    "key", ["", "/", ".", "..", "/..", "a/b", "../letters", "/dev/shm/letters", "//letters", "a\0b", "x" * 255]
)
def test_a_key_that_shm_open_would_not_take_is_refused(regions: Regions, key: str) -> None:
    assert refused(regions, Region("r", key, 0, 1)) == "INVALID_FIELD"


@pytest.mark.parametrize("name", ["", "x" * 257])
def test_a_name_that_is_none_is_refused(regions: Regions, name: str) -> None:
    assert refused(regions, Region(name, "letters", 0, 1)) == "INVALID_FIELD"


@pytest.mark.parametrize(("offset", "size"), [(0, 17), (16, 1), (1, 16), (0, 0), (2**64 - 1, 1), (1, 2**64 - 1)])
def test_a_region_that_is_not_within_its_object_is_refused(regions: Regions, offset: int, size: int) -> None:
    assert refused(regions, Region("r", "letters", offset, size)) == "SHARED_MEMORY_TOO_SMALL"


def test_an_object_that_is_missing_is_refused(regions: Regions) -> None:
    assert refused(regions, Region("r", "nowhere", 0, 1)) == "SHARED_MEMORY_OBJECT_NOT_FOUND"


def test_links_folders_and_pipes_are_foreign(regions: Regions, folder: Path) -> None:
    (folder / "link").symlink_to(folder / "letters")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    for key in ("link", "folder", "pipe"):
        assert refused(regions, Region("r", key, 0, 1)) == "SHARED_MEMORY_FOREIGN"


@pytest.mark.parametrize("bit", [stat.S_IWGRP, stat.S_IWOTH])
def test_what_others_may_write_to_is_foreign(regions: Regions, folder: Path, bit: int) -> None:
    (folder / "letters").chmod(0o600 | bit)
    assert refused(regions, Region("r", "letters", 0, 1)) == "SHARED_MEMORY_FOREIGN"


def test_what_another_user_owns_is_foreign(regions: Regions, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert refused(regions, Region("r", "letters", 0, 1)) == "SHARED_MEMORY_FOREIGN"


def test_a_name_stands_for_one_region_and_the_same_again_is_opened_anew(regions: Regions, folder: Path) -> None:
    regions.register(Region("r", "letters", 0, 8))
    with pytest.raises(DomainError) as caught:
        regions.register(Region("r", "letters", 0, 4))
    assert caught.value.reason == "SHARED_MEMORY_REGION_EXISTS"
    (folder / "letters").unlink()
    (folder / "letters").write_bytes(LETTERS.upper())
    assert regions.read(Place("r", 0, 2)) == b"ab"
    regions.register(Region("r", "letters", 0, 8))
    assert regions.read(Place("r", 0, 2)) == b"AB"


def test_there_are_no_more_regions_than_the_limit(regions: Regions) -> None:
    for number in range(MAX_REGIONS):
        regions.register(Region(str(number), "letters", 0, 1))
    with pytest.raises(DomainError) as caught:
        regions.register(Region("more", "letters", 0, 1))
    assert caught.value.reason == "SHARED_MEMORY_REGIONS_FULL"


@pytest.mark.parametrize(("offset", "size"), [(0, 9), (8, 1), (2**63, 1), (1, 2**63)])
def test_a_place_that_is_not_within_its_region_is_refused(regions: Regions, offset: int, size: int) -> None:
    regions.register(Region("r", "letters", 0, 8))
    with pytest.raises(InvalidArgument) as caught:
        regions.read(Place("r", offset, size))
    assert caught.value.reason == "SHARED_MEMORY_OUT_OF_RANGE"


def test_a_place_larger_than_a_tensor_may_be_is_refused_before_it_is_read(folder: Path) -> None:
    os.truncate(folder / "letters", 2**40)  # sparse: it takes no memory, and costs none to register
    regions = Regions(folder, max_place_bytes=8)
    regions.register(Region("r", "letters", 0, 2**40))
    assert regions.read(Place("r", 2**40 - 8, 8)) == bytes(8)
    for use in (regions.read, regions.check, lambda place: regions.write(place, b"")):
        for size in (9, 2**40):
            with pytest.raises(InvalidArgument) as caught:
                use(Place("r", 0, size))
            assert caught.value.reason == "SHARED_MEMORY_TOO_LARGE"


def test_an_unknown_region_is_refused_in_tritons_words(regions: Regions) -> None:
    with pytest.raises(NotFound, match="Unable to find shared memory region: 'r'"):
        regions.check(Place("r", 0, 1))


def test_an_object_that_shrinks_is_an_error_and_no_signal_and_does_not_grow_again(
    regions: Regions, folder: Path
) -> None:
    regions.register(Region("r", "letters", 0, 16))
    os.truncate(folder / "letters", 4)
    for use in (lambda: regions.read(Place("r", 0, 16)), lambda: regions.write(Place("r", 8, 2), b"xy")):
        with pytest.raises(FailedPrecondition) as caught:
            use()
        assert caught.value.reason == "SHARED_MEMORY_SHRUNK"
    assert (folder / "letters").stat().st_size == 4


def test_descriptors_go_with_their_regions(regions: Regions, folder: Path) -> None:
    def count() -> int:
        targets = [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]
        return targets.count(str(folder / "letters"))

    for number in range(20):
        regions.register(Region(str(number), "letters", 0, 1))
    assert count() == 20
    regions.unregister("3")
    regions.unregister("3")
    assert count() == 19
    regions.unregister("")
    assert count() == 0


class Workers:
    """Two workers, of which the second may refuse registrations, or be silent to them."""

    def __init__(self, folder: Path) -> None:
        self.regions = [Regions(folder), Regions(folder)]
        self.commands = [Commands(), Commands()]
        for commands, regions in zip(self.commands, self.regions, strict=True):
            control.add_commands(commands, regions)
        self.failing = self.silent = False

    def send(self, name: str, arguments: Arguments, timeout_s: float) -> list[Reply]:
        heard = self.commands[:1] if self.silent and name == control.REGISTER else self.commands
        replies = [commands.carry_out(name, arguments, worker=place) for place, commands in enumerate(heard)]
        if len(heard) < len(self.commands):
            raise Unavailable("worker 1 did not reply in time", reason="WORKER_SILENT")
        if self.failing and name == control.REGISTER:
            self.regions[1].unregister(arguments["name"])
            replies[1] = Reply(1, {}, Unavailable("too many open files"))
        return replies


def test_a_region_is_registered_with_every_worker_or_with_none(folder: Path) -> None:
    workers = Workers(folder)
    memory = SharedMemory(workers.regions[0], workers)
    memory.register(Region("r", "letters", 0, 8))
    assert [len(each.list_regions()) for each in workers.regions] == [1, 1]
    memory.unregister("")
    workers.failing = True
    with pytest.raises(Unavailable):
        memory.register(Region("r", "letters", 0, 8))
    assert [len(each.list_regions()) for each in workers.regions] == [0, 0]
    workers.failing, workers.silent = False, True
    with pytest.raises(Unavailable) as caught:
        memory.register(Region("r", "letters", 0, 8))
    assert caught.value.reason == "WORKER_SILENT"
    assert [len(each.list_regions()) for each in workers.regions] == [0, 0]


def test_workers_that_come_later_are_told_of_what_is_registered_still(folder: Path) -> None:
    commands = Commands()
    control.add_commands(commands, Regions(folder))
    assert commands.decides(control.REGISTER, {"name": "*"}) == Decision(("shared_memory", "*"))
    assert commands.decides(control.UNREGISTER, {"name": "*"}) == Decision(("shared_memory", "*"), keeps=False)
    assert commands.decides(control.UNREGISTER, {"name": ""}) == Decision(("shared_memory",), keeps=False)


def test_it_is_off_unless_it_is_asked_for_and_only_this_machine_can_call() -> None:
    assert open_regions(enabled=False, loopback=False, max_place_bytes=1) is None
    assert open_regions(enabled=True, loopback=True, max_place_bytes=1) is not None
    with pytest.raises(FailedPrecondition) as caught:
        open_regions(enabled=True, loopback=False, max_place_bytes=1)
    assert caught.value.reason == "SHARED_MEMORY_NOT_LOCAL"


def test_where_it_is_off_everything_says_so() -> None:
    memory = SharedMemory(None, OneProcess(Commands()))
    for use in (
        lambda: memory.register(Region("r", "letters", 0, 8)),
        lambda: memory.unregister(""),
        lambda: memory.list_regions(""),
    ):
        with pytest.raises(Unimplemented) as caught:
            use()
        assert caught.value.reason == "SHARED_MEMORY_NOT_SERVED"
