"""The runs before the first request: a model's first run is often its slowest, and may be the one that fails."""

from __future__ import annotations

import time

import numpy as np
import structlog

from services.common.errors import DomainError, FailedPrecondition
from services.inference.models import ResolvedVersion, TensorSpec, WarmUp
from services.inference.runtimes.runtime import Session
from services.inference.tensors import Tensor, dtype_of

_log = structlog.get_logger(__name__)
TEXT = b"warm up"


def warm_up(version: ResolvedVersion, session: Session) -> None:
    """Run what the version's settings ask for; raises FailedPrecondition(WARM_UP_FAILED) with the model's own words."""
    for number, each in enumerate(version.serving.warm_up, start=1):
        left_out = [spec for spec in version.signature.inputs if spec.name not in each.tensors]
        feed = {**each.tensors, **{spec.name: _zeros(spec, each) for spec in left_out}}
        began = time.monotonic()
        for _ in range(each.repeat_count):
            try:
                session.run(feed)
            except DomainError as error:
                sentence = f"warm-up request {number} of {len(version.serving.warm_up)} failed: {error.message}"
                raise FailedPrecondition(sentence, reason="WARM_UP_FAILED") from error
        _log.info("warmed up", version=version.key, request=number, seconds=round(time.monotonic() - began, 3))


def _zeros(spec: TensorSpec, each: WarmUp) -> Tensor:
    """An input that was left out: as many rows as wanted where they are free, and 1 for each other free size."""
    shape = [size if size >= 0 else each.row_count if axis == 0 else 1 for axis, size in enumerate(spec.shape)]
    if spec.datatype == "BYTES":
        texts = np.empty(shape, dtype=object)
        texts.fill(TEXT)
        return texts
    return np.zeros(shape, dtype_of(spec.name, spec.datatype))
