"""A download read as a file: from anywhere in it, and never a byte of a part that was damaged."""

from __future__ import annotations

import io
import os
from pathlib import Path
from uuid import UUID

import pytest

from penstock.ids import uuid7
from services.common.blobs import BlobReader, FileBlobStore
from services.fetcher.downloading.reading import MOST_PARTS, DownloadDamaged, DownloadReader
from services.fetcher.models import Download, Part

PART = 1_000
CONTENT = os.urandom(5 * PART + 17)


class Counted(FileBlobStore):
    """A folder of blobs that counts how often one is opened."""

    opened = 0

    def open(self, sha256: str, *, offset: int = 0) -> BlobReader:
        self.opened += 1
        return super().open(sha256, offset=offset)


@pytest.fixture
def blobs(tmp_path: Path) -> Counted:
    store = Counted(tmp_path)
    store.prepare()
    return store


@pytest.fixture
def download(blobs: Counted) -> Download:
    pieces = [CONTENT[start : start + PART] for start in range(0, len(CONTENT), PART)]
    stored = [blobs.put([piece], max_bytes=PART) for piece in pieces]
    parts = [Part(number, blob.sha256, blob.size_bytes) for number, blob in enumerate(stored)]
    return Download(UUID(uuid7()), "", len(CONTENT), parts)


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, -1), (0, 1), (PART - 1, 2), (PART, PART), (17, 3 * PART), (len(CONTENT) - 3, 99), (len(CONTENT) + 5, 9)],
)
def test_any_bytes_can_be_read(blobs: Counted, download: Download, offset: int, size: int) -> None:
    with DownloadReader(blobs, download) as reader:
        reader.seek(offset)
        assert reader.read(size) == (CONTENT[offset:] if size < 0 else CONTENT[offset : offset + size])


def test_it_reads_to_its_end_and_back(blobs: Counted, download: Download) -> None:
    with DownloadReader(blobs, download) as reader:
        assert reader.seek(-17, io.SEEK_END) == 5 * PART
        assert (reader.read(), reader.read(), reader.tell()) == (CONTENT[-17:], b"", len(CONTENT))
        assert reader.seek(-len(CONTENT), io.SEEK_CUR) == 0
        assert reader.read() == CONTENT


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_part_is_noticed_wherever_its_reading_begins(
    blobs: Counted, download: Download, tmp_path: Path, damage: str
) -> None:
    sha256 = download.parts[2].address
    blob = tmp_path / sha256[:2] / sha256
    if damage == "gone":
        blob.unlink()
    else:
        blob.write_bytes(CONTENT[2 * PART : 3 * PART - 1] + (b"" if damage == "cut" else b"?"))
    with DownloadReader(blobs, download) as reader:
        reader.seek(PART)
        assert reader.read(PART) == CONTENT[PART : 2 * PART]
        reader.seek(2 * PART + 500)
        with pytest.raises(DownloadDamaged) as damaged:
            reader.read(1)
    assert damaged.value.download is download


def test_who_reads_in_two_places_by_turns_reads_each_part_once(blobs: Counted, download: Download) -> None:
    with DownloadReader(blobs, download) as reader:
        pieces: dict[int, bytes] = {0: b"", 3 * PART: b""}
        for step in range(0, 3 * PART, 100):
            for begin in pieces:
                reader.seek(begin + step)
                pieces[begin] += reader.read(100)
    assert pieces[0] + pieces[3 * PART] == CONTENT
    assert blobs.opened == len(download.parts)


def test_few_parts_are_in_memory_whatever_is_read(blobs: Counted, download: Download) -> None:
    with DownloadReader(blobs, download) as reader:
        for part in range(5):
            reader.seek(part * PART)
            reader.read(1)
            assert len(reader._parts) <= MOST_PARTS
        reader.seek(0)
        reader.read()
        assert not reader._parts, "nor is one that was read to its end"
