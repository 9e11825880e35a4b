"""What six closed sessions leave behind: their memory is the system's again, not the allocator's."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from services.inference.sessions.memory import resident_bytes, trim_memory
from services.inference.sessions.sessions import SessionCache
from tests.serving import BlobShelf, onnx_loader, wait_until
from tests.testdata import models

WIDTH, COUNT = 2048, 6
WEIGHT_BYTES = 4 * WIDTH * WIDTH
pytestmark = pytest.mark.slow


def test_memory_is_given_back_when_sessions_close(tmp_path: Path) -> None:
    shelf = BlobShelf()
    versions = [shelf.version({"model.onnx": models.linear(WIDTH, WIDTH, seed=seed)}) for seed in range(COUNT)]
    cache = SessionCache(onnx_loader(shelf, tmp_path))
    for version in versions:  # whatever a first load keeps for good, and the files from the shelf
        with cache.use(version, 30):
            pass
        cache.unload(version.key)
    wait_until(lambda: cache.used_bytes == 0)
    gc.collect()
    trim_memory()
    before = resident_bytes()
    rows = np.ones((16, WIDTH), np.float32)
    for version in versions:
        with cache.use(version, 30) as session:
            session.run({"x": rows})
    held = resident_bytes() - before
    assert held >= COUNT * WEIGHT_BYTES
    cache.close(30)
    assert cache.used_bytes == 0
    assert resident_bytes() - before < held / 4
