"""Counts of a bucket as bytes: arrays of the least size that their numbers need, compressed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.monitoring.profiles.count import Sample
from services.monitoring.profiles.models import Counts

_DTYPES = tuple(map(np.dtype, ("<u1", "<u2", "<u4", "<i8")))
_LEVEL = 1
_SAMPLE = struct.Struct("<HII?")


def pack_counts(counts: Counts) -> bytes:
    """Pack counts, 0 or more, of any shape; mostly they are small, and many are 0."""
    greatest = int(counts.max(initial=0))
    code = next(code for code, dtype in enumerate(_DTYPES) if greatest <= np.iinfo(dtype).max)
    return bytes([code]) + zlib.compress(counts.astype(_DTYPES[code]).tobytes(), _LEVEL)


def unpack_counts(data: bytes) -> Counts:
    """Unpack counts, flat."""
    return np.frombuffer(zlib.decompress(data[1:]), _DTYPES[data[0]]).astype(np.int64)


def pack_floats(values: NDArray[np.float64]) -> bytes:
    """Pack floats of any shape."""
    return zlib.compress(values.astype("<f8").tobytes(), _LEVEL)


def unpack_floats(data: bytes) -> NDArray[np.float64]:
    """Unpack floats, flat."""
    return np.frombuffer(zlib.decompress(data), "<f8").astype(np.float64)


def pack_samples(samples: Mapping[str, Sample]) -> bytes:
    """Pack samples: for each its name's length, the number of vectors, their length and whether it is whole; then
    name, keys, users and vectors. They are noise, which does not compress."""
    parts = []
    for name, sample in samples.items():
        encoded = name.encode(errors="surrogatepass")
        size, dimensions = sample.vectors.shape
        parts.append(_SAMPLE.pack(len(encoded), size, dimensions, sample.whole))
        parts += [encoded, sample.keys.astype("<u8").tobytes(), sample.users.astype("<u4").tobytes()]
        parts.append(sample.vectors.astype("<f4").tobytes())
    return b"".join(parts)


def unpack_samples(data: bytes) -> dict[str, Sample]:
    """Unpack samples, by name."""
    samples: dict[str, Sample] = {}
    position = 0
    while position < len(data):
        length, size, dimensions, whole = _SAMPLE.unpack_from(data, position)
        position += _SAMPLE.size
        name = data[position : position + length].decode(errors="surrogatepass")
        position += length
        keys: NDArray[Any] = np.frombuffer(data, "<u8", size, position)
        position += keys.nbytes
        users: NDArray[Any] = np.frombuffer(data, "<u4", size, position)
        position += users.nbytes
        vectors: NDArray[Any] = np.frombuffer(data, "<f4", size * dimensions, position)
        position += vectors.nbytes
        samples[name] = Sample(keys, vectors.reshape(size, dimensions), users, whole)
    return samples
