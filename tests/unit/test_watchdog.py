from __future__ import annotations

from pathlib import Path

import numpy as np

from services.inference.engine.engine import Engine, InferenceRequest
from services.inference.models import ModelFailed
from services.inference.sessions.caches import SessionCaches
from services.inference.sessions.sessions import SessionCache
from services.inference.sessions.watchdog import RunWatchdog
from tests.serving import BlobShelf, Versions, onnx_loader
from tests.testdata import models


def test_a_run_that_hangs_is_ended_and_its_caller_answered(tmp_path: Path) -> None:
    shelf = BlobShelf()
    sessions = SessionCaches({"onnx": SessionCache(onnx_loader(shelf, tmp_path))})
    engine = Engine(Versions(shelf.version({"model.onnx": models.unending()})), sessions)
    watchdog = RunWatchdog(sessions, run_limit_s=0.05)
    watchdog.open()
    answer = engine.infer(InferenceRequest("iris", "", {"x": np.ones((1, 4), np.float32)}))
    watchdog.close()
    assert isinstance(answer.error, ModelFailed)
    assert answer.error.reason == "RUN_TERMINATED"
    assert watchdog.terminated >= 1
    sessions.close(10)
