"""Protobuf's wire format, for the few messages that are written by hand because so many of them are sent."""

from __future__ import annotations


def varint(number: int) -> bytes:
    """Write a whole number from 0: seven bits a byte, the lowest first."""
    if number < 0x80:
        return bytes((number,))
    written = bytearray()
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def sized(tag: bytes, data: bytes) -> bytes:
    """Write a field of text, bytes or a message; nothing where it is empty, as proto3 has it."""
    return tag + varint(len(data)) + data if data else b""
