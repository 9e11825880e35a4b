"""The bytes of a source's flow, as tests look at them."""

from __future__ import annotations

from collections.abc import Iterator

from services.fetcher.sources.source import Flow


def pieces(flow: Flow, size: int = 64 * 1024) -> Iterator[bytes]:
    """Give what comes, as it comes, up to the end."""
    buffer = memoryview(bytearray(size))
    while count := flow.readinto(buffer):
        yield bytes(buffer[:count])


def all_of(flow: Flow) -> bytes:
    """Give all that comes."""
    return b"".join(pieces(flow))
