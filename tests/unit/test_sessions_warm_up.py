from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

from services.common.errors import FailedPrecondition
from services.inference.models import ModelFailed, ResolvedVersion, ServingSettings, Signature, TensorSpec, WarmUp
from services.inference.sessions.sessions import SessionCache
from services.inference.tensors import Tensor
from tests.serving import PlainSession, plain_version, wait_until

WORDS = Signature(
    (TensorSpec("text", "BYTES", (-1, -1)), TensorSpec("ids", "INT64", (-1, -1, 3)), TensorSpec("k", "FP32", (2,))), ()
)


class WarmSession(PlainSession):
    """Notes what it was run with; `failure` is raised, `gate` holds runs back until they are terminated."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[dict[str, Tensor]] = []
        self.failure: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str] = ()) -> dict[str, Tensor]:
        """Run."""
        self.runs.append(dict(inputs))
        assert self.gate.wait(60)
        if self.failure is not None:
            raise self.failure
        return {}

    def terminate(self, *, longer_than_s: float = 0.0) -> int:
        """End the run."""
        self.failure = ModelFailed("the run took too long and was ended", reason="RUN_TERMINATED")
        self.gate.set()
        return 1


@pytest.fixture
def session() -> WarmSession:
    return WarmSession()


@pytest.fixture
def cache(session: WarmSession) -> Iterator[SessionCache]:
    def load(version: ResolvedVersion, resources: ExitStack) -> WarmSession:
        resources.callback(session.close)
        return session

    cache = SessionCache(load)
    yield cache
    session.gate.set()
    cache.close(60)


def warmed(*requests: WarmUp, signature: Signature = WORDS) -> ResolvedVersion:
    return replace(plain_version("words"), signature=signature, serving=ServingSettings(warm_up=requests))


def test_what_is_left_out_is_zeros_and_texts_of_the_signatures_shape(cache: SessionCache, session: WarmSession) -> None:
    with cache.use(warmed(WarmUp(row_count=5)), 60):
        (inputs,) = session.runs
    assert inputs["text"].shape == (5, 1)
    assert set(inputs["text"].ravel()) == {b"warm up"}
    assert inputs["ids"].shape == (5, 1, 3)
    assert inputs["ids"].dtype == np.int64
    assert inputs["k"].shape == (2,)
    assert not inputs["ids"].any()


def test_given_tensors_are_used_and_repeated_in_order(cache: SessionCache, session: WarmSession) -> None:
    ids = np.ones((1, 2, 3), np.int64)
    with cache.use(warmed(WarmUp({"ids": ids}, repeat_count=2), WarmUp()), 60):
        assert [run["ids"].any() for run in session.runs] == [True, True, False]


def test_nobody_has_the_session_before_it_is_warm(cache: SessionCache, session: WarmSession) -> None:
    session.gate.clear()
    version = warmed(WarmUp())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.acquire, version, 60)
        wait_until(lambda: len(session.runs) == 1)
        assert not cache.is_loaded(version.key)
        assert not waiting.done()
        session.gate.set()
        cache.release(waiting.result(60))
    assert cache.is_loaded(version.key)


def test_a_warm_up_that_fails_is_said_in_the_models_words_and_gives_everything_back(
    cache: SessionCache, session: WarmSession
) -> None:
    session.failure = ModelFailed("the model failed: Gather index out of range")
    version = warmed(WarmUp(), WarmUp())
    with pytest.raises(FailedPrecondition, match="warm-up request 1 of 2 failed: the model failed: Gather") as caught:
        cache.acquire(version, 60)
    assert caught.value.reason == "WARM_UP_FAILED"
    assert session.closed.is_set()
    assert not cache.is_loaded(version.key)
    with pytest.raises(FailedPrecondition):
        cache.acquire(version, 60)
    assert len(session.runs) == 1, "it is remembered"


def test_a_warm_up_that_hangs_is_ended_as_any_run(cache: SessionCache, session: WarmSession) -> None:
    session.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.acquire, warmed(WarmUp()), 60)
        wait_until(lambda: len(session.runs) == 1)
        assert cache.terminate_runs(longer_than_s=0) == 1
        with pytest.raises(FailedPrecondition, match="took too long") as caught:
            waiting.result(60)
    assert caught.value.reason == "WARM_UP_FAILED"


def test_a_warm_up_that_takes_too_much_memory_is_refused_before_it_is_made(
    cache: SessionCache, session: WarmSession
) -> None:
    images = Signature((TensorSpec("image", "FP32", (-1, 3, 4096, 4096)),), ())
    version = warmed(WarmUp(row_count=65_536), signature=images)
    with pytest.raises(FailedPrecondition, match=r"of 65536 rows takes 13,194,139,533,312 bytes.*fewer rows") as caught:
        cache.acquire(version, 60)
    assert caught.value.reason == "WARM_UP_FAILED"
    assert session.runs == []
