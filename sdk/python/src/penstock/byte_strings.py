"""Byte strings in a row, as BYTES tensors travel: each with its length before it, 4 bytes, little-endian."""

from __future__ import annotations

import struct
from collections.abc import Iterable

_LENGTH = struct.Struct("<I")


class MalformedByteStrings(ValueError):
    """The bytes are not so many byte strings; the sentence says where they end. `left_over`: there are more."""

    def __init__(self, sentence: str, *, left_over: bool = False) -> None:
        super().__init__(sentence)
        self.left_over = left_over


def join(elements: Iterable[bytes]) -> bytes:
    """Write each element after its length."""
    parts: list[bytes] = []
    for element in elements:
        parts += (_LENGTH.pack(len(element)), element)
    return b"".join(parts)


def split(raw: bytes | bytearray | memoryview, count: int) -> list[bytes]:
    """Cut `count` elements; nothing is allocated for elements that are not there. Raises MalformedByteStrings."""
    size = len(raw)
    if count * _LENGTH.size > size:
        raise MalformedByteStrings(f"{size} raw bytes came; {count} elements take at least {count * _LENGTH.size}")
    elements: list[bytes] = []
    position = 0
    for index in range(count):
        start = position + _LENGTH.size
        if start > size:
            raise MalformedByteStrings(f"the bytes end inside the length of element {index} of {count}")
        position = start + _LENGTH.unpack_from(raw, start - _LENGTH.size)[0]
        if position > size:
            raise MalformedByteStrings(f"element {index} is {position - start} bytes long, and {size - start} are left")
        elements.append(bytes(raw[start:position]))
    if position != size:
        sentence = f"{size - position} bytes are left over after {count} elements"
        raise MalformedByteStrings(sentence, left_over=True)
    return elements
