"""The digest under which an answer is kept: the same for the same question to the same bytes, and for no other."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

from services.inference.models import ResolvedVersion
from services.inference.tensors import Tensor, datatype_of, to_raw

DIGEST_BYTES: Final = 32
MAX_VERSIONS: Final = 10_000
_LENGTH: Final = struct.Struct("<Q")


class RequestDigests:
    """Digests requests. What is the same for all requests of a version is digested once."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[ResolvedVersion, Any]] = {}

    def digest(self, version: ResolvedVersion, inputs: Mapping[str, Tensor], outputs: tuple[str, ...]) -> bytes:
        """Digest a question: the version and its files, the outputs wanted in their order, the inputs in any.

        Numbers are taken by their bytes: 0.0 and -0.0 are two questions, and so are two NaNs of other bits. A text is
        its UTF-8 bytes. Raises InvalidArgument (UNSUPPORTED_DATATYPE) for an array that is no tensor.
        """
        begun = self._begun.get(version.key)
        if begun is None or begun[0] is not version:
            begun = self._begin(version)
        hasher = begun[1].copy()
        hasher.update(_LENGTH.pack(len(outputs)))
        for name in outputs:
            _add(hasher, name.encode())
        for name in sorted(inputs):
            tensor = inputs[name]
            _add(hasher, name.encode())
            _add(hasher, datatype_of(tensor).encode())
            _add(hasher, struct.pack(f"<{tensor.ndim}Q", *tensor.shape))
            _add(hasher, to_raw(tensor))
        digest: bytes = hasher.digest()
        return digest

    def _begin(self, version: ResolvedVersion) -> tuple[ResolvedVersion, Any]:
        if len(self._begun) >= MAX_VERSIONS:
            self._begun.clear()
        hasher = blake2b(digest_size=DIGEST_BYTES, person=b"penstock answer")
        metadata = version.metadata
        fields = json.dumps(metadata.fields, sort_keys=True, default=str)
        for part in (version.key, version.digest, version.framework, metadata.task_type, fields):
            _add(hasher, part.encode())
        begun = self._begun[version.key] = (version, hasher)
        return begun


def _add(hasher: Any, part: bytes) -> None:
    """Add a part with its length in front, so that no two questions run together into one."""
    hasher.update(_LENGTH.pack(len(part)))
    hasher.update(part)
