"""Archives from strangers: what comes out of good ones, and how bad ones are refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.common.archives import ArchiveLimits, entries, without_top_folder
from services.common.errors import InvalidArgument

MIB = 1024 * 1024
LIMITS = ArchiveLimits(max_bytes=8 * MIB, max_entries=100)
FILES = {"saved_model.pb": b"graph" * 1000, "variables/variables.index": b"i", "variables/data": bytes(3 * MIB)}
REASONS = {"ARCHIVE_UNREADABLE", "ARCHIVE_UNSAFE", "ARCHIVE_TOO_LARGE"}


def unpacked(archive: bytes, limits: ArchiveLimits = LIMITS) -> dict[str, bytes]:
    return {entry.path: b"".join(entry.chunks) for entry in entries(io.BytesIO(archive), "model.zip", limits=limits)}


def reason_of(archive: bytes, limits: ArchiveLimits = LIMITS) -> str:
    with pytest.raises(InvalidArgument) as caught:
        unpacked(archive, limits)
    assert len(caught.value.message) < 1_000
    return caught.value.reason


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return out.getvalue()


def tarred(files: Mapping[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002 -- tarfile names it so
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def tar_of(kind: bytes, name: str = "model.onnx", **more: object) -> bytes:
    """A tar of one entry of a kind, and a good one behind it."""
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in more.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + tarred({"good": b"x"})


PACKERS: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {
    "zip": zipped,
    "stored zip": lambda files: zipped(files, zipfile.ZIP_STORED),
    "tar": tarred,
    "GNU tar": lambda files: tarred(files, tarfile.GNU_FORMAT),
    "ustar": lambda files: tarred(files, tarfile.USTAR_FORMAT),
    "tar.gz": lambda files: gzip.compress(tarred(files)),
    "tar.bz2": lambda files: bz2.compress(tarred(files)),
    "tar.xz": lambda files: lzma.compress(tarred(files)),
}


@pytest.fixture(params=PACKERS)
def pack(request: pytest.FixtureRequest) -> Callable[[Mapping[str, bytes]], bytes]:
    return PACKERS[request.param]


def test_what_was_packed_comes_out(pack: Callable[[Mapping[str, bytes]], bytes]) -> None:
    assert unpacked(pack(FILES)) == FILES


def test_entries_that_are_not_read_are_skipped(pack: Callable[[Mapping[str, bytes]], bytes]) -> None:
    found = [entry.path for entry in entries(io.BytesIO(pack(FILES)), "model", LIMITS)]
    assert found == list(FILES)


def test_long_and_foreign_names_come_out(pack: Callable[[Mapping[str, bytes]], bytes]) -> None:
    files = {"a/" + "n" * 90: b"1", "größe/模型.onnx": b"2", "./below/here": b"3"}
    assert unpacked(pack(files)) == {path.removeprefix("./"): content for path, content in files.items()}


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_that_need_an_extended_header_come_out(format: int) -> None:  # noqa: A002 -- tarfile names it so
    files = {f"{'folder/' * 50}{number}": bytes([number]) for number in range(3)}
    assert unpacked(tarred(files, format)) == files


def test_folders_and_what_macos_adds_are_left_out(pack: Callable[[Mapping[str, bytes]], bytes]) -> None:
    noise = {"__MACOSX/model/._a": b"1", "model/.DS_Store": b"2", "model/._a": b"3"}
    assert unpacked(pack({**noise, "model/a": b"4", "model/.hidden": b"5"})) == {"model/a": b"4", "model/.hidden": b"5"}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path in (".", "./model", "model/empty/"):
            info = tarfile.TarInfo(path)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
    assert unpacked(out.getvalue()) == {}
    assert unpacked(zipped({"model/": b"", "model/empty/": b""})) == {}


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["m/a", "m/b/c"], ["a", "b/c"]),
        (["m/n/a", "m/n/b"], ["n/a", "n/b"]),
        (["m/a", "b"], ["m/a", "b"]),
        (["m/a", "n/b"], ["m/a", "n/b"]),
        (["a"], ["a"]),
        ([], []),
    ],
)
def test_one_folder_around_everything_is_taken_off(paths: list[str], expected: list[str]) -> None:
    assert without_top_folder(paths) == dict(zip(paths, expected, strict=True))


@pytest.mark.parametrize(
    "path",
    [
        "../up",
        "a/../../up",
        "a/..",
        "/etc/passwd",
        "//host/share",
        "C:/windows",
        "c:file",
        "a\\b",
        "..\\up",
        "a//b",
        "a/./b",
        "bell\x07",
        "line\nend",
        "n" * 513,
        "../__MACOSX/x",
        "__MACOSX/../../x",
        "/.DS_Store",
    ],
)
def test_a_path_that_leads_out_is_refused(pack: Callable[[Mapping[str, bytes]], bytes], path: str) -> None:
    if path.startswith("n") and pack is PACKERS["ustar"]:
        return  # it knows no such names
    assert reason_of(pack({"good": b"x", path: b"x"})) == "ARCHIVE_UNSAFE"


def test_a_folder_that_leads_out_is_refused() -> None:
    assert reason_of(zipped({"../up/": b""})) == "ARCHIVE_UNSAFE"
    assert reason_of(tar_of(tarfile.DIRTYPE, "../up/")) == "ARCHIVE_UNSAFE"


@pytest.mark.parametrize(
    "archive",
    [
        tar_of(tarfile.SYMTYPE, linkname="/etc/passwd"),
        tar_of(tarfile.LNKTYPE, linkname="good"),
        tar_of(tarfile.CHRTYPE, devmajor=1, devminor=3),
        tar_of(tarfile.BLKTYPE),
        tar_of(tarfile.FIFOTYPE),
        tar_of(tarfile.GNUTYPE_SPARSE),
        tar_of(b"V"),
        tar_of(b"M"),
        tar_of(b"\xff"),
        tar_of(tarfile.DIRTYPE, size=10),
        tar_of(tarfile.REGTYPE, "\udcff"),
    ],
)
def test_what_is_no_plain_file_in_a_tar_is_refused(archive: bytes) -> None:
    assert reason_of(archive) == "ARCHIVE_UNSAFE"


@pytest.mark.parametrize("key", ["GNU.sparse.major", "GNU.sparse.map", "GNU.sparse.realsize"])
def test_a_sparse_file_of_pax_is_refused(key: str) -> None:
    info = tarfile.TarInfo("model.onnx")
    info.pax_headers = {key: "1"}
    assert reason_of(info.tobuf(tarfile.PAX_FORMAT) + bytes(1024)) == "ARCHIVE_UNSAFE"


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR])
@pytest.mark.parametrize("system", [0, 3])
def test_what_is_no_plain_file_in_a_zip_is_refused(mode: int, system: int) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("model.onnx")
        info.create_system, info.external_attr = system, (mode | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert reason_of(out.getvalue()) == "ARCHIVE_UNSAFE"


class TestTooLarge:
    def test_by_what_comes_out(self, pack: Callable[[Mapping[str, bytes]], bytes]) -> None:
        assert reason_of(pack({"a": bytes(5 * MIB), "b": bytes(5 * MIB)})) == "ARCHIVE_TOO_LARGE"

    def test_by_its_entries(self, pack: Callable[[Mapping[str, bytes]], bytes]) -> None:
        archive = pack({str(number): b"" for number in range(101)})
        assert reason_of(archive) == "ARCHIVE_TOO_LARGE"
        assert len(unpacked(archive, ArchiveLimits(MIB, max_entries=101))) == 101

    @pytest.mark.slow
    def test_a_hundred_thousand_entries(self) -> None:
        archive = zipped({str(number): b"" for number in range(100_000)})
        assert reason_of(archive, ArchiveLimits(1024 * MIB, max_entries=10_000)) == "ARCHIVE_TOO_LARGE"

    @pytest.mark.parametrize("name", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
    def test_by_its_ratio(self, name: str) -> None:
        archive = PACKERS[name]({"bomb": bytes(66 * MIB)})
        assert reason_of(archive, ArchiveLimits(1024 * MIB)) == "ARCHIVE_TOO_LARGE"

    def test_by_zeros_behind_its_end(self) -> None:
        assert reason_of(gzip.compress(tarred({"a": b"x"}) + bytes(9 * MIB))) == "ARCHIVE_TOO_LARGE"

    def test_by_empty_streams_one_behind_the_other(self) -> None:
        assert reason_of(gzip.compress(b"") * 3_000) == "ARCHIVE_TOO_LARGE"

    @pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE])
    def test_by_an_extended_header(self, kind: bytes) -> None:
        tracemalloc.start()
        archive = gzip.compress(tar_of(kind, size=5 * 1024 * MIB) + bytes(60 * MIB))
        tracemalloc.reset_peak()
        assert reason_of(archive, ArchiveLimits(10 * 1024 * MIB)) == "ARCHIVE_TOO_LARGE"
        assert tracemalloc.get_traced_memory()[1] - len(archive) < 8 * MIB
        tracemalloc.stop()

    def test_by_entries_that_share_their_bytes(self) -> None:
        """The bomb of one kernel that every entry points at; and one that lies inside another."""
        archive = bytearray(zipped({"a": bytes(MIB), "b": b"x"}))
        second = archive.rindex(b"PK\1\2")
        struct.pack_into("<L", archive, second + 42, 0)
        assert reason_of(bytes(archive)) == "ARCHIVE_UNSAFE"
        struct.pack_into("<L", archive, second + 42, 31)
        assert reason_of(bytes(archive)) == "ARCHIVE_UNSAFE"


class TestUnreadable:
    @pytest.mark.parametrize(
        "archive", [b"", b"model", bytes(1024), gzip.compress(b"one file", mtime=0), b"PK\3\4", b"\x1f\x8b"]
    )
    def test_what_is_none(self, archive: bytes) -> None:
        assert reason_of(archive) == "ARCHIVE_UNREADABLE"

    def test_cut_short_anywhere(self, pack: Callable[[Mapping[str, bytes]], bytes]) -> None:
        archive = pack({"a": b"x" * 600, "b": b"y" * 600})
        whole = len(archive) if archive.startswith((b"PK", b"\x1f", b"BZ", b"\xfd")) else 2 * (512 + 1024)
        for length in range(0, whole, 7):
            assert reason_of(archive[:length]) == "ARCHIVE_UNREADABLE"

    def test_something_before_or_behind_it(self, pack: Callable[[Mapping[str, bytes]], bytes]) -> None:
        archive = pack({"a": b"x"})
        assert reason_of(archive + b"behind") == "ARCHIVE_UNREADABLE"
        assert reason_of(archive + archive) == "ARCHIVE_UNREADABLE"
        assert reason_of(b"#!/bin/sh\n" + archive) == "ARCHIVE_UNREADABLE"
        assert reason_of(b"PK\3\4" + archive) == "ARCHIVE_UNREADABLE"

    def test_a_zip_whose_end_stands_in_another_one_s_comment(self) -> None:
        inner, out = zipped({"inner": b"x"}), io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("outer", b"y")
            archive.comment = inner
        assert reason_of(out.getvalue()) == "ARCHIVE_UNREADABLE"

    def test_a_wrong_checksum(self) -> None:
        archive = bytearray(zipped({"a": b"content"}, zipfile.ZIP_STORED))
        archive[archive.index(b"content")] ^= 1
        assert reason_of(bytes(archive)) == "ARCHIVE_UNREADABLE"
        compressed = bytearray(gzip.compress(tarred({"a": b"x"})))
        compressed[-5] ^= 1
        assert reason_of(bytes(compressed)) == "ARCHIVE_UNREADABLE"

    def test_an_entry_that_is_longer_than_it_says(self) -> None:
        archive = bytearray(zipped({"a": b"content", "b": b"x"}))
        first = archive.index(b"PK\1\2")
        struct.pack_into("<L", archive, first + 24, 3)
        assert reason_of(bytes(archive)) == "ARCHIVE_UNREADABLE"

    def test_an_entry_of_two_names(self) -> None:
        archive = zipped({"good": b"x"}).replace(b"good", b"evil", 1)
        assert reason_of(archive) == "ARCHIVE_UNREADABLE"

    def test_an_encrypted_one_and_one_of_an_unusual_method(self) -> None:
        archive = bytearray(zipped({"a": b"content"}))
        archive[archive.index(b"PK\1\2") + 8] |= 1
        assert reason_of(bytes(archive)) == "ARCHIVE_UNREADABLE"
        for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            assert reason_of(zipped({"a": b"content"}, method)) == "ARCHIVE_UNREADABLE"

    @pytest.mark.parametrize("count", [0, 1, 3, 60_000])
    def test_a_directory_that_lies_about_its_entries(self, count: int) -> None:
        archive = bytearray(zipped({"a": b"1", "b": b"2"}))
        struct.pack_into("<HH", archive, len(archive) - 14, count, count)
        assert reason_of(bytes(archive), ArchiveLimits(MIB)) in {"ARCHIVE_UNREADABLE", "ARCHIVE_TOO_LARGE"}

    def test_a_zip64_directory_that_lies(self) -> None:
        archive = bytearray(zipped({"a": b"1"}))
        end = len(archive) - 22
        size_bytes, offset = struct.unpack_from("<LL", archive, end + 12)
        for count, size, start in ((2**40, size_bytes, offset), (1, 2**40, offset), (1, size_bytes, 2**60)):
            record = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
            locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
            forged = bytes(archive[:end]) + record + locator + bytes(archive[end:])
            assert reason_of(forged) in {"ARCHIVE_UNREADABLE", "ARCHIVE_TOO_LARGE"}

    def test_xz_that_asks_for_much_memory(self) -> None:
        filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1024 * MIB}]
        assert reason_of(lzma.compress(tarred({"a": b"x"}), filters=filters)) == "ARCHIVE_UNREADABLE"

    def test_extended_headers_without_end(self) -> None:
        header = tarfile.TarInfo("x")
        header.type = tarfile.XHDTYPE
        archive = header.tobuf() * 2_000 + tarred({"a": b"x"})
        assert reason_of(archive) == "ARCHIVE_UNREADABLE"

    @pytest.mark.parametrize("record", [b"1000 path=x\n", b"x path=x\n", b"11 path=xyz", b"4 a\n", b"0 a=b\n", b"path"])
    def test_a_damaged_pax_header(self, record: bytes) -> None:
        header = tarfile.TarInfo("x")
        header.type, header.size = tarfile.XHDTYPE, len(record)
        archive = header.tobuf() + record.ljust(512, b"\0") + tarred({"a": b"x"})
        assert reason_of(archive) == "ARCHIVE_UNREADABLE"


GOOD = {name: pack({"a/model.onnx": b"graph" * 50, "a/weights.bin": bytes(700)}) for name, pack in PACKERS.items()}


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good archive with some bytes changed, and a piece of it cut out or doubled."""
    archive = bytearray(draw(st.sampled_from(sorted(GOOD.values()))))
    for _ in range(draw(st.integers(0, 6))):
        archive[draw(st.integers(0, len(archive) - 1))] = draw(st.integers(0, 255))
    begin, end = sorted(draw(st.tuples(st.integers(0, len(archive)), st.integers(0, len(archive)))))
    piece = bytes(archive[begin:end])
    change = draw(st.sampled_from(["none", "cut", "double"]))
    if change == "cut":
        del archive[begin:end]
    elif change == "double":
        archive[end:end] = piece
    return bytes(archive)


@settings(max_examples=400, deadline=None)
@given(st.one_of(mutated(), st.binary(max_size=600)))
@example(GOOD["zip"][:-1])
def test_whatever_comes_it_is_taken_apart_or_refused(archive: bytes) -> None:
    try:
        found = unpacked(archive)
    except InvalidArgument as refusal:
        assert refusal.reason in REASONS  # noqa: PT017 -- either way is right
    else:
        assert all(path and not path.startswith("/") and ".." not in path.split("/") for path in found)


def test_a_recompressed_tar_of_random_headers_is_taken_apart_or_refused() -> None:
    """Beneath the checksums, where a mutation of compressed bytes hardly ever reaches."""
    dice = random.Random(7)
    for _ in range(300):
        tar = bytearray(tarred({"a": b"x" * 300, "b" * 120: b"y"}))
        for _ in range(dice.randint(1, 4)):
            tar[dice.randrange(len(tar))] = dice.randrange(256)
        for block in range(0, len(tar), 512):  # a header that no longer adds up is refused at once, so they add up
            header = tar[block : block + 512]
            if header[257:262] == b"ustar":
                header[148:156] = b" " * 8
                tar[block + 148 : block + 156] = b"%06o\0 " % sum(header)
        try:
            unpacked(gzip.compress(bytes(tar), 1))
        except InvalidArgument as refusal:
            assert refusal.reason in REASONS  # noqa: PT017 -- either way is right
