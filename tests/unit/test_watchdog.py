from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from services.inference.engine.engine import Engine, InferenceRequest
from services.inference.models import ModelFailed
from services.inference.sessions.caches import SessionCaches
from services.inference.sessions.sessions import SessionCache
from services.inference.sessions.watchdog import RunWatchdog
from tests.serving import BlobShelf, Versions, onnx_loader, wait_until
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
    sessions.close(60)


def test_a_run_that_does_not_heed_its_end_is_reported_as_stuck_for_as_long_as_it_goes_on() -> None:
    class Deaf:
        """Sessions with one run that began long ago and never ends, until it does."""

        running = True

        def terminate_runs(self, *, longer_than_s: float) -> int:
            return int(self.running)

    sessions = Deaf()
    watchdog = RunWatchdog(sessions, run_limit_s=0.01)  # type: ignore[arg-type]
    watchdog.open()
    wait_until(lambda: watchdog.stuck == 1)
    sessions.running = False
    wait_until(lambda: watchdog.stuck == 0)
    watchdog.close()


def test_a_run_that_was_ended_in_time_is_not_stuck(tmp_path: Path) -> None:
    asked: list[float] = []

    class Heeding:
        def terminate_runs(self, *, longer_than_s: float) -> int:
            asked.append(longer_than_s)
            return int(longer_than_s < 0.02)

    watchdog = RunWatchdog(Heeding(), run_limit_s=0.01)  # type: ignore[arg-type]
    watchdog.open()
    wait_until(lambda: len(asked) >= 2)
    watchdog.close()
    assert set(asked) == {0.01, 0.02}
    assert watchdog.stuck == 0


def test_a_run_that_is_old_at_first_sight_is_given_time_to_heed_its_end() -> None:
    """As all runs of a process are that was stopped for a while: it must not be replaced for that."""
    looks = iter([(1, 1), (0, 0), (1, 1), (1, 1)])
    stuck: list[int] = []
    done = threading.Event()

    class Paused:
        late = (0, 0)

        def terminate_runs(self, *, longer_than_s: float) -> int:
            if longer_than_s == 0.01:
                stuck.append(watchdog.stuck)
                self.late = next(looks, self.late)
                if len(stuck) > 4:
                    done.set()
            return self.late[longer_than_s > 0.01]

    watchdog = RunWatchdog(Paused(), run_limit_s=0.01)  # type: ignore[arg-type]
    watchdog.open()
    assert done.wait(60)
    watchdog.close()
    assert stuck[:5] == [0, 0, 0, 0, 1]
    assert watchdog.terminated == 2, "a run that goes on is counted once"
