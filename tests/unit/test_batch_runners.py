"""Those that lend no thread, while the engine's own are all busy: whom they stop, and what they hear."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import numpy as np

from services.common.errors import Cancelled, DeadlineExceeded
from services.inference.engine.engine import Engine, EngineLimits, InferenceAnswer, InferenceRequest
from services.inference.runtimes.runtime import Session
from services.inference.sessions.sessions import SessionCache
from tests.batching import FREE, ToldSession, value_of
from tests.serving import Versions, plain_version, wait_until

WITHIN_S = 60


class Doubler(ToldSession):
    """Waits to be told, for as many runs at once as come."""

    max_parallel_runs = 8


class Models:
    """An engine over models that run as they are told, each with as many instances as it likes."""

    def __init__(self, *names: str, runners: int) -> None:
        versions = {name: replace(plain_version(name), signature=FREE, rows_independent=False) for name in names}
        self.versions = versions
        self.sessions = {name: Doubler() for name in names}
        self.cache = SessionCache(self._load)
        self.engine = Engine(Versions(*versions.values()), self.cache, EngineLimits(runners=runners))

    def _load(self, version: Any, resources: ExitStack) -> Session:
        return self.sessions[version.model]

    def request(self, model: str, value: float, **more: Any) -> InferenceRequest:
        x = np.full((1, 2), value, np.float32)
        return InferenceRequest(model, "", {"x": x}, resolved=self.versions[model], **more)

    def submit(self, model: str, value: float = 1.0, **more: Any) -> SimpleQueue[InferenceAnswer]:
        answers: SimpleQueue[InferenceAnswer] = SimpleQueue()
        self.engine.submit(self.request(model, value, **more), answers.put)
        return answers

    def busy(self, model: str, runs: int) -> None:
        wait_until(lambda: len(self.sessions[model].runs) == runs)


@contextmanager
def serving(*names: str, runners: int) -> Iterator[Models]:
    models = Models(*names, runners=runners)
    try:
        yield models
    finally:
        for session in models.sessions.values():
            session.go_on()
        wait_until(lambda: all(each.in_flight == 0 for each in models.engine.statistics()))
        wait_until(lambda: (models.engine._runners._free, models.engine._runners._lanes) == (runners, {}))
        models.cache.close(60)


def test_slow_runs_of_one_model_leave_half_of_the_runners_to_the_others() -> None:
    with serving("slow", "quick", runners=4) as models:
        for _ in range(6):
            models.submit("slow")
        models.busy("slow", 2)
        models.sessions["quick"].go_on()
        answers = [models.submit("quick", value) for value in (1, 2)]
        assert [value_of(each.get(timeout=WITHIN_S)) for each in answers] == [2, 4]
        assert len(models.sessions["slow"].runs) == 2


def exhausted(models: Models) -> None:
    """Have slow runs hold all runners."""
    for name in ("slow", "slower"):
        models.submit(name)
        models.busy(name, 1)


def test_a_caller_that_lends_its_thread_goes_before_those_that_wait_for_a_runner() -> None:
    with serving("slow", "slower", "quick", runners=2) as models, ThreadPoolExecutor(4) as pool:
        exhausted(models)
        waiting = models.submit("quick", 1)
        # The model is idle: whoever brings a thread leads at once.
        asked = [pool.submit(models.engine.infer, models.request("quick", 2))]
        models.busy("quick", 1)
        # And when it hands the lead on, those that brought one come first.
        models.sessions["quick"].max_parallel_runs = 1
        asked += [pool.submit(models.engine.infer, models.request("quick", value)) for value in (3, 4)]
        models.sessions["quick"].go_on()
        assert [value_of(each.result(WITHIN_S)) for each in asked] == [4, 6, 8]
        assert waiting.empty()
        models.sessions["slow"].go_on()
        assert value_of(waiting.get(timeout=WITHIN_S)) == 2


def test_one_that_waits_for_a_runner_hears_of_its_deadline_and_of_a_cancel() -> None:
    with serving("slow", "slower", "quick", runners=2) as models:
        exhausted(models)
        patient = models.submit("quick", 1)
        late = [models.submit("quick", 2, timeout_ns=10**6 * number) for number in (1, 30)]
        for each in late:
            assert isinstance(each.get(timeout=WITHIN_S).error, DeadlineExceeded)
        heard: list[InferenceAnswer] = []
        gone = models.request("quick", 3)
        models.engine.submit(gone, heard.append)
        gone.cancel()
        assert isinstance(heard[0].error, Cancelled)
        assert patient.empty()
        models.sessions["quick"].go_on()
        models.sessions["slower"].go_on()
        assert value_of(patient.get(timeout=WITHIN_S)) == 2
        assert models.sessions["quick"].sizes == [1]


def test_one_that_is_left_behind_by_a_caller_hears_of_its_deadline_too() -> None:
    with serving("slow", "slower", "quick", runners=2) as models, ThreadPoolExecutor(1) as pool:
        exhausted(models)
        models.sessions["quick"].max_parallel_runs = 1
        asked = pool.submit(models.engine.infer, models.request("quick", 1))
        models.busy("quick", 1)
        late = models.submit("quick", 2, deadline_ns=time.monotonic_ns() + 50 * 10**6)
        models.sessions["quick"].go_on()
        assert value_of(asked.result(WITHIN_S)) == 2
        assert isinstance(late.get(timeout=WITHIN_S).error, DeadlineExceeded)
