"""The runs before the first request: a model's first run is often its slowest, and may be the one that fails."""

from __future__ import annotations

import math
import time

import numpy as np
import structlog

from services.common.errors import DomainError, FailedPrecondition
from services.inference.models import ResolvedVersion, TensorSpec, WarmUp
from services.inference.runtimes.runtime import Session
from services.inference.tensors import Tensor, dtype_of

_log = structlog.get_logger(__name__)
TEXT = b"warm up"
CONVERSATION = b'[{"role": "user", "content": "warm up"}]'
MAX_BYTES = 256 * 2**20
"""Of the tensors of one request: no message brings more, and they are made at once."""


def warm_up(version: ResolvedVersion, session: Session) -> None:
    """Run what the version's settings ask for; raises FailedPrecondition(WARM_UP_FAILED) with the model's own words."""
    for number, each in enumerate(version.serving.warm_up, start=1):
        feed = {**each.tensors, **_made(version, each)}
        began = time.monotonic()
        for _ in range(each.repeat_count):
            try:
                session.run(feed)
            except DomainError as error:
                sentence = f"warm-up request {number} of {len(version.serving.warm_up)} failed: {error.message}"
                raise FailedPrecondition(sentence, reason="WARM_UP_FAILED") from error
        _log.info("warmed up", version=version.key, request=number, seconds=round(time.monotonic() - began, 3))


def _made(version: ResolvedVersion, each: WarmUp) -> dict[str, Tensor]:
    """Make the inputs that were left out; raises FailedPrecondition(WARM_UP_FAILED) where that takes too much."""
    left_out = [spec for spec in version.signature.inputs if spec.name not in each.tensors]
    shapes = {spec.name: _shape(spec, each) for spec in left_out}
    size_bytes = sum(
        math.prod(shapes[spec.name]) * dtype_of(spec.name, spec.datatype).itemsize  # of texts, what points to them
        for spec in left_out
    )
    if size_bytes > MAX_BYTES:
        raise FailedPrecondition(
            f"a warm-up request of {each.row_count} rows takes {size_bytes:,} bytes, and at most {MAX_BYTES:,} are "
            "made: ask for fewer rows, or give its tensors",
            reason="WARM_UP_FAILED",
        )
    chat = version.ollama is not None and version.ollama.mode == "chat"
    return {spec.name: _filled(spec, shapes[spec.name], CONVERSATION if chat else TEXT) for spec in left_out}


def _shape(spec: TensorSpec, each: WarmUp) -> list[int]:
    """Give as many rows as wanted where they are free, and 1 for each other free size."""
    return [size if size >= 0 else each.row_count if axis == 0 else 1 for axis, size in enumerate(spec.shape)]


def _filled(spec: TensorSpec, shape: list[int], text: bytes) -> Tensor:
    if spec.datatype == "BYTES":
        texts = np.empty(shape, dtype=object)
        texts.fill(text)
        return texts
    return np.zeros(shape, dtype_of(spec.name, spec.datatype))
