"""The parts of a multipart upload, each with the checksum that the server holds it to."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

from services.common.blobs.flow import Chunk

CHECKED: Final = {"x-amz-checksum-algorithm": "CRC32"}


@dataclass(frozen=True, slots=True)
class SentPart:
    """A part that the server has: its number from 1, its etag, and its CRC-32 in base64."""

    number: int
    etag: str
    checksum: str


def checksum(body: Chunk) -> str:
    """Give the CRC-32 of a part as S3 wants it: four bytes, the highest first, in base64."""
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


def completion(parts: Iterable[SentPart]) -> bytes:
    """Write the order to make the parts one object; minio's own knows no checksums."""
    order = Element("CompleteMultipartUpload")
    for part in parts:
        tag = SubElement(order, "Part")
        SubElement(tag, "PartNumber").text = str(part.number)
        SubElement(tag, "ETag").text = f'"{part.etag}"'
        SubElement(tag, "ChecksumCRC32").text = part.checksum
    return tostring(order)
